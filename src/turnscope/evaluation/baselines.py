"""What simpler readers reach on the same labels: a dense probe on turn means, and words alone.

N rows, D width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from turnscope.evaluation.ranking import auroc_matrix, midranks

Bools = NDArray[np.bool_]
_MOST_TOKENS = 2000


def probe_scores(fit_ND: Any, fit_labels_N: Bools, score_ND: Any) -> NDArray[np.float64]:
    """Scores of a logistic probe fitted on some turn means and applied to others: the ceiling for one direction."""
    scaler = StandardScaler().fit(fit_ND)
    return _logistic(scaler.transform(fit_ND), fit_labels_N, scaler.transform(score_ND), 0.1)


def bag_of_words_scores(fit_NV: Any, fit_labels_N: Bools, score_NV: Any) -> NDArray[np.float64]:
    """Scores of a logistic probe on token counts (scaled by each token's largest count)."""
    scaler = MaxAbsScaler().fit(fit_NV)
    return _logistic(scaler.transform(fit_NV), fit_labels_N, scaler.transform(score_NV), 3.0)


def _logistic(fit: Any, labels_N: Bools, score: Any, c: float) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an AUROC does not need the last digits of the weights
        model = LogisticRegression(C=c, max_iter=200, tol=1e-3, solver="lbfgs").fit(fit, labels_N)
    return model.decision_function(score)


def token_counts(tokenizer: Any, texts: Sequence[str]) -> sparse.csr_matrix:
    """(N, V) counts of each token in each text."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    indices = np.fromiter((token for row in ids for token in row), np.int64, int(indptr[-1]))
    counts = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), (len(ids), len(tokenizer)))
    counts.sum_duplicates()
    return counts


class BestToken:
    """The single token whose presence, or count, tells the labels best on one set; then judged on another."""

    def __init__(self, fit_NV: sparse.csr_matrix, score_NV: sparse.csr_matrix) -> None:
        often = np.asarray(cast(Any, fit_NV > 0).sum(0)).ravel()
        self.tokens = np.argsort(-often, kind="stable")[: min(_MOST_TOKENS, int((often >= 5).sum()))]
        fit, self._score = (m[:, self.tokens].toarray() for m in (fit_NV, score_NV))
        self._ranks = [midranks(fit), midranks(fit > 0)]

    def scores(self, fit_labels_N: Bools) -> tuple[NDArray[np.float64], int]:
        """(scores of the judged rows, token id). A token that speaks against the label is scored negatively."""
        aurocs = np.stack([auroc_matrix(ranks, fit_labels_N[:, None])[:, 0] for ranks in self._ranks])
        which, column = np.unravel_index(int(np.abs(aurocs - 0.5).argmax()), aurocs.shape)
        values = self._score[:, column] if which == 0 else self._score[:, column] > 0
        sign = 1.0 if aurocs[which, column] >= 0.5 else -1.0
        return sign * values.astype(np.float64), int(self.tokens[column])
