"""The figures of a persona run: features ranked on one half of prompts and questions, judged on the other. No torch.

Questions are what is independent: every question is asked under both sides of every pair, so tests pair the sides by
question and intervals resample whole questions.

Legend: N rollouts, F features, Q questions, D model width, K features judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata
from scipy.stats import t as student_t

from turnscope.audit.monitors.figures import conformal_threshold
from turnscope.stats import Estimate, Withheld, auroc_all, auroc_ci, benjamini_hochberg, equivalence_90

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
LEAST_QUESTIONS = 4
"""Fewest questions with both sides for which a test is made."""
_MOST_CELLS = 4_000_000


@dataclass(frozen=True)
class Part:
    """The rollouts of one half."""

    codes_NF: Any
    """scipy CSR."""
    positive_N: Bools
    questions_N: Ints

    @property
    def usable(self) -> str:
        """Why there is nothing to rank or judge, or ""."""
        n, both = len(self.positive_N), len(_both(self.positive_N, self.questions_N))
        if not n or self.positive_N.all() or not self.positive_N.any():
            return f"{int(self.positive_N.sum())} replies with the trait and {int((~self.positive_N).sum())} without"
        if both < LEAST_QUESTIONS:
            return f"{both} questions with replies of both sides, {LEAST_QUESTIONS} needed"
        return ""


@dataclass(frozen=True)
class Ranking:
    """What one half says of every feature; arrays over features."""

    auroc_F: Floats
    effect_F: Floats
    share_positive_F: Floats
    share_negative_F: Floats
    p_F: Floats
    q_F: Floats

    def best(self, n: int) -> Ints:
        """Features that rise with the trait, the surest first: by AUROC, then by effect, then by number."""
        order_F = np.lexsort((np.arange(len(self.auroc_F)), -self.effect_F, -self.auroc_F))
        return order_F[self.auroc_F[order_F] > 0.5][:n]


def rank(part: Part) -> Ranking:
    """All features on one half. `effect`: difference of means in pooled standard deviations; q over those that fire."""
    codes: Any = sparse.csc_array(part.codes_NF)
    positive = part.positive_N
    rows = cast(Any, sparse.csr_array(part.codes_NF))
    high, low = rows[positive], rows[~positive]
    effect_F = _effect(high, low)
    fires = np.flatnonzero(np.diff(codes.indptr))
    p_F, q_F = np.ones(codes.shape[1]), np.ones(codes.shape[1])
    step = max(1, _MOST_CELLS // codes.shape[0])
    for start in range(0, len(fires), step):  # ranks are dense: some columns at a time
        some = fires[start : start + step]
        p_F[some] = question_test(codes[:, some].toarray(), positive, part.questions_N)
    q_F[fires] = benjamini_hochberg(p_F[fires])
    shares = [np.asarray((side != 0).sum(0)).ravel() / side.shape[0] for side in (high, low)]
    return Ranking(auroc_all(codes, positive), effect_F, shares[0], shares[1], p_F, q_F)


def question_test(values_NK: NDArray[np.floating], positive_N: Bools, questions_N: Ints) -> Floats:
    """Two-sided p of each column: t test over questions of the mean rank under one side less that under the other.

    Ranks, because codes are skewed; questions, because replies to one question are alike. Questions without replies of
    both sides are left out.
    """
    ranks_NK = rankdata(values_NK, axis=0)
    both = _both(positive_N, questions_N)
    if len(both) < LEAST_QUESTIONS:
        return np.ones(values_NK.shape[1])
    differences_QK = np.stack(
        [
            ranks_NK[positive_N & (questions_N == q)].mean(0) - ranks_NK[~positive_N & (questions_N == q)].mean(0)
            for q in both
        ]
    ).round(9)  # means of equal ranks differ in their last bits, and a test of such differences means nothing
    still_K = np.ptp(differences_QK, axis=0) == 0  # the t statistic of such a column is 0/0 or endless
    with np.errstate(divide="ignore", invalid="ignore"):
        t_K = differences_QK.mean(0) / (differences_QK.std(0, ddof=1) / np.sqrt(len(both)))
    p_K = 2 * np.asarray(student_t.sf(np.abs(t_K), len(both) - 1), np.float64)
    p_K[still_K] = np.where(differences_QK[0, still_K] == 0, 1.0, 0.5 ** (len(both) - 1))
    return np.nan_to_num(p_K, nan=1.0)


def estimate(scores_N: NDArray[np.floating], part: Part, n_boot: int, seed: int) -> Estimate | Withheld:
    """AUROC with its interval by question."""
    return auroc_ci(scores_N, part.positive_N, part.questions_N, n_boot=n_boot, seed=seed)


def column(part: Part, feature: int) -> Floats:
    """(N,) values of a feature."""
    return np.asarray(sparse.csr_array(part.codes_NF)[:, [feature]].toarray(), np.float64)[:, 0]


def held_tests(judge: Part, features_K: Ints) -> tuple[Floats, Floats]:
    """(p, q) of the features chosen on the other half."""
    if not len(features_K):
        return np.ones(0), np.ones(0)
    values_NK = sparse.csr_array(judge.codes_NF)[:, features_K].toarray()
    p_K = question_test(values_NK, judge.positive_N, judge.questions_N)
    return p_K, benjamini_hochberg(p_K)


def shuffled(ranking: Part, judge: Part, draws: int, seed: int) -> dict[str, Any]:
    """The whole procedure with sides swapped at random, question by question: what chance gives."""
    rng = np.random.default_rng([seed, 1])
    aurocs: list[float] = []
    discoveries = 0
    for _ in range(draws):
        halves = [_swapped(part, rng) for part in (ranking, judge)]
        if any(part.usable for part in halves):
            continue
        found = rank(halves[0])
        best = found.best(1)
        discoveries += bool((found.q_F <= 0.05).any())
        if len(best):
            aurocs.append(float(auroc_all(column(halves[1], int(best[0]))[:, None], halves[1].positive_N)[0]))
    if len(aurocs) < 2:
        return {"withheld": "too few draws had a feature to choose"}
    pooled = equivalence_90(aurocs)
    return {
        "auroc": pooled.value, "low": pooled.low, "high": pooled.high, "draws": len(aurocs),
        "draws_with_a_discovery": discoveries,
    }  # fmt: skip


def recall_at(scores_N: Floats, part: Part, rate: float = 0.05) -> dict[str, Any]:
    """Recall on a half at a threshold that this share of its own negatives exceeds, so that all readers compare at one
    rate: a threshold from turns that a reader was fitted on would flatter the fitted ones.
    """
    threshold = conformal_threshold(scores_N[~part.positive_N], rate)
    if isinstance(threshold, Withheld):
        return {"recall": None, "false_positive_rate": None, "recall_withheld": threshold.reason}
    alarm_N = scores_N > threshold
    return {
        "recall": float(alarm_N[part.positive_N].mean()),
        "false_positive_rate": float(alarm_N[~part.positive_N].mean()),
    }


def _effect(high: Any, low: Any) -> Floats:
    means, squares = [], []
    for side in (high, low):
        mean_F = np.asarray(side.mean(0), np.float64).ravel()
        means.append(mean_F)
        squares.append(np.asarray(side.multiply(side).mean(0), np.float64).ravel() - mean_F**2)
    pooled_F = np.sqrt(np.maximum((squares[0] + squares[1]) / 2, 0))
    difference_F = means[0] - means[1]
    scale_F = np.where(pooled_F > 0, pooled_F, 1.0)
    return difference_F / scale_F


def _both(positive_N: Bools, questions_N: Ints) -> Ints:
    return np.intersect1d(questions_N[positive_N], questions_N[~positive_N])


def _swapped(part: Part, rng: np.random.Generator) -> Part:
    names, at_N = np.unique(part.questions_N, return_inverse=True)
    swap_N = rng.integers(0, 2, len(names)).astype(np.bool_)[at_N]
    return Part(part.codes_NF, part.positive_N ^ swap_N, part.questions_N)
