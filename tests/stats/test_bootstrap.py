"""Intervals by conversation: coverage on clustered data whose AUROC is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from turnscope.artifacts import DataError
from turnscope.stats import Estimate, Withheld, auroc_ci


def clustered(rng: np.random.Generator, n_clusters: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and scores that conversations share in part: label rates and score levels differ between them."""
    sizes = rng.integers(2, 15, n_clusters)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    labels = rng.random(len(clusters)) < rng.beta(1, 2, n_clusters)[clusters]
    scores = rng.normal(size=n_clusters)[clusters] + rng.normal(size=len(clusters)) + shift * labels
    return scores, labels, clusters


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_coverage(shift: float) -> None:
    # Positive minus negative row of two conversations: normal with mean `shift` and variance 4.
    truth, rng, hits = norm.cdf(shift / 2), np.random.default_rng(7), 0
    for seed in range(300):
        estimate = auroc_ci(*clustered(rng, 80, shift), n_boot=300, seed=seed)
        assert isinstance(estimate, Estimate)
        hits += estimate.low <= truth <= estimate.high
    assert 0.90 <= hits / 300 <= 0.99


def test_rows_taken_for_independent_would_cover_too_little() -> None:
    truth, rng, hits = 0.5, np.random.default_rng(8), 0
    for seed in range(80):
        scores, labels, _ = clustered(rng, 80, 0.0)
        estimate = auroc_ci(scores, labels, np.arange(len(scores)), n_boot=300, seed=seed)
        assert isinstance(estimate, Estimate)
        hits += estimate.low <= truth <= estimate.high
    assert hits / 80 < 0.9


def test_agrees_with_a_bootstrap_that_copies_rows() -> None:
    rng = np.random.default_rng(3)
    scores, labels, clusters = clustered(rng, 40, 0.7)
    scores = np.round(scores, 1)  # ties
    estimate = auroc_ci(scores, labels, clusters, n_boot=2000, seed=1)
    assert isinstance(estimate, Estimate)
    copied = []
    for _ in range(800):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in rng.integers(0, 40, 40)])
        copied.append(roc_auc_score(labels[rows], scores[rows]))
    np.testing.assert_allclose(estimate.ci, np.quantile(copied, (0.025, 0.975)), atol=0.02)
    assert estimate.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    assert (estimate.n_positive, estimate.n_negative) == (labels.sum(), (~labels).sum())
    assert estimate.n_clusters == 40


def test_one_seed_one_answer_and_names_of_conversations_do_not_matter() -> None:
    scores, labels, clusters = clustered(np.random.default_rng(0), 30, 1.0)
    one = auroc_ci(scores, labels, clusters, n_boot=100, seed=5)
    assert auroc_ci(scores, labels, [f"chat-{c:03d}" for c in clusters], n_boot=100, seed=5) == one
    assert auroc_ci(scores, labels, clusters, n_boot=100, seed=6) != one


WITHHELD = [
    ([], [], [], "no rows"),
    ([1] * 20, range(20), range(20), "all equal"),
    ([1] * 4 + [0] * 16, range(20), range(20), "only 4 positive rows"),
    ([0] * 4 + [1] * 16, range(20), range(20), "only 4 negative rows"),
    ([1] * 8 + [0] * 12, range(20), [0, 0, 1, 1, 2, 2, 3, 3, *range(4, 16)], "only 4 conversations with a positive"),
    ([0] * 8 + [1] * 12, range(20), [0, 0, 1, 1, 2, 2, 3, 3, *range(4, 16)], "only 4 conversations with a negative"),
]


@pytest.mark.parametrize(("labels", "scores", "clusters", "reason"), WITHHELD)
def test_withheld(labels: list[int], scores: list[int], clusters: list[int], reason: str) -> None:
    result = auroc_ci(list(scores), labels, list(clusters))
    assert isinstance(result, Withheld)
    assert reason in str(result)


def test_constant_scores_and_perfect_ones() -> None:
    labels, clusters = np.arange(60) % 2, np.arange(60) // 3
    flat, perfect = auroc_ci(np.zeros(60), labels, clusters), auroc_ci(labels, labels, clusters)
    assert isinstance(flat, Estimate)
    assert isinstance(perfect, Estimate)
    assert (flat.value, *flat.ci) == (0.5, 0.5, 0.5)
    assert (perfect.value, *perfect.ci) == (1.0, 1.0, 1.0)
    assert str(perfect) == "1.000 [1.000, 1.000]"


def test_unequal_lengths() -> None:
    with pytest.raises(DataError, match="clusters have shape"):
        auroc_ci([1.0, 2.0], [0, 1], [0])
