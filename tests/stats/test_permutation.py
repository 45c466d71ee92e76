"""Shuffled controls: centred on one half whatever scores and labels owe to position or conversation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.metrics import roc_auc_score

from turnscope.artifacts import DataError
from turnscope.stats import auroc, equivalence_90, permute_labels, permuted_aurocs


def test_blocks_move_whole_between_equal_conversations() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    clusters = np.repeat([0, 1, 2], 4)
    turns = {tuple(np.roll(block, k)) for block in labels.reshape(3, 4) for k in range(4)}
    for seed in range(30):
        shuffled = permute_labels(labels, clusters, np.random.default_rng(seed)).reshape(3, 4)
        assert shuffled.sum() == labels.sum()
        assert {tuple(block) for block in shuffled} <= turns


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.integers(0, 99))
def test_each_conversation_takes_a_cycling_stretch_of_one_donor(rows: list[tuple[int, bool]], seed: int) -> None:
    clusters, labels = (np.array(column) for column in zip(*rows, strict=True))
    shuffled = permute_labels(labels, clusters, np.random.default_rng(seed))
    donors = [labels[clusters == c] for c in np.unique(clusters)]
    for c in np.unique(clusters):
        mine = shuffled[clusters == c]
        stretches = [np.resize(np.roll(donor, -k), len(mine)) for donor in donors for k in range(len(donor))]
        assert any((mine == stretch).all() for stretch in stretches)


def unequal(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conversation of each row, and its position and size, in shuffled row order only between conversations."""
    sizes = rng.integers(1, 12, 60)
    clusters = np.repeat(rng.permutation(60), sizes)
    positions = np.concatenate([np.arange(size) for size in sizes])
    return clusters, positions, np.repeat(sizes, sizes)


@pytest.mark.parametrize("case", ["noise", "shared by conversation", "position", "size of conversation"])
def test_centred_on_one_half(case: str) -> None:
    rng = np.random.default_rng(11)
    means = []
    for seed in range(60):
        clusters, positions, sizes = unequal(rng)
        labels = rng.random(60)[clusters] < 0.4
        if case == "noise":
            scores = rng.normal(size=len(clusters))
            labels = rng.random(len(clusters)) < 0.3
        elif case == "shared by conversation":
            scores = rng.normal(size=60)[clusters] + labels
        elif case == "position":  # as where roles alternate: both follow it closely, and the true AUROC is near 1
            labels = positions % 2 == 1
            scores = labels + 0.1 * rng.normal(size=len(clusters))
        else:
            labels = sizes > 6
            scores = sizes + 0.1 * rng.normal(size=len(clusters))
        means.append(permuted_aurocs(scores, labels, clusters, n=20, seed=seed).mean())
    # One mean per data set: independent, so an ordinary t test applies.
    assert ttest_1samp(means, 0.5).pvalue > 0.001
    assert abs(np.mean(means) - 0.5) < 0.01


def test_one_long_conversation_among_few_pulls_the_control_below_one_half() -> None:
    # By hand: the run of 100 positives goes to the long conversation in one draw of three (AUROC 1), else to one of
    # the two single rows (it ties with the other and loses to the hundred: 0.5 / 101).
    clusters = np.array([0] * 100 + [1, 2])
    long_N = (clusters == 0).astype(float)
    mean = permuted_aurocs(long_N, long_N, clusters, n=3000, seed=0).mean()
    assert mean == pytest.approx((1 + 2 * 0.5 / 101) / 3, abs=0.03)


def test_true_signal_stands_out() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(100), 6)
    labels = rng.random(600) < 0.3
    scores = labels + 0.3 * rng.normal(size=600)
    shuffled = permuted_aurocs(scores, labels, clusters, n=30, seed=0)
    assert auroc(scores, labels) > 0.95
    assert shuffled.max() < 0.6
    assert equivalence_90(shuffled).holds


def test_values_are_aurocs_of_permuted_labels() -> None:
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 20, 200)
    labels, scores = rng.random(200) < 0.4, np.round(rng.normal(size=200), 1)
    draws = np.random.default_rng(9)
    expected = [roc_auc_score(permute_labels(labels, clusters, draws), scores) for _ in range(5)]
    np.testing.assert_allclose(permuted_aurocs(scores, labels, clusters, n=5, seed=9), expected, atol=1e-14)


@pytest.mark.parametrize("label", [0, 1])
def test_equal_labels_are_refused(label: int) -> None:
    with pytest.raises(DataError, match="cannot be permuted"):
        permuted_aurocs(np.arange(10), [label] * 10, np.arange(10))


def test_equivalence_against_the_t_interval_of_scipy() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.03, 25)
    result = equivalence_90(values)
    interval = ttest_1samp(values, 0.5).confidence_interval(0.90)
    np.testing.assert_allclose((result.low, result.high), interval, rtol=1e-12)
    assert result.value == pytest.approx(values.mean())
    assert (result.n, result.holds) == (25, True)


@pytest.mark.parametrize(
    ("values", "holds"),
    [([0.5, 0.5], True), ([0.56, 0.56], False), ([0.44, 0.44], False), ([0.3, 0.7], False), ([0.45, 0.45], True)],
)
def test_equivalence_needs_the_whole_interval_inside(values: list[float], holds: bool) -> None:
    assert equivalence_90(values).holds is holds


@pytest.mark.parametrize("values", [[], [0.5], [0.5, float("nan")]])
def test_equivalence_of_too_little(values: list[float]) -> None:
    with pytest.raises(DataError):
        equivalence_90(values)
