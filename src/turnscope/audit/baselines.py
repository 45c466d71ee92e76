"""What simpler readers make of the same labels: every monitor and persona figure stands beside these four.

A dense ridge probe and the mean-difference vector read turn means, the sparse probe a few features, TF-IDF the words
alone. Each is fitted as `fit(x, labels, clusters)` on turns of a fitting split and gives a scorer: one real number per
turn, higher for more of the trait. What has to be chosen (penalty, rule of choice) is chosen by cross validation that
keeps conversations whole and never leaves the fitting set. No torch.

Legend: N turns, D model width, F features, K features of a probe, A penalties tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from turnscope.artifacts import DataError
from turnscope.stats import auroc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FOLDS = 5
RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Times the number of rows, on standardised columns."""
LOGISTIC_C = (0.01, 0.1, 1.0, 10.0)
WORD_C = (0.3, 3.0, 30.0)
MOST_WORDS = 50_000
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = rf"[{_CJK}]|[^\W{_CJK}]+"
"""A word; in scripts without spaces, a character."""


class Scorer(Protocol):
    """What a fit gives."""

    def score(self, x: Any) -> Floats:
        """One number per turn."""
        ...


@dataclass(frozen=True)
class LinearScorer:
    """A direction in the space of turn means."""

    weights_D: Floats
    bias: float
    chosen: str = ""
    """What cross validation chose, in words."""

    def score(self, x: Any) -> Floats:
        """(N, D) turn means in, (N,) out."""
        return np.asarray(x, np.float64) @ self.weights_D + self.bias


@dataclass(frozen=True)
class SparseScorer:
    """A weighted sum of a few features."""

    features: tuple[int, ...]
    weights_K: Floats
    bias: float
    chosen: str = ""

    def score(self, x: Any) -> Floats:
        """(N, F) codes in, as a scipy sparse matrix or dense; (N,) out."""
        picked = x[:, list(self.features)]
        dense_NK = picked.toarray() if sparse.issparse(picked) else picked
        return self.score_values(dense_NK)

    def score_values(self, values_NK: ArrayLike) -> Floats:
        """As `score`, from the values of the probe's own features, in their order."""
        return np.asarray(values_NK, np.float64) @ self.weights_K + self.bias


@dataclass(frozen=True)
class WordScorer:
    """A logistic classifier of TF-IDF words and pairs of words."""

    vectorizer: Any
    model: Any
    chosen: str = ""

    def score(self, x: Sequence[str]) -> Floats:
        """N texts in, (N,) out."""
        return np.asarray(self.model.decision_function(self.vectorizer.transform(x)), np.float64)


def fit_ridge(x_ND: ArrayLike, labels_N: ArrayLike, clusters_N: ArrayLike, *, seed: int = 0) -> LinearScorer:
    """Ridge regression of the label on standardised turn means, both classes weighing the same.

    Raises DataError when labels are all equal, or numbers are not finite.
    """
    x, labels, clusters = _dense(x_ND), _labels(labels_N), np.asarray(clusters_N)
    _require_rows(len(x), labels, clusters)

    def path(rows: Any) -> list[LinearScorer]:
        return _ridge_path(x[rows], labels[rows])

    best, aurocs = _choose(path, lambda scorer, rows: scorer.score(x[rows]), labels, clusters, seed)
    scorer = path(slice(None))[best]
    return LinearScorer(scorer.weights_D, scorer.bias, f"penalty {RIDGE_PENALTIES[best]:g}{_said(aurocs, best)}")


def fit_mean_difference(x_ND: ArrayLike, labels_N: ArrayLike, clusters_N: ArrayLike, *, seed: int = 0) -> LinearScorer:
    """The unit vector from the mean of the negatives to that of the positives; 0 lies half way. Nothing to choose.

    Raises DataError as `fit_ridge`.
    """
    del seed
    x, labels = _dense(x_ND), _labels(labels_N)
    _require_rows(len(x), labels, np.asarray(clusters_N))
    high_D, low_D = x[labels].mean(0), x[~labels].mean(0)
    weights_D = high_D - low_D
    weights_D = weights_D / (float(np.linalg.norm(weights_D)) or 1.0)
    return LinearScorer(weights_D, -float(weights_D @ (high_D + low_D) / 2))


def fit_sparse_probe(
    codes_NF: Any, labels_N: ArrayLike, clusters_N: ArrayLike, *, k: int = 5,
    features: Sequence[int] | None = None, seed: int = 0,
) -> SparseScorer:  # fmt: skip
    """Logistic regression on `k` features, chosen by difference of class means: raw, or in standard deviations.

    Which of the two rules and which penalty is chosen by cross validation, with the features chosen anew in each fold.

    Args:
        codes_NF: (N, F) codes, scipy sparse or dense.
        labels_N: 0 or 1 of each turn.
        clusters_N: conversation of each turn.
        k: features of the probe.
        features: take these instead of choosing.
        seed: of the folds.

    Raises DataError as `fit_ridge`.
    """
    codes: Any = sparse.csr_matrix(codes_NF, dtype=np.float64)
    labels, clusters = _labels(labels_N), np.asarray(clusters_N)
    _require_rows(codes.shape[0], labels, clusters)
    _require_finite(codes.data)
    rules = ("given",) if features is not None else ("difference", "standardised difference")

    def path(rows: Any) -> list[SparseScorer]:
        part, its_labels = codes[rows], labels[rows]
        picks = [tuple(features)] if features is not None else _strongest(part, its_labels, k)
        return [scorer for picked in picks for scorer in _logistic_path(part, its_labels, picked)]

    best, aurocs = _choose(path, lambda scorer, rows: scorer.score(codes[rows]), labels, clusters, seed)
    rule, c = divmod(best, len(LOGISTIC_C))
    scorer = path(slice(None))[best]
    said = f"features by {rules[rule]}, C {LOGISTIC_C[c]:g}{_said(aurocs, best)}"
    return SparseScorer(scorer.features, scorer.weights_K, scorer.bias, said)


def fit_words(texts: Sequence[str], labels_N: ArrayLike, clusters_N: ArrayLike, *, seed: int = 0) -> WordScorer:
    """Logistic regression on TF-IDF of words and pairs of words that occur in two turns or more.

    The vocabulary is that of the whole fitting set; only the penalty is cross validated. Raises DataError as
    `fit_ridge`, and when no word occurs twice.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    labels, clusters = _labels(labels_N), np.asarray(clusters_N)
    _require_rows(len(texts), labels, clusters)
    vectorizer = TfidfVectorizer(
        token_pattern=_WORD, ngram_range=(1, 2), min_df=min(2, len(texts)), max_features=MOST_WORDS, sublinear_tf=True
    )
    try:
        x_NV = cast(Any, vectorizer.fit_transform(texts))
    except ValueError as error:
        raise DataError(f"no words to learn from: {error}") from error

    def path(rows: Any) -> list[Any]:
        return [_logistic(x_NV[rows], labels[rows], c) for c in WORD_C]

    def score(model: Any, rows: Any) -> Floats:
        return model.decision_function(x_NV[rows])

    best, aurocs = _choose(path, score, labels, clusters, seed)
    model = _logistic(x_NV, labels, WORD_C[best])
    return WordScorer(vectorizer, model, f"C {WORD_C[best]:g}{_said(aurocs, best)}")


class Baseline(NamedTuple):
    """One of the four: its name in tables, what it reads, and its fit."""

    name: str
    reads: str  # means, codes or texts
    fit: Callable[..., Scorer]


BASELINES = (
    Baseline("ridge probe on turn means", "means", fit_ridge),
    Baseline("mean-difference vector", "means", fit_mean_difference),
    Baseline("sparse probe, 5 features", "codes", fit_sparse_probe),
    Baseline("TF-IDF words", "texts", fit_words),
)


def _ridge_path(x_ND: Floats, labels_N: Bools) -> list[LinearScorer]:
    """One scorer per penalty, from one eigendecomposition."""
    weight_N = _balanced(labels_N)
    mean_D = weight_N @ x_ND
    scale_D = np.sqrt(np.maximum(weight_N @ (x_ND - mean_D) ** 2, 0))
    scale_D[scale_D <= 1e-12 * max(1.0, float(np.abs(mean_D).max(initial=0)))] = np.inf  # a constant tells nothing
    standard_ND = (x_ND - mean_D) / scale_D
    weighted_ND = standard_ND * weight_N[:, None]
    eigenvalues, basis = np.linalg.eigh(weighted_ND.T @ standard_ND)
    moment = basis.T @ (weighted_ND.T @ np.where(labels_N, 1.0, -1.0))
    scorers = list[LinearScorer]()
    for penalty in RIDGE_PENALTIES:
        weights_D = basis @ (moment / (np.maximum(eigenvalues, 0) + penalty)) / scale_D
        scorers.append(LinearScorer(weights_D, -float(weights_D @ mean_D)))
    return scorers


def _strongest(codes_NF: sparse.csr_matrix, labels_N: Bools, k: int) -> list[tuple[int, ...]]:
    """The `k` features of the largest difference of means, and of the largest in pooled standard deviations."""
    high, low = codes_NF[labels_N], codes_NF[~labels_N]
    difference_F = np.abs(_mean(high) - _mean(low))
    variance_F = (_variance(high) + _variance(low)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        # a pooled deviation below that of one active turn in the set says more of luck than of the label
        effect_F = np.where(difference_F > 0, difference_F / np.sqrt(variance_F + _floor(codes_NF)), 0.0)
    return [_top(difference_F, k), _top(effect_F, k)]


def _floor(codes_NF: sparse.csr_matrix) -> Floats:
    """Variance of a feature that were active, at its own root mean square, on one turn in fifty."""
    squares = np.asarray(codes_NF.multiply(codes_NF).sum(0)).ravel()
    active = np.maximum(codes_NF.getnnz(0), 1)
    return squares / active * 0.02


def _top(strength_F: Floats, k: int) -> tuple[int, ...]:
    order = np.argsort(-strength_F, kind="stable")[:k]
    return tuple(int(f) for f in order if strength_F[f] > 0) or (int(order[0]),)


def _mean(codes: sparse.csr_matrix) -> Floats:
    return np.asarray(codes.mean(0)).ravel()


def _variance(codes: sparse.csr_matrix) -> Floats:
    return np.maximum(np.asarray(codes.multiply(codes).mean(0)).ravel() - _mean(codes) ** 2, 0)


def _logistic_path(codes_NF: sparse.csr_matrix, labels_N: Bools, features: tuple[int, ...]) -> list[SparseScorer]:
    values_NK = cast(Any, codes_NF[:, list(features)]).toarray()
    scale_K = values_NK.std(0)
    scale_K[scale_K == 0] = 1.0
    scorers = list[SparseScorer]()
    for c in LOGISTIC_C:
        model = _logistic(values_NK / scale_K, labels_N, c)
        scorers.append(SparseScorer(features, model.coef_[0] / scale_K, float(model.intercept_[0])))
    return scorers


def _logistic(x: Any, labels_N: Bools, c: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an order of turns does not need the last digits
        return LogisticRegression(C=c, max_iter=300, tol=1e-4, class_weight="balanced").fit(x, labels_N)


def _choose(
    path: Callable[[Any], list[Any]], score: Callable[[Any, Any], Floats], labels_N: Bools, clusters_N: Any, seed: int
) -> tuple[int, list[float]]:
    """Which of a path's scorers has the best mean AUROC over folds, and all of them; the middle one without folds."""
    folds: list[list[float]] = []
    for fit, judge in grouped_folds(labels_N, clusters_N, seed):
        folds.append([auroc(score(scorer, judge), labels_N[judge]) for scorer in path(fit)])
    if not folds:
        return len(path(slice(None))) // 2, []
    means = np.mean(folds, axis=0)
    return int(means.argmax()), means.tolist()


def grouped_folds(labels_N: Bools, clusters_N: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    """(fit rows, judge rows) of at most 5 folds that keep clusters whole; only those with both labels on both sides."""
    from sklearn.model_selection import StratifiedGroupKFold

    smallest = min(len(np.unique(clusters_N[labels_N])), len(np.unique(clusters_N[~labels_N])))
    if smallest < 2:
        return
    splitter = StratifiedGroupKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a fold without one of the labels is left out below
        for fit, judge in splitter.split(labels_N, labels_N, clusters_N):
            if all(0 < labels_N[rows].sum() < len(rows) for rows in (fit, judge)):
                yield fit, judge


def _said(aurocs: list[float], best: int) -> str:
    return f"; AUROC {aurocs[best]:.3f} in cross validation" if aurocs else "; too few conversations to cross validate"


def _balanced(labels_N: Bools) -> Floats:
    """Weights that sum to 1, half of it on each class."""
    positives = int(labels_N.sum())
    return np.where(labels_N, 0.5 / positives, 0.5 / (len(labels_N) - positives))


def _dense(x_ND: ArrayLike) -> Floats:
    x = np.asarray(x_ND, np.float64)
    if x.ndim != 2:
        raise DataError(f"turn means have two dimensions, not shape {x.shape}")
    _require_finite(x)
    return x


def _require_finite(values: NDArray[Any]) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise DataError(f"{bad:,} of {values.size:,} numbers are not finite")


def _labels(labels_N: ArrayLike) -> Bools:
    labels = np.asarray(labels_N)
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 or 1")
    return labels.astype(np.bool_)


def _require_rows(n_rows: int, labels_N: Bools, clusters_N: NDArray[Any]) -> None:
    if labels_N.shape != (n_rows,) or clusters_N.shape != (n_rows,):
        raise DataError(f"{n_rows} turns, labels {labels_N.shape}, conversations {clusters_N.shape}: they differ")
    if not n_rows or labels_N.all() or not labels_N.any():
        raise DataError("a classifier needs turns of both kinds; the labels are all equal", fix="widen the queries")
