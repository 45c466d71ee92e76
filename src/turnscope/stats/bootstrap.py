"""Confidence intervals by conversation: turns of one conversation are alike, so conversations are what is resampled.

N rows (turns), C clusters (conversations), G groups of equal score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turnscope.stats._inputs import cluster_numbers, labels_1d, scores_1d
from turnscope.stats.estimate import Estimate, Withheld
from turnscope.stats.ranks import auroc

MIN_ROWS = 5
"""Fewest positive, and fewest negative, rows for which an interval is given."""
MIN_CLUSTERS = 5
"""Fewest conversations with a positive, and with a negative."""


def auroc_ci(
    scores_N: ArrayLike, labels_N: ArrayLike, clusters_N: ArrayLike, *, n_boot: int = 1000, seed: int = 0
) -> Estimate | Withheld:
    """AUROC with its 95% percentile interval from a bootstrap of whole conversations.

    Each of `n_boot` resamples draws as many conversations as there are, with replacement; a conversation drawn twice
    counts twice. A resample without positives or without negatives has no AUROC and is left out. When the scores
    separate the labels perfectly the interval is [1, 1]: a percentile interval cannot see beyond the data.

    Withheld when labels are all equal, with fewer than 5 positive or negative rows, or when these lie in fewer than 5
    conversations. Raises DataError for scores that are not finite, or for unequal lengths.
    """
    scores = scores_1d(scores_N)
    labels = labels_1d(labels_N, len(scores))
    clusters, n_clusters = cluster_numbers(clusters_N, len(scores))
    reason = _too_few(labels, clusters)
    if reason:
        return Withheld(reason)
    draws = _resampled(scores, labels, clusters, n_clusters, n_boot, np.random.default_rng(seed))
    low, high = np.quantile(draws, (0.025, 0.975))
    positives = int(labels.sum())
    return Estimate(auroc(scores, labels), float(low), float(high), positives, len(labels) - positives, n_clusters)


def _too_few(labels_N: NDArray[np.bool_], clusters_N: NDArray[np.intp]) -> str:
    """Why there is no interval, or "" when there is one."""
    if len(labels_N) == 0:
        return "there are no rows"
    if labels_N.all() or not labels_N.any():
        return "the labels are all equal"
    for name, chosen_N in (("positive", labels_N), ("negative", ~labels_N)):
        rows = int(chosen_N.sum())
        if rows < MIN_ROWS:
            return f"only {rows} {name} rows, {MIN_ROWS} needed"
        conversations = len(np.unique(clusters_N[chosen_N]))
        if conversations < MIN_CLUSTERS:
            return f"only {conversations} conversations with a {name} row, {MIN_CLUSTERS} needed"
    return ""


def _resampled(
    scores_N: NDArray[np.float64],
    labels_N: NDArray[np.bool_],
    clusters_N: NDArray[np.intp],
    n_clusters: int,
    n_boot: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """AUROC of each resample that has one. Scores are grouped once; a resample only reweights the groups."""
    groups, group_N = np.unique(scores_N, return_inverse=True)
    n_groups = len(groups)
    positive, negative = np.flatnonzero(labels_N), np.flatnonzero(~labels_N)
    shares = np.full(n_clusters, 1 / n_clusters)
    draws: list[float] = []
    for _ in range(n_boot):
        weight_N = rng.multinomial(n_clusters, shares)[clusters_N].astype(np.float64)
        positive_G = np.bincount(group_N[positive], weight_N[positive], n_groups)
        negative_G = np.bincount(group_N[negative], weight_N[negative], n_groups)
        pairs = positive_G.sum() * negative_G.sum()
        if pairs > 0:
            below_G = np.cumsum(negative_G) - negative_G
            draws.append(float(positive_G @ (below_G + negative_G / 2) / pairs))
    return np.array(draws)
