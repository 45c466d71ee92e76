"""AUROCs through shared ranks, and matched pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from turnscope.evaluation.ranking import auroc_matrix, midranks, paired_wins


@pytest.mark.parametrize("levels", [None, 3, 2], ids=["no ties", "three values", "two values"])
def test_auroc_matrix_is_sklearns(levels: int | None) -> None:
    rng = np.random.default_rng(0)
    scores_NF = rng.normal(size=(301, 5)) if levels is None else rng.integers(0, levels, (301, 5)).astype(float)
    positive_NQ = rng.random((301, 4)) < [0.5, 0.1, 0.9, 0.02]
    expected = [[roc_auc_score(positive_NQ[:, q], scores_NF[:, f]) for q in range(4)] for f in range(5)]
    np.testing.assert_allclose(auroc_matrix(midranks(scores_NF), positive_NQ), expected, atol=1e-6)


def test_auroc_of_one_class_is_not_a_number() -> None:
    ranks_NF = midranks(np.arange(4.0)[:, None])
    values = auroc_matrix(ranks_NF, np.array([[True, False], [True, False], [True, False], [True, False]]))
    assert np.isnan(values).all()


def test_midranks_share_ties() -> None:
    assert midranks(np.array([[3.0], [1.0], [3.0], [0.0]]))[:, 0].tolist() == [3.5, 2.0, 3.5, 1.0]


def test_paired_wins_by_hand() -> None:
    # pair: 7 whole, won and tied; 2 whole, lost; 5 has one side; -1 is no pair; 9 has two positives
    pair_N = np.array([7, 2, 7, 2, 5, -1, -1, 9, 9])
    positive_N = np.array([True, False, False, True, True, True, False, True, True])
    scores_NF = np.array([[2.0, 1], [5, 3], [1, 1], [4, 2], [9, 9], [9, 9], [0, 0], [1, 1], [2, 2]])
    assert paired_wins(scores_NF, positive_N, pair_N).tolist() == [[0.0, 0.0], [1.0, 0.5]]
    assert paired_wins(scores_NF[4:7], positive_N[4:7], pair_N[4:7]).shape == (0, 2)
