"""Which turns have a trait, which have not, and which say nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluation_support as support
import numpy as np
import pytest

from turnscope.artifacts import DataError
from turnscope.evaluation.config import Trait
from turnscope.evaluation.labels import TurnTable, find_traits, pair_numbers, read_turns, trait_labels
from turnscope.harvest import open_activations
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.store import open_transcripts


def table(labels: list[dict[str, Any]], wholes: list[dict[str, Any]] | None = None, split: str = "eval") -> TurnTable:
    n = len(labels)
    return TurnTable(labels, wholes or [{}] * n, [""] * n, ["user"] * n, np.arange(n), np.array([split] * n))


@pytest.mark.parametrize(
    ("values", "value", "eligible", "positive"),
    [
        (["a", "b", None, "a"], "a", [1, 1, 0, 1], [1, 0, 0, 1]),
        ([["a", "b"], [], ["c"], None], "a", [1, 1, 1, 0], [1, 0, 0, 0]),
        ([True, False, None], True, [1, 1, 0], [1, 0, 0]),
        (["aa"], "a", [1], [0]),
    ],
    ids=["text", "list", "flag", "no part of a word"],
)
def test_labels_of_every_type(values: list[Any], value: Any, eligible: list[int], positive: list[int]) -> None:
    found = trait_labels(table([{"x": v} for v in values]), Trait(name="t", family="f", key="x", value=value))
    assert [side.tolist() for side in found] == [[bool(v) for v in eligible], [bool(v) for v in positive]]


def test_a_turn_without_the_key_is_not_eligible() -> None:
    eligible, positive = trait_labels(table([{}, {"x": "a"}]), Trait(name="t", family="f", key="x", value="a"))
    assert (eligible.tolist(), positive.tolist()) == ([False, True], [False, True])


def test_other_labels_can_narrow_what_is_eligible() -> None:
    turns = table([{"x": "a", "y": "in"}, {"x": "a", "y": "out"}, {"x": "b", "y": "in"}, {"x": "a"}])
    narrow = Trait(name="t", family="f", key="x", value="a", within={"y": "in"})
    eligible, positive = trait_labels(turns, narrow)
    assert (eligible.tolist(), positive.tolist()) == ([True, False, True, False], [True, False, False, False])


def test_pairs_and_their_absence_decide_what_is_eligible() -> None:
    turns = table([{"x": "a"}] * 4, [{"p": "1"}, {"p": "1"}, {}, {"q": "1"}])
    inside = Trait(name="t", family="f", key="x", value="a", pair="p")
    outside = Trait(name="t", family="f", key="x", value="a", without="p")
    assert trait_labels(turns, inside)[0].tolist() == [True, True, False, False]
    assert trait_labels(turns, outside)[0].tolist() == [False, False, True, True]
    numbers = pair_numbers(turns, inside)
    assert numbers is not None
    assert numbers[0] == numbers[1] >= 0
    assert numbers[2:].tolist() == [-1, -1]
    assert pair_numbers(turns, outside) is None


def test_traits_are_found_in_eval_alone() -> None:
    labels = [{"x": "a"}, {"x": "a", "y": ["b", "b"]}, {"y": ["b"], "n": 3, "flag": True, "off": False}]
    assert {t.name: (t.key, t.value) for t in find_traits(table(labels), 1)} == {
        "x:a": ("x", "a"),
        "y:b": ("y", "b"),
        "flag": ("flag", True),
    }
    assert [t.name for t in find_traits(table(labels), 2)] == ["x:a", "y:b"]
    assert find_traits(table(labels, split="train"), 1) == ()


def test_rows_are_joined_with_their_turns(world: support.World) -> None:
    store = open_activations(world.activations[support.SITE])
    turns = read_turns(open_transcripts(world.transcripts), store)
    said = {(c.id, t.index): t.text for c in support.conversations(150, 120) for t in c.turns}
    keys = zip(store.turns["conversation_id"].to_pylist(), store.turns["turn"].to_pylist(), strict=True)
    assert turns.texts == [said[key] for key in keys]


def test_other_transcripts_are_refused(world: support.World, tmp_path: Path) -> None:
    import_conversations(support.conversations(5, 0), tmp_path / "few", ImportConfig(out=tmp_path / "few"))
    with pytest.raises(DataError, match="stored turns are not in these transcripts"):
        read_turns(open_transcripts(tmp_path / "few"), open_activations(world.activations[support.SITE]))


def test_labels_that_name_nothing_are_passed_over() -> None:
    odd = [{"x": [{"score": 1}, ["a"], "a", "a", 1, True]}, {"x": {"deep": ["a"]}}, {"x": [{"score": 1}]}, {"x": "a"}]
    assert [(t.value, t.name) for t in find_traits(table(odd), 1)] == [("a", "x:a"), (True, "x")]
    eligible, positive = trait_labels(table(odd), Trait(name="t", family="f", key="x", value="a"))
    assert (eligible.tolist(), positive.tolist()) == ([True] * 4, [True, False, False, True])
