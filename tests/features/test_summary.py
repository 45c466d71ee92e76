"""What each feature does on a set of turns, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from turnscope.features import TopTurn, pick, summarise

CODES_NF = np.array([[1.0, 0], [3, 0], [3, 0], [2, 4], [0, 0]], np.float32)
TEXTS = ["one", "three", "three", "two", "none"]


def test_summaries_by_hand() -> None:
    first, second = summarise(CODES_NF, TEXTS, [0, 1])
    assert (first.feature, first.density, first.maximum) == (0, 0.8, 3.0)
    assert first.share == pytest.approx(23 / 39)
    assert first.top == (TopTurn(1, 3.0), TopTurn(3, 2.0), TopTurn(0, 1.0))
    assert second.top == (TopTurn(3, 4.0),)


def test_no_text_stands_twice_and_silent_turns_never() -> None:
    codes_NF = np.array([[5.0]] * 30 + [[4.0], [0.0]], np.float32)
    (summary,) = summarise(codes_NF, ["same"] * 30 + ["other", "silent"], [0], top=3)
    assert [turn.row for turn in summary.top] == [0, 30]


def test_only_so_many_turns_are_named() -> None:
    (summary,) = summarise(np.arange(1, 21, dtype=np.float32)[:, None], [str(i) for i in range(20)], [0], top=4)
    assert [turn.row for turn in summary.top] == [19, 18, 17, 16]


def test_a_silent_feature_and_no_turns() -> None:
    (silent,) = summarise(np.zeros((3, 1), np.float32), ["a", "b", "c"], [0])
    assert silent == (0, 0.0, 0.0, 0.0, ())
    (none,) = summarise(np.zeros((0, 1), np.float32), [], [0])
    assert none == (0, 0.0, 0.0, 0.0, ())


def test_pick_leaves_out_rare_and_dense_features() -> None:
    codes_NF = np.zeros((1000, 5), np.float32)
    codes_NF[:2, 0] = 100  # 0.2 %: rare
    codes_NF[:500, 1] = 100  # 50 %: dense
    codes_NF[:100, 2] = 1
    codes_NF[:50, 3] = 2
    assert pick(codes_NF, 9) == [3, 2]
    assert pick(codes_NF, 1) == [3]
    assert pick(codes_NF, 9, low=0.0, high=1.0) == [1, 0, 3, 2]
    assert pick(np.zeros((0, 5), np.float32), 9) == []
