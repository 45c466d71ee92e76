"""Shuffled-label controls: what a score gives when labels belong to other conversations.

N rows (turns), C clusters (conversations).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from turnscope.artifacts import DataError
from turnscope.stats._inputs import cluster_numbers, labels_1d, scores_1d
from turnscope.stats.ranks import auroc_of_ranks, doubled_midranks

_MAX_TRIES_EACH = 100


def permute_labels(labels_N: ArrayLike, clusters_N: ArrayLike, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Labels (N,) moved between conversations, each conversation's run of labels kept together.

    A random permutation names one donor for each conversation. The rows of a conversation, in the order in which they
    are given, take the donor's labels in order, starting at a random row of the donor and beginning again at its
    first row after its last; so a longer conversation repeats its donor and a shorter one takes a stretch of it.

    Why the random start: were rows matched by position, whatever both scores and labels owe to position (roles that
    alternate, openings) would survive the shuffle. So every row has the same chance of a positive label, and of two
    rows either is as likely as the other to be the positive one. Where conversations are equally long, the expected
    AUROC of any fixed score is therefore 0.5. Where they are not, the number of positives follows which conversations
    got them, and a score that goes with length ends a little below: 0.495 for lengths of 2 to 40 in 200
    conversations, far below with a handful of conversations of which one holds most rows.
    """
    labels = labels_1d(labels_N, np.shape(labels_N)[0])
    blocks = _Blocks.of(clusters_N, len(labels))
    return blocks.permute(labels, rng)


def permuted_aurocs(
    scores_N: ArrayLike, labels_N: ArrayLike, clusters_N: ArrayLike, *, n: int = 20, seed: int = 0
) -> NDArray[np.float64]:
    """AUROC of the scores under each of `n` draws of `permute_labels`: (n,).

    A draw with labels all equal has no AUROC and is drawn again (short conversations can lose a donor's few
    positives). Raises DataError when labels are all equal, or nearly every draw is, and for scores not finite.
    """
    scores = scores_1d(scores_N)
    labels = labels_1d(labels_N, len(scores))
    blocks = _Blocks.of(clusters_N, len(scores))
    doubled = doubled_midranks(scores)
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(n * _MAX_TRIES_EACH):
        if len(values) == n:
            break
        shuffled = blocks.permute(labels, rng)
        if shuffled.any() and not shuffled.all():
            values.append(auroc_of_ranks(doubled, shuffled))
    if len(values) < n:
        raise DataError("labels cannot be permuted: too few conversations have both, or any, of them")
    return np.array(values)


@dataclass(frozen=True)
class Equivalence:
    """A pooled mean, its 90% interval, and whether that lies inside the bounds (two one-sided tests at 5%)."""

    value: float
    low: float
    high: float
    n: int
    holds: bool


def equivalence_90(values: ArrayLike, low: float = 0.45, high: float = 0.55) -> Equivalence:
    """Mean of `values` with the 90% t interval over them; it `holds` when the interval lies inside [low, high].

    Give one value per independent permutation. Raises DataError for fewer than two, or not finite.
    """
    sample = scores_1d(np.ravel(np.asarray(values, dtype=np.float64)))
    if len(sample) < 2:
        raise DataError(f"an interval needs two values or more, not {len(sample)}")
    mean = float(sample.mean())
    half = float(student_t.ppf(0.95, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Equivalence(mean, mean - half, mean + half, len(sample), low <= mean - half and mean + half <= high)


@dataclass(frozen=True)
class _Blocks:
    """Where each conversation's rows are: `order_N` lists rows conversation by conversation, rows in given order."""

    order_N: NDArray[np.intp]
    cluster_N: NDArray[np.intp]  # conversation of each entry of order_N
    position_N: NDArray[np.intp]  # 0-based place of each entry of order_N in its conversation
    start_C: NDArray[np.intp]
    size_C: NDArray[np.intp]

    @staticmethod
    def of(clusters_N: ArrayLike, n_rows: int) -> _Blocks:
        numbers, n_clusters = cluster_numbers(clusters_N, n_rows)
        order = np.argsort(numbers, kind="stable")
        size = np.bincount(numbers, minlength=n_clusters)
        start = np.cumsum(size) - size
        cluster = numbers[order]
        return _Blocks(order, cluster, np.arange(n_rows) - start[cluster], start, size)

    def permute(self, labels_N: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
        donor_C = rng.permutation(len(self.size_C))
        offset_C = rng.integers(0, self.size_C[donor_C])
        donor_N = donor_C[self.cluster_N]
        step_N = (self.position_N + offset_C[self.cluster_N]) % self.size_C[donor_N]
        shuffled = np.empty_like(labels_N)
        shuffled[self.order_N] = labels_N[self.order_N[self.start_C[donor_N] + step_N]]
        return shuffled
