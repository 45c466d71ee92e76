"""AUROC: the chance that a positive turn scores above a negative one, ties counting one half. Exact.

N rows (turns), F features (columns), E non-zero entries of one column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.stats import rankdata

from turnscope.artifacts import DataError
from turnscope.stats._inputs import labels_1d, require_finite, scores_1d

_CHUNK_CELLS = 4_000_000


def auroc(scores_N: ArrayLike, labels_N: ArrayLike) -> float:
    """AUROC of scores (N,) for labels (N,) of 0 and 1, by midranks.

    Raises DataError when labels are all equal (there is no such figure) or a score is not finite.

    >>> auroc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
    0.875
    """
    scores = scores_1d(scores_N)
    labels = labels_1d(labels_N, len(scores))
    _require_both(labels)
    return auroc_of_ranks(doubled_midranks(scores), labels)


def doubled_midranks(scores_N: NDArray[np.floating]) -> NDArray[np.int64]:
    """Twice the midrank of each score (N,): whole numbers, so that sums of them are exact."""
    return (2 * rankdata(scores_N)).astype(np.int64)


def auroc_of_ranks(doubled_N: NDArray[np.int64], labels_N: NDArray[np.bool_]) -> float:
    """AUROC from `doubled_midranks`; both labels must occur."""
    positives = int(labels_N.sum())
    negatives = len(labels_N) - positives
    wins = int(doubled_N[labels_N].sum()) - positives * (positives + 1)
    return wins / (2 * positives * negatives)


def auroc_all(dense_NF: ArrayLike | sparse.sparray | sparse.spmatrix, labels_N: ArrayLike) -> NDArray[np.float64]:
    """AUROC of every column of an array, dense or scipy-sparse (N, F), for one set of labels (N,): (F,).

    Only non-zero entries are sorted; the zeros of a column are one group of ties, counted in closed form, so that
    sparse columns are fast and still exact. Raises DataError as `auroc` does.
    """
    matrix: Any = dense_NF if sparse.issparse(dense_NF) else np.asarray(dense_NF)
    if len(matrix.shape) != 2:
        raise DataError(f"features must have two dimensions, not shape {matrix.shape}")
    n_rows, n_columns = matrix.shape
    labels = labels_1d(labels_N, n_rows)
    _require_both(labels)
    if sparse.issparse(matrix):
        return _aurocs(sparse.csc_array(matrix), labels)
    step = max(1, _CHUNK_CELLS // n_rows)
    chunks = [_aurocs(_columns(matrix[:, at : at + step]), labels) for at in range(0, n_columns, step)]
    return np.concatenate(chunks) if chunks else np.empty(0)


def _columns(dense_NF: NDArray[np.floating]) -> Any:
    # Rows of the transpose lie together in memory, so this finds the entries column by column in one pass.
    return sparse.csr_array(np.ascontiguousarray(dense_NF.T)).T.tocsc()


def _aurocs(columns: Any, labels_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """AUROC of each column of a csc_array (its type is not known to type checkers)."""
    columns.sum_duplicates()
    require_finite(columns.data)
    positives = int(labels_N.sum())
    negatives = len(labels_N) - positives
    result_F = np.empty(columns.shape[1])
    for column in range(columns.shape[1]):
        entries = slice(columns.indptr[column], columns.indptr[column + 1])
        wins = _doubled_wins(columns.data[entries], labels_N[columns.indices[entries]], positives, negatives)
        result_F[column] = wins / (2 * positives * negatives)
    return result_F


def _doubled_wins(values_E: NDArray[np.floating], labels_E: NDArray[np.bool_], positives: int, negatives: int) -> int:
    """Twice the number of (positive, negative) pairs that the positive wins, ties counting one half.

    `values_E` are a column's stored entries, `labels_E` their labels; rows not stored are zeros.
    """
    stored_positives = int(labels_E.sum())
    zero_positives = positives - stored_positives
    zero_negatives = negatives - (len(values_E) - stored_positives)
    wins = zero_positives * zero_negatives
    if len(values_E) == 0:
        return wins
    order = np.argsort(values_E)
    value_E, positive_E = values_E[order], labels_E[order].astype(np.int64)
    start_G = np.concatenate(([0], np.flatnonzero(value_E[1:] != value_E[:-1]) + 1))
    positive_G = np.add.reduceat(positive_E, start_G)
    negative_G = np.diff(np.append(start_G, len(value_E))) - positive_G
    below_G = np.cumsum(negative_G) - negative_G
    wins += int((positive_G * (2 * below_G + negative_G)).sum())
    # Entries against the zeros: above zero wins, below loses, an explicitly stored zero ties.
    wins += zero_negatives * int((positive_E * (1 + np.sign(value_E).astype(np.int64))).sum())
    wins += zero_positives * int(((1 - positive_E) * (1 - np.sign(value_E).astype(np.int64))).sum())
    return wins


def _require_both(labels_N: NDArray[np.bool_]) -> None:
    if labels_N.all() or not labels_N.any():
        raise DataError("AUROC needs positive and negative rows; the labels are all equal")
