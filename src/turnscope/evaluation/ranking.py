"""AUROC of every feature against every label at once, through ranks computed only once.

N rows, F features, Q label vectors (traits and their permutations).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float32]


def midranks(scores_NF: NDArray[np.floating]) -> Floats:
    """Midranks (1 to N, ties shared) of each column."""
    return rankdata(scores_NF, axis=0).astype(np.float32)


def auroc_matrix(ranks_NF: NDArray[np.floating], positive_NQ: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(F, Q) AUROCs by the rank-sum identity; NaN where a label vector is all equal."""
    n = len(ranks_NF)
    positives_Q = positive_NQ.sum(0)
    # ranks are centred before the product, so that float32 sums stay exact to about 1e-6
    sums_FQ = (ranks_NF - (n + 1) / 2).T @ positive_NQ.astype(np.float32)
    pairs_Q = positives_Q * (n - positives_Q).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs_Q > 0, 0.5 + sums_FQ / pairs_Q, np.nan)


def paired_wins(
    scores_NF: NDArray[np.floating], positive_N: NDArray[np.bool_], pair_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(P, F): for each matched pair, 1 where its positive row scores higher, 0.5 for a tie, 0 where it scores lower.

    A pair needs exactly one positive and one negative row; others (one side lost on the way) are left out.
    """
    order = np.argsort(pair_N, kind="stable")
    numbers, start, count = np.unique(pair_N[order], return_index=True, return_counts=True)
    whole = (count == 2) & (numbers >= 0)
    first, second = order[start[whole]], order[start[whole] + 1]
    differ = positive_N[first] != positive_N[second]
    first, second = first[differ], second[differ]
    high = np.where(positive_N[first], first, second)
    low = np.where(positive_N[first], second, first)
    return (np.sign(scores_NF[high].astype(np.float64) - scores_NF[low]) + 1) / 2
