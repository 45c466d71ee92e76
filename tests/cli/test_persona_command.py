"""`turnscope persona`: mistakes are told before a model is loaded; requests of the files backend are written."""

from __future__ import annotations

import json
from pathlib import Path

import cli_support
import pytest

ARGUMENTS = ["--model", "nowhere", "--sae", "nowhere", "--out"]


@pytest.mark.parametrize(
    ("trait", "more", "said"),
    [
        ("sycophany", [], "did you mean sycophancy?"),
        ("demo:pirat", [], "did you mean demo:pirate?"),
        ("mine.toml", [], "no such trait file"),
        ("refusal", ["--judge", "parser"], "the demo's parser does not know refusal"),
        ("deception", ["--judge", "lexical"], "words alone do not tell it"),
        ("refusal", ["--judge", "llm:"], "no such judge"),
        ("refusal", ["--rollouts", "0"], "rollouts"),
        ("refusal", ["--temperature", "-1"], "temperature"),
    ],
)
def test_mistakes(turnscope: cli_support.Command, tmp_path: Path, trait: str, more: list[str], said: str) -> None:
    ran = turnscope("persona", trait, *ARGUMENTS, str(tmp_path / "out"), *more)
    assert ran.code in (2, 3)
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()


def test_requests_for_prompts_are_written_to_a_folder(turnscope: cli_support.Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "grumpy"\ndefinition = "It grumbles."\n')
    arguments = [*ARGUMENTS, str(tmp_path / "out"), "--llm", "some-model", "--backend", "files"]
    ran = turnscope("persona", str(tmp_path / "mine.toml"), *arguments)
    assert ran.code not in (0, 1)
    assert "wait for an answer" in ran.err
    lines = (tmp_path / "out.llm" / "requests.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert "It grumbles." in json.dumps(json.loads(lines[0]))
