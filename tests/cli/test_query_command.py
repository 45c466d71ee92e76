"""`turnscope query` and `turnscope search` on a small index written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cli_support
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features" / "query"))  # under any import mode of pytest
import query_support


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return query_support.write_index(tmp_path_factory.mktemp("run")).artifact.path


def test_a_table_for_people(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("query", index, "F0 > 0.5 & topic = keys")
    assert ran.code == 0
    heading, *rows = ran.out.splitlines()
    assert heading.split() == ["conversation_id", "turn", "role", "split", "tokens", "F0", "label.topic", "text"]
    assert [row.split()[:3] for row in rows] == [["calm", "2", "assistant"], ["calm", "4", "assistant"]]
    assert ran.err.splitlines()[-1] == "2 of 8 turns (25.00%), in 1 of 2 conversations"
    # nothing of a chat steers the terminal
    assert "\\u001b[2J\\u202e" in ran.out
    assert "\x1b" not in ran.out


def test_lines_for_programs(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("query", index, "F2", "--format", "jsonl", "--context", 1, "--by", '"greetings"', "--limit", 1)
    assert ran.out.isascii()
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [(row["hit"], row["offset"], row["conversation_id"], row["turn"]) for row in rows] == [
        (0, -1, "open", 0), (0, 0, "open", 1), (0, 1, "open", 2)
    ]  # fmt: skip
    assert rows[1]["F2"] == 0.25
    assert "shown 1" in ran.err


def test_a_file_for_tables(turnscope: cli_support.Command, index: Path, tmp_path: Path) -> None:
    for name in ("found.parquet", "found.jsonl"):
        ran = turnscope("query", index, "F1 | next(F1)", "--out", tmp_path / name)
        assert (ran.code, ran.out) == (0, "")
    rows = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert [row["text"] for row in rows] == [
        "May I copy the key?", "I cannot help with that.", "Hello", "Hello, friend", "Bye", "Bye"
    ]  # fmt: skip
    assert rows == [json.loads(line) for line in (tmp_path / "found.jsonl").read_text("ascii").splitlines()]


def test_how_many(turnscope: cli_support.Command, index: Path) -> None:
    assert turnscope("query", index, "!F0", "--count").out == "6 of 8 turns (75.00%), in 2 of 2 conversations\n"
    ran = turnscope("query", index, "not F0", "--count", "--format", "jsonl")
    assert json.loads(ran.out) == {
        "query": "!F0", "turns": 6, "of_turns": 8, "conversations": 2, "of_conversations": 2
    }  # fmt: skip
    ran = turnscope("query", index, "F0", "--count", "--out", "found.jsonl")
    assert ran.code == 2
    assert "--out" in ran.err


@pytest.mark.parametrize("name", ["F9x", "role", "F-1"])
def test_an_order_by_what_is_no_feature(turnscope: cli_support.Command, index: Path, name: str) -> None:
    ran = turnscope("query", index, "F0", "--by", name)
    assert (ran.code, "not the name of a feature" in ran.err) == (2, True), ran.err


def test_nothing_found_says_so(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("query", index, "role = asistant")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [
        'note: no turn has role = "asistant"; did you mean "assistant"?',
        "0 of 8 turns (0.00%), in 0 of 2 conversations",
    ]


def test_a_mistake_is_pointed_at(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("query", index, "F0 & rol = user")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        'turnscope: no field or label "rol"',
        "  where: column 6",
        "    F0 & rol = user",
        "         ^^^",
        '  fix: did you mean "role"?',
    ]


def test_a_query_may_begin_with_a_hyphen(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("query", index, "-1 < F0")
    assert ran.code == 2
    assert "a comparison begins with a feature" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("F0", "--format", "parquet"), 2, "--out"),
        (("F0", "--out", "x.csv"), 2, ".parquet"),
        (("F0", "--limit", "-1"), 2, "negative"),
        (("F0", "--context", "1000"), 2, "context"),
        (("F0", "--by", "F0 > 3"), 2, "name of a feature"),
        (("F0", "--transcripts", "nowhere"), 3, "nowhere"),
        (("F0", "--out", "/dev/null/x.jsonl"), 3, "/dev/null/x.jsonl"),
    ],
)
def test_wrong_settings(
    turnscope: cli_support.Command, index: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = turnscope("query", index, *arguments)
    assert ran.code == code
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_features_by_their_words(turnscope: cli_support.Command, index: Path) -> None:
    ran = turnscope("search", index, "refusals")
    assert {line.split()[0] for line in ran.out.splitlines()[1:]} == {"F0", "F3"}
    assert ran.err == "2 of 4 features\n"
    ran = turnscope("search", index, "keys", "--format", "jsonl")
    found = json.loads(ran.out)
    assert (found["feature"], found["n_turns"], found["explanation"]) == (2, 2, "\x1b[31m keys")
    assert ran.out.isascii()
    assert "\x1b" not in turnscope("search", index, "keys").out
    assert turnscope("search", index, "zebra").err == "0 of 4 features\n"
    assert turnscope("search", index, "?!").code == 2
    assert turnscope("search", index, "keys", "--limit", 0).code == 2
