"""AUROC against scikit-learn, against counting every pair, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from turnscope.artifacts import DataError
from turnscope.stats import auroc, auroc_all

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    differences = scores[labels][:, None] - scores[~labels][None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


@given(ROWS)
def test_counts_every_pair(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if labels.all() or not labels.any():
        with pytest.raises(DataError, match="all equal"):
            auroc(scores, labels)
        return
    assert auroc(scores, labels) == pytest.approx(by_pairs(scores, labels), abs=1e-15)
    assert auroc_all(scores[:, None].astype(np.float32), labels)[0] == auroc(scores, labels)


@given(ROWS)
def test_mirror_image(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if labels.any() and not labels.all():
        assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-15)
        assert auroc(scores**3 + 7, labels) == auroc(scores, labels)


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("steps", [3, 10_000])
def test_many_columns_agree_with_scikit_learn(zeros: float, steps: int) -> None:
    rng = np.random.default_rng(0)
    dense = (rng.integers(-steps, steps, size=(700, 30)) / 7).astype(np.float32)
    dense[rng.random(dense.shape) < zeros] = 0
    labels = rng.random(700) < 0.2
    expected = [roc_auc_score(labels, column) for column in dense.T]
    np.testing.assert_allclose(auroc_all(dense, labels), expected, atol=1e-14)
    np.testing.assert_allclose(auroc_all(sparse.csr_array(dense), labels), expected, atol=1e-14)


def test_stored_zeros_and_duplicates_of_sparse_columns() -> None:
    values, rows = [0.0, 1.0, 1.0, -1.0], [0, 1, 1, 2]
    matrix = sparse.coo_array((values, (rows, [0, 0, 0, 0])), shape=(4, 1))
    labels = np.array([1, 0, 1, 0])
    assert auroc_all(matrix, labels)[0] == auroc([0, 2, -1, 0], labels)
    explicit = sparse.csc_array((np.array([0.0, 2.0]), np.array([0, 1]), np.array([0, 2])), shape=(4, 1))
    assert auroc_all(explicit, labels)[0] == auroc([0, 2, 0, 0], labels)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    dense, labels = rng.normal(size=(50, 17)), rng.random(50) < 0.5
    whole = auroc_all(dense, labels)
    monkeypatch.setattr("turnscope.stats.ranks._CHUNK_CELLS", 150)
    np.testing.assert_array_equal(auroc_all(dense, labels), whole)


def test_known_figures() -> None:
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert auroc([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0
    assert auroc([5, 5, 5, 5], [0, 1, 0, 1]) == 0.5
    assert auroc_all(np.zeros((4, 0)), [0, 1, 0, 1]).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(bad: float) -> None:
    with pytest.raises(DataError, match="1 of 3 scores"):
        auroc([0.0, 1.0, bad], [0, 1, 0])
    with pytest.raises(DataError, match="not finite"):
        auroc_all(np.array([[0.0], [1.0], [bad]]), [0, 1, 0])


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2], [[0, 1, 1]], [0.0, 0.5, 1.0]])
def test_labels_that_are_none(labels: list[object]) -> None:
    with pytest.raises(DataError, match="labels"):
        auroc([1.0, 2.0, 3.0], labels)  # pyright: ignore[reportArgumentType]
