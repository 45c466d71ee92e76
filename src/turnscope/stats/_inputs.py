"""Checks shared by the statistics. N rows (turns)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turnscope.artifacts import DataError


def scores_1d(scores_N: ArrayLike) -> NDArray[np.float64]:
    """Scores as float64 (N,). Raises DataError when not one-dimensional, or not finite."""
    scores = np.asarray(scores_N, dtype=np.float64)
    if scores.ndim != 1:
        raise DataError(f"scores must have one dimension, not shape {scores.shape}")
    require_finite(scores)
    return scores


def require_finite(scores: NDArray[np.floating]) -> None:
    """Raise DataError for NaN and infinities: NaN has no rank, and an infinity is a fault upstream."""
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(f"{bad:,} of {scores.size:,} scores are not finite")


def labels_1d(labels_N: ArrayLike, n_rows: int) -> NDArray[np.bool_]:
    """Labels as bool (N,). Raises DataError for values other than 0 and 1 (or bool) and for another length."""
    labels = np.asarray(labels_N)
    if labels.shape != (n_rows,):
        raise DataError(f"labels have shape {labels.shape}, scores have {n_rows} rows")
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 or 1")
    return labels.astype(np.bool_)


def cluster_numbers(clusters_N: ArrayLike, n_rows: int) -> tuple[NDArray[np.intp], int]:
    """Clusters (conversation ids of any type) as numbers 0..C-1 in order of sorted id, and C. Raises DataError."""
    clusters = np.asarray(clusters_N)
    if clusters.shape != (n_rows,):
        raise DataError(f"clusters have shape {clusters.shape}, scores have {n_rows} rows")
    names, numbers = np.unique(clusters, return_inverse=True)
    return numbers, len(names)
