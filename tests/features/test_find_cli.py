"""`turnscope find`, `label` and `search` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import index_support as support
import numpy as np
import pytest

from turnscope.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def rows(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_turns_and_queries(turn_world: support.World, capsys: pytest.CaptureFixture[str]) -> None:
    path = turn_world.index.artifact.path
    chats = [turn_world.chats[i] for i in (5, 9)]
    names = [f"{chat.conversation}:{chat.turn}" for chat in chats]
    code, out, err = run(capsys, "find", path, "--turn", *names, "--by", "value", "--limit", 3, "--format", "jsonl")  # type: ignore[arg-type]
    assert code == 0, err
    best = np.maximum(chats[0].codes_F, chats[1].codes_F)
    assert [row["feature"] for row in rows(out)] == np.argsort(-best)[:3].tolist()
    assert {row["turn"] for row in rows(out)} <= set(names)
    code, out, err = run(capsys, "find", path, "--positive", "F5", "--negative", "!F5", "--format", "jsonl")
    assert (code, rows(out)[0]["feature"], rows(out)[0]["auroc"]) == (0, 5, 1.0), err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "one of the two"),
        (("--turn", "chat-0:1", "--positive", "F1"), 2, "one of the two"),
        (("--topic", "law", "--positive", "F1"), 2, "both sets"),
        (("--negative", "F1"), 2, "alone"),
        (("--topic", "law"), 2, "--llm"),
        (("--turn", "chat-0"), 2, "CONVERSATION:TURN"),
        (("--turn", "chat-0:77"), 2, "turn 77"),
        (("--turn", "chatt-0:0"), 2, "did you mean"),
        (("--positive", "F1 &"), 2, "column"),
        (("--positive", "F1 > 1e9"), 2, "no turn satisfies"),
        (("--positive", "none.jsonl"), 3, "none.jsonl"),
        (("--positive", "F1", "--least", "80"), 2, "share"),
        (("--like", "x", "--limit", "0"), 2, "limit"),
        (("--like", " "), 2, "empty text"),
        (("--like", "words"), 2, "--activations"),
    ],
)
def test_mistakes(
    turn_world: support.World, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    got, _, err = run(capsys, "find", turn_world.index.artifact.path, *words)
    assert (got, said in err) == (code, True), err


def test_a_slip_in_the_second_set_is_told_before_a_model_is_needed(
    turn_world: support.World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("I cannot help with that.")
    sets = ("--positive", tmp_path / "words.txt", "--negative", "rol = user")
    code, _, err = run(capsys, "find", turn_world.index.artifact.path, *sets)
    assert (code, "did you mean" in err) == (2, True), err


def test_a_topic_with_files(turn_world: support.World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--topic", "law", "--llm", "any", "--backend", "files", "--llm-folder", tmp_path / "io", "--table",
             tmp_path / "t.sqlite")  # fmt: skip
    code, _, err = run(capsys, "find", turn_world.index.artifact.path, *words)
    assert (code, "answers.jsonl" in err) == (8, True)
    (request,) = rows((tmp_path / "io" / "requests.jsonl").read_text())
    text = json.dumps({"positive": ["only one"], "negative": ["a", "b"]})
    answers = tmp_path / "io" / "answers.jsonl"
    answers.write_text(json.dumps({"custom_id": request["custom_id"], "text": text}) + "\n")
    code, _, err = run(capsys, "find", turn_world.index.artifact.path, *words)
    assert (code, "1 positive" in err) == (4, True)


def test_label_then_search(turn_world: support.World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = support.make_world(tmp_path, support.planted(12))
    path, file = world.index.artifact.path, tmp_path / "said.csv"
    code, _, err = run(capsys, "search", path, "law")
    assert (code, "turnscope label" in err) == (2, True)
    file.write_text("feature,text\nF3,the law\n", "utf-8")
    assert run(capsys, "label", path, file)[0] == 0
    code, _, err = run(capsys, "label", path, file)
    assert (code, "--merge" in err) == (2, True)
    file.write_text("feature,text\nF4,laws\n", "utf-8")
    assert run(capsys, "label", path, file, "--merge", "--source", "me")[0] == 0
    code, out, _ = run(capsys, "search", path, "law", "--format", "jsonl")
    assert {(row["feature"], row["source"]) for row in rows(out)} == {(3, "said"), (4, "me")}
    file.write_text("feature,text\n16,beyond\n", "utf-8")
    code, _, err = run(capsys, "label", path, file, "--replace")
    assert (code, "none of the 16" in err, "F0 to F15" in err) == (2, True, True)
    assert len(world.index.explanations()) == 2
