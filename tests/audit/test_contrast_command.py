"""`turnscope contrast` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audit_support import write_index

from turnscope.cli.main import main

CHATS, EACH = 80, 5


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    n = CHATS * EACH
    sad_N = rng.random(n) < 0.4
    values = (rng.random((n, 12)) < 0.2) * rng.gamma(2, 1, (n, 12))
    values[:, 3] = np.where(sad_N, rng.random(n) < 0.9, rng.random(n) < 0.03) * 2.0
    labels = [{"mood": "sad" if sad else "calm"} for sad in sad_N.tolist()]
    folder = tmp_path_factory.mktemp("run") / "features" / "turn"
    return write_index(folder, values, np.repeat(np.arange(CHATS), EACH), labels=labels).artifact.path


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    try:
        main(["contrast", *map(str, words), "--n-boot", "100"])
    except SystemExit as ended:
        if ended.code:
            raise
    got = capsys.readouterr()
    return got.out, got.err


def test_the_table_begins_with_the_verdict(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, index, "--a", "mood = sad", "--top", "3")
    assert out.startswith(
        "One feature separates A from B on turns it was not chosen on; first F3 (up in A), AUROC held"
    )
    for words in ("more in A", "more in B", "against F3 (more in A)", "position", "fires, in B"):
        assert words in out
    assert "note" not in err


def test_json_and_lines_are_strict(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = told(capsys, index, "--a", "mood = sad", "--format", "json")
    report = json.loads(out, parse_constant=pytest.fail)
    assert report["found"] == [3]
    out, err = told(capsys, index, "--a", "mood = sad", "--format", "jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [row["feature"] for row in rows] == [row["feature"] for row in report["features"]]
    assert "separates A from B" in err


def test_the_artifact_is_where_it_was_asked_for(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "contrasts" / "mood"
    _, err = told(capsys, index, "--a", "mood = sad", "--out", out)
    assert f"kept in {out}" in err
    assert json.loads((out / "contrast.json").read_bytes())["found"] == [3]
    assert (out / "features.parquet").is_file()
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--a", "mod = sad"], 2, 'did you mean "mood"'),
        (["--a", "F77"], 2, "there is no feature F77"),
        (["--a", "mood = sad", "--b", "mood = sad"], 2, "A and B are the same turns"),
        (["--a", "mood = angry"], 4, "no turn satisfies the query for A"),
        (["--a", "mood = sad", "--choose-on", "eval"], 2, "no split in common"),
        (["--a", "mood = sad", "--confounds", "moood"], 2, 'did you mean "mood"'),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    index: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        told(capsys, index, *words)
    assert ended.value.code == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_few_conversations_withhold_and_say_so(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = told(capsys, index, "--a", 'conversation = "chat-1"')
    assert out.startswith("No figures: set A has only 1 conversations to choose on, 5 needed.")
