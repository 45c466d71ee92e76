"""A threshold at a false-positive rate, and what a monitor does there: rates with intervals by conversation.

Turns of one conversation are alike, so an interval rests on as many turns as the conversations are worth: Wilson's,
with the number of turns divided by the design effect measured on the turns themselves.

Legend: N turns, P positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turnscope.artifacts import ConfigError
from turnscope.stats import Estimate, Withheld, auroc_ci

MIN_TURNS, MIN_CONVERSATIONS = 5, 5
"""Fewest turns, and conversations, for a rate."""
PREVALENCES = (0.1, 0.01, 0.001)
_Z = 1.959963984540054

Figure = Estimate | Withheld


def conformal_threshold(negative_scores: ArrayLike, fpr: float) -> float | Withheld:
    """The lowest threshold that a new negative exceeds with a chance of at most `fpr`.

    Of n negatives and one more that is like them, each is as likely as any other to be the r-th largest, so that the
    new one exceeds the r-th largest of the n with a chance of r / (n + 1) at most. Alerts are scores **above** the
    threshold. Withheld where even the largest of n is not enough: n must be 1 / fpr - 1 or more.

    >>> conformal_threshold(range(99), 0.01)
    98.0
    >>> conformal_threshold(range(199), 0.01)
    197.0
    """
    if not 0 < fpr < 1:
        raise ConfigError(f"a false-positive rate lies between 0 and 1, not {fpr}")
    scores = np.sort(np.asarray(negative_scores, np.float64))
    rank = math.floor(fpr * (len(scores) + 1) + 1e-9)
    if rank < 1:
        n = len(scores)
        return Withheld(
            f"a false-positive rate of {fpr:g} cannot be set with {n:,} negatives: "
            f"the lowest that they allow is {1 / (n + 1):.2g}, and {fpr:g} takes {needed(fpr):,}"
        )
    return float(scores[-rank])


def needed(fpr: float) -> int:
    """Fewest negatives on which a rate can be set."""
    return math.ceil(1 / fpr - 1 - 1e-9)


def rate(hits_N: ArrayLike, clusters_N: ArrayLike, what: str = "turns") -> Figure:
    """Share of hits with its 95% interval by conversation; `n_positive` counts hits, `n_negative` the others.

    Withheld below 5 turns or 5 conversations.
    """
    hits, clusters = np.asarray(hits_N, np.bool_), np.asarray(clusters_N)
    n = len(hits)
    if n < MIN_TURNS:
        return Withheld(f"only {n} {what}, {MIN_TURNS} needed")
    names, cluster_N = np.unique(clusters, return_inverse=True)
    if len(names) < MIN_CONVERSATIONS:
        return Withheld(f"only {len(names)} conversations with {what}, {MIN_CONVERSATIONS} needed")
    share = float(hits.mean())
    low, high = wilson(share, effective_number(hits, cluster_N))
    return Estimate(share, low, high, int(hits.sum()), int(n - hits.sum()), len(names))


def effective_number(hits_N: NDArray[Any], cluster_N: NDArray[Any]) -> float:
    """How many independent turns the turns are worth for a rate.

    The variance of the share, from the spread of its residuals summed by conversation, against that of independent
    turns. Where all or none are hits nothing is seen of how alike the turns of a conversation are: each then counts as
    one turn.
    """
    n, share = len(hits_N), float(np.mean(hits_N))
    residual_C = np.bincount(cluster_N, np.asarray(hits_N, np.float64) - share)
    n_clusters = len(residual_C)
    if share in (0.0, 1.0) or n_clusters < 2:
        return float(n_clusters)
    variance = n_clusters / (n_clusters - 1) * float(residual_C @ residual_C) / n**2
    return float(min(n, share * (1 - share) / max(variance, 1e-300)))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval for a share of `n`, which need not be whole.

    >>> [round(x, 4) for x in wilson(0.0, 100)]
    [0.0, 0.037]
    """
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def precision_at(recall: Figure, fpr: Figure, prevalence: float) -> Figure:
    """Precision where so large a share of turns is positive, from recall and false-positive rate.

    The interval takes the worst and the best corner of the two, and so is wide. Withheld where either rate is.
    """
    for each in (recall, fpr):
        if isinstance(each, Withheld):
            return each
    assert isinstance(recall, Estimate)
    assert isinstance(fpr, Estimate)

    def of(hit: float, false: float) -> float:
        good, bad = prevalence * hit, (1 - prevalence) * false
        return good / (good + bad) if good + bad > 0 else 0.0

    if not recall.n_positive and not fpr.n_positive:
        return Withheld("no turn raised an alert")
    return Estimate(
        of(recall.value, fpr.value), of(recall.low, fpr.high), of(recall.high, fpr.low),
        recall.n_positive, fpr.n_positive, min(recall.n_clusters, fpr.n_clusters),
    )  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What a score does on one set of labelled turns, at a threshold that was set elsewhere."""

    recall: Figure
    precision: Figure
    fpr: Figure
    auroc: Figure
    by_prevalence: dict[float, Figure]
    """Precision where another share of turns is positive than in these."""
    recall_here: Figure
    """Recall with the threshold set on the negatives of these very turns, so that scores compare at one rate."""
    n_positive: int
    n_negative: int
    n_conversations: int


def judge(
    scores_N: ArrayLike, labels_N: ArrayLike, clusters_N: ArrayLike, threshold: float | None, fpr: float, *,
    seed: int = 0, n_boot: int = 1000, prevalences: Sequence[float] = PREVALENCES,
) -> Point:  # fmt: skip
    """Hold scores against labels. Without a threshold only what needs none is given."""
    scores, labels = np.asarray(scores_N, np.float64), np.asarray(labels_N, np.bool_)
    clusters = np.asarray(clusters_N)
    if threshold is None:
        none = Withheld("there is no threshold")
        recall: Figure = none
        precision: Figure = none
        false: Figure = none
    else:
        alert_N = scores > threshold
        recall = rate(alert_N[labels], clusters[labels], "positive turns")
        false = rate(alert_N[~labels], clusters[~labels], "negative turns")
        precision = rate(labels[alert_N], clusters[alert_N], "alerts")
    own = conformal_threshold(scores[~labels], fpr)
    recall_here = own if isinstance(own, Withheld) else rate(scores[labels] > own, clusters[labels], "positive turns")
    return Point(
        recall, precision, false, auroc_ci(ranked(scores), labels, clusters, n_boot=n_boot, seed=seed),
        {each: precision_at(recall, false, each) for each in prevalences}, recall_here,
        int(labels.sum()), int((~labels).sum()), len(np.unique(clusters)),
    )  # fmt: skip


def ranked(scores_N: ArrayLike) -> NDArray[np.float64]:
    """Scores as the numbers of their order: a rule's may be infinite."""
    return np.unique(np.asarray(scores_N), return_inverse=True)[1].astype(np.float64)


def figure_to_plain(figure: Figure) -> dict[str, Any]:
    """For TOML and JSON: the value, its interval and counts; or the reason why there is none."""
    if isinstance(figure, Withheld):
        return {"withheld": figure.reason}
    return {
        "value": short(figure.value), "low": short(figure.low), "high": short(figure.high),
        "n_positive": figure.n_positive, "n_negative": figure.n_negative, "n_conversations": figure.n_clusters,
    }  # fmt: skip


def figure_from_plain(plain: dict[str, Any]) -> Figure:
    """The inverse of `figure_to_plain`."""
    if "withheld" in plain:
        return Withheld(str(plain["withheld"]))
    return Estimate(
        float(plain["value"]), float(plain["low"]), float(plain["high"]),
        int(plain["n_positive"]), int(plain["n_negative"]), int(plain["n_conversations"]),
    )  # fmt: skip


def point_to_plain(point: Point) -> dict[str, Any]:
    """As nested plain values."""
    named = ("recall", "precision", "fpr", "auroc", "recall_here")
    return {
        "n_positive": point.n_positive, "n_negative": point.n_negative, "n_conversations": point.n_conversations,
        **{name: figure_to_plain(getattr(point, name)) for name in named},
        "precision_at": {f"{share:g}": figure_to_plain(figure) for share, figure in point.by_prevalence.items()},
    }  # fmt: skip


def short(value: float) -> float:
    """Six digits, for files."""
    return float(f"{value:.6g}")
