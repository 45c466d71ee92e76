"""Examples of planted features: the right turns, each text once, nothing that is not the feature's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import index_support as support
import numpy as np
import pytest

from turnscope.features.examples import examples
from turnscope.features.store import FeatureIndex


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> support.World:
    """Features 5 and 6 fire together but for some turns, on which 6 fires alone; one text is said ten times."""
    chats = support.planted(120, seed=7)
    for i, chat in enumerate(chats):
        chat.codes_F[5] = 1 + (i % 97) / 97 if i % 3 == 0 else 0
        chat.codes_F[6] = 1 + (i % 89) / 89 if i % 3 == 0 or i % 20 == 1 else 0
    said_often = [i for i in range(len(chats)) if i % 3 == 0][:10]
    chats = [
        support.Chat(**{**vars(chat), "text": "the same", "codes_F": _with(chat.codes_F, 5, 5 + i / 99)})
        if i in said_often
        else chat
        for i, chat in enumerate(chats)
    ]
    return support.make_world(tmp_path_factory.mktemp("examples"), chats)


def _with(codes_F: np.ndarray, feature: int, value: float) -> np.ndarray:
    codes_F[feature] = value
    return codes_F


def test_top_turns_are_the_strongest_each_text_once(world: support.World) -> None:
    found = [e for e in examples(world.index, 5, top=8) if e.kind == "top"]
    best: dict[str, float] = {}
    for chat in world.chats:
        best[chat.text] = max(best.get(chat.text, 0), float(chat.codes_F[5]))
    assert [e.value for e in found] == sorted(best.values(), reverse=True)[:8]
    assert found[0].percentile == 1
    assert world.chats[found[0].row].text == "the same"


def test_no_text_and_no_turn_comes_twice(world: support.World) -> None:
    found = examples(world.index, 5, top=5, per_decile=3, random=20, near_misses=10)
    texts = Counter(world.chats[e.row].text for e in found)
    assert max(texts.values()) == 1
    assert Counter(e.kind for e in found).keys() == {"top", "decile", "random", "near_miss"}


def test_deciles_are_tenths_of_the_positive_turns(world: support.World) -> None:
    codes = world.codes_NF[:, 5]
    active = np.sort(codes[codes > 0])
    found = [e for e in examples(world.index, 5, top=0, per_decile=2) if e.kind == "decile"]
    assert Counter(e.decile for e in found).keys() >= set(range(8))
    for e in found:
        low, high = np.quantile(active, [e.decile / 10, (e.decile + 1) / 10])
        assert low - 1e-3 <= e.value <= high + 1e-3
        assert e.percentile == pytest.approx(np.mean(active <= e.value))


def test_random_positives_fire_and_are_spread(world: support.World) -> None:
    found = examples(world.index, 5, top=0, per_decile=0, random=60, near_misses=0)
    codes = world.codes_NF[:, 5]
    assert all(codes[e.row] == e.value > 0 for e in found)
    assert abs(np.mean([e.percentile for e in found]) - 0.5) < 0.15


def test_near_misses_are_silent_turns_on_which_the_partner_fires(world: support.World) -> None:
    missed = [e for e in examples(world.index, 5, near_misses=5) if e.kind == "near_miss"]
    assert len(missed) == 5
    for e in missed:
        assert world.codes_NF[e.row, 5] == 0
        assert world.codes_NF[e.row, 6] > 0
        assert 6 in e.partners


def test_draws_follow_the_seed_and_splits_are_kept(world: support.World) -> None:
    index: FeatureIndex = world.index
    assert examples(index, 3, seed=1) == examples(index, 3, seed=1)
    assert examples(index, 3, seed=1) != examples(index, 3, seed=2)
    splits = np.array(index.turns["split"].to_pylist())
    assert {splits[e.row] for e in examples(index, 0, splits=("eval",))} == {"eval"}


def test_a_dead_feature_has_no_examples(world: support.World) -> None:
    assert [e for e in examples(world.index, support.F - 1) if e.kind != "near_miss"] == []


def test_turns_of_outlying_norm_are_no_examples(tmp_path: Path) -> None:
    chats = support.planted(40, seed=8)
    for chat in chats[:4]:
        chat.codes_F[2] = 1e5
    index = support.make_world(tmp_path, chats).index
    assert index.turns["outlier"].to_numpy().sum() > 0
    assert max(e.value for e in examples(index, 2)) < 1e5
