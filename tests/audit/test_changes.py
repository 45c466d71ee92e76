"""Changes between two readings: against scipy's paired tests where these apply, and against planted truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from turnscope.audit.changes import Pairs, Tally, intervals, judged, most_changed, switched


def pairs_of(before_NF: np.ndarray, after_NF: np.ndarray, conversation_N: np.ndarray, start: int = 0) -> Pairs:
    rows, features = np.nonzero((before_NF != 0) | (after_NF != 0))
    turns = np.arange(start, start + len(conversation_N))
    return Pairs(turns, conversation_N, rows, features, before_NF[rows, features], after_NF[rows, features])


def in_blocks(before_NF: np.ndarray, after_NF: np.ndarray, conversation_N: np.ndarray, size: int) -> Iterator[Pairs]:
    for start in range(0, len(conversation_N), size):
        at = slice(start, start + size)
        yield pairs_of(before_NF[at], after_NF[at], conversation_N[at], start)


def codes(rng: np.random.Generator, n: int, f: int = 6) -> np.ndarray:
    return rng.gamma(2.0, 1.0, (n, f)) * (rng.random((n, f)) < 0.5)


def test_without_a_margin_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, after = codes(rng, 80), codes(rng, 80) + 0.2
    tally = Tally(6)
    tally.add(pairs_of(before, after, np.arange(80)))
    found = tally.result(0.0, 10)
    expected = stats.ttest_rel(after, before)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.change / found.error, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(expected.pvalue), rtol=1e-9)


def test_turns_of_a_conversation_count_as_one() -> None:
    rng = np.random.default_rng(1)
    before, after = codes(rng, 120), codes(rng, 120)
    conversation = np.repeat(np.arange(30), 4)
    tally = Tally(6)
    tally.add(pairs_of(before, after, conversation))
    of_conversations = (after - before).reshape(30, 4, 6).mean(axis=1)
    expected = stats.ttest_1samp(of_conversations, 0.0)
    np.testing.assert_allclose(tally.result(0.0, 10).p, expected.pvalue, rtol=1e-9)


def test_blocks_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(2)
    before, after, conversation = codes(rng, 120), codes(rng, 120), np.repeat(np.arange(30), 4)
    whole, parts = Tally(6), Tally(6)
    whole.add(pairs_of(before, after, conversation))
    for block in in_blocks(before, after, conversation, 40):
        parts.add(block)
    for one, other in zip(whole.result(0.01, 10)[:11], parts.result(0.01, 10)[:11], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_a_change_of_the_margin_is_seldom_claimed_and_one_beyond_it_is() -> None:
    """At the edge of the hypothesis one side is tested, so its level is 5 %; inside it is lower."""
    rng = np.random.default_rng(3)
    edge, inside, beyond = [], [], []
    for _ in range(150):
        before = rng.gamma(2.0, 1.0, (200, 1))
        # a typical value of 2 to 2 + change; the margin of 0.1 of it
        for change, found in ((0.2 / 0.9, edge), (0.05, inside), (0.6, beyond)):
            # the mean of both readings is 2 + change / 2
            exact = 0.2 / (1 - 0.05) if found is edge else change
            after = before + exact + rng.normal(0, 0.5, before.shape)
            tally = Tally(1)
            tally.add(pairs_of(before, after, np.arange(200)))
            found.append(tally.result(0.1, 10).p[0])
    assert 0.02 < np.mean(np.array(edge) < 0.05) < 0.09
    assert np.mean(np.array(inside) < 0.05) == 0
    assert np.mean(np.array(beyond) < 0.001) == 1


def test_when_nothing_differs_nothing_is_claimed() -> None:
    """Readings exchanged by a coin for each conversation: the cleanest null there is."""
    rng = np.random.default_rng(4)
    before, after, conversation = codes(rng, 800, 40), codes(rng, 800, 40) + 0.5, np.repeat(np.arange(200), 4)
    claims, small = 0, 0
    for _ in range(50):
        coin = rng.random(200) < 0.5
        tally = Tally(40)
        tally.add(pairs_of(before, after, conversation).swap(coin[conversation]))
        found = tally.result(0.0, 10)
        claims += int((found.q <= 0.05).any())
        small += int((found.p <= 0.05).sum())
    assert claims <= 6  # 50 draws at a level of 5 %: 7 or more in 4 of 1000
    assert 0.03 < small / 2000 < 0.07


def test_rare_features_are_withheld() -> None:
    before, after = np.zeros((40, 3)), np.zeros((40, 3))
    after[:5, 0] = 9.0
    after[:, 1] = 1.0 + np.arange(40)
    tally = Tally(3)
    tally.add(pairs_of(before, after, np.arange(40)))
    found = tally.result(0.01, 10)
    assert list(found.withheld) == [
        "active in fewer than 10 conversations", "", "active on no turn in either reading",
    ]  # fmt: skip
    assert np.isnan(found.p[[0, 2]]).all()
    assert found.p[1] < 1e-6


def test_intervals_agree_with_scipy() -> None:
    rng = np.random.default_rng(5)
    before, after, conversation = codes(rng, 600, 3), codes(rng, 600, 3) + 0.3, np.repeat(np.arange(150), 4)
    low, high = intervals(in_blocks(before, after, conversation, 100), np.array([2, 0]), 4000, 0)
    means = (after - before).reshape(150, 4, 3).mean(axis=1)
    for k, feature in enumerate((2, 0)):
        drawn = stats.bootstrap((means[:, feature],), np.mean, n_resamples=4000, method="percentile", rng=0)
        expected = drawn.confidence_interval
        width = expected.high - expected.low
        assert low[k] == pytest.approx(expected.low, abs=0.08 * width)
        assert high[k] == pytest.approx(expected.high, abs=0.08 * width)


def test_switches_and_most_changed() -> None:
    before, after = np.zeros((6, 2)), np.zeros((6, 2))
    before[:, 0], after[:, 0] = 2.0, [2.0, 2.5, 4.5, 0.5, 6.0, 0.0]
    after[5, 1] = 3.0
    blocks = list(in_blocks(before, after, np.arange(6), 3))
    tally = Tally(2)
    for block in switched(blocks, np.array([1.6, 2.9]), 1.0):
        tally.add(block)
    found = tally.result(0.0, 2)
    np.testing.assert_allclose(found.mean_after * 6, [2, 1])  # came on
    np.testing.assert_allclose(found.mean_before * 6, [1, 0])  # went out
    np.testing.assert_allclose(found.change * 6, [1, 1])
    assert found.n_turns == 6
    up, other = most_changed(blocks, np.array([0, 1]), np.array([1.0, 1.0]), 2)
    assert [(turn.turn, turn.after) for turn in up] == [(4, 6.0), (2, 4.5)]
    assert [turn.turn for turn in other] == [5]
    (down,) = most_changed(blocks, np.array([0]), np.array([-1.0]), 9)
    assert [turn.turn for turn in down] == [5, 3]


def test_a_rare_behaviour_is_told_from_a_drift_that_moves_the_mean_more() -> None:
    rng = np.random.default_rng(6)
    before = rng.gamma(4.0, 0.5, (2000, 2)) * (rng.random((2000, 2)) < 0.5)
    after = before.copy()
    after[:, 0] += 0.5 * (before[:, 0] > 0)  # drift: a quarter of the typical value wherever it is active
    after[rng.random(2000) < 0.03, 1] = 6.0  # comes on in 3 % of turns
    pairs, all_values, switches = pairs_of(before, after, np.arange(2000) // 4), Tally(2), Tally(2)
    all_values.add(pairs)
    changes = all_values.result(0.01, 10)
    assert changes.effect[0] > changes.effect[1]
    for block in switched([pairs], changes.typical, 1.0):
        switches.add(block)
    p, q = judged(switches.result(0.01, 10), changes, 10)
    assert p[0] == 1.0
    assert q[1] < 1e-4
