"""The demo's corpus as conversations: pairs that differ in one digit only, labels that survive a file."""

from __future__ import annotations

import json
from pathlib import Path

from turnscope.demo import puzzles
from turnscope.demo.corpus import PAIR, TRAITS, conversations, write_jsonl


def test_pairs_differ_in_the_forbidden_digit_and_nothing_else() -> None:
    made = list(conversations(3, 0, 50))
    assert len(made) == 100
    for right, wrong in zip(made[::2], made[1::2], strict=True):
        assert right.labels[PAIR] == wrong.labels[PAIR]
        assert right.group == wrong.group
        different = [(a.text, b.text) for a, b in zip(right.turns, wrong.turns, strict=True) if a.text != b.text]
        assert len(different) == 1, "only the question"
        changed = [(x, y) for x, y in zip(*different[0], strict=True) if x != y]
        assert len(changed) == 1
        assert "".join(changed[0]).isdigit()
        answers = [c.turns[-1].labels["answer"] for c in (right, wrong)]
        assert answers == ["right", "wrong"]


def test_pairs_are_right_and_wrong_by_arithmetic() -> None:
    for made in conversations(4, 0, 30):
        bound, digit, value = made.turns[-1].labels["puzzle"]
        assert puzzles.is_unseen(bound, digit)
        correct = str(digit) not in str(value) and all(str(digit) in str(n) for n in range(value + 1, bound))
        assert correct == (made.turns[-1].labels["answer"] == "right")


def test_a_written_file_keeps_text_and_labels(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chats.jsonl", 5, 7)
    records = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text("utf-8").splitlines()]
    made = list(conversations(5, 7, 0))
    assert [r["id"] for r in records] == [c.id for c in made]
    for record, conversation in zip(records, made, strict=True):
        assert [m["content"] for m in record["messages"]] == [t.text for t in conversation.turns]
        assert record["labels"]["turn_labels"] == [dict(t.labels) for t in conversation.turns]


def test_traits_cover_the_eight_families() -> None:
    families = {trait.family for trait in TRAITS}
    assert families == {"topic", "language", "persona", "tone", "intent", "refusal", "form", "emotion", "answer"}
    assert len({trait.name for trait in TRAITS}) == len(TRAITS) >= 40
