from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from turnscope.artifacts import DataError
from turnscope.audit import baselines
from turnscope.audit.baselines import (
    BASELINES,
    RIDGE_PENALTIES,
    fit_mean_difference,
    fit_ridge,
    fit_sparse_probe,
    fit_words,
    grouped_folds,
)
from turnscope.stats import auroc


def gaussians(n: int = 600, d: int = 20, seed: int = 0):
    """Two classes with a shared covariance that hides the difference of means behind a loud direction."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    x = rng.normal(size=(n, d))
    x[:, 1] = 10 * rng.normal(size=n)
    x[:, 0] = 0.1 * x[:, 1] + 0.3 * rng.normal(size=n) + labels
    return x, labels, np.repeat(np.arange(n // 3), 3)


def test_ridge_is_the_one_of_scikit_learn_at_the_penalty_it_chose():
    x, labels, clusters = gaussians()
    scorer = fit_ridge(x, labels, clusters)
    penalty = next(p for p in RIDGE_PENALTIES if scorer.chosen.startswith(f"penalty {p:g};"))
    weight = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    scaled = StandardScaler().fit(x, sample_weight=weight)
    reference = Ridge(alpha=penalty).fit(scaled.transform(x), np.where(labels, 1, -1), sample_weight=weight)
    assert np.allclose(scorer.score(x), reference.predict(scaled.transform(x)), atol=1e-8)


def test_ridge_sees_what_the_difference_of_means_does_not():
    x, labels, clusters = gaussians()
    fresh, truth, _ = gaussians(seed=1)
    ridge, means = fit_ridge(x, labels, clusters), fit_mean_difference(x, labels, clusters)
    assert auroc(ridge.score(fresh), truth) > 0.97  # the optimum here: Phi(1 / 0.3 / sqrt 2) = 0.991
    assert auroc(means.score(fresh), truth) < 0.93


def test_mean_difference_is_the_persona_vector():
    x, labels, clusters = gaussians()
    scorer = fit_mean_difference(x, labels, clusters)
    vector = x[labels].mean(0) - x[~labels].mean(0)
    assert np.allclose(scorer.weights_D, vector / np.linalg.norm(vector))
    middle = (x[labels].mean(0) + x[~labels].mean(0)) / 2
    assert abs(scorer.score(middle[None])[0]) < 1e-9


def coded(n: int = 800, f: int = 200, seed: int = 0):
    """Sparse codes in which features 7 and 31 tell the label, and 100 is loud and does not."""
    rng = np.random.default_rng(seed)
    codes = rng.gamma(2, 1, (n, f)) * (rng.random((n, f)) < 0.05)
    labels = rng.random(n) < 0.3
    codes[:, 100] = rng.gamma(2, 20, n) * (rng.random(n) < 0.5)
    half = rng.random(n) < 0.5
    codes[:, 7] += 2 * (labels & half)
    codes[:, 31] += 2 * (labels & ~half)
    return sparse.csr_matrix(codes), labels, np.arange(n) // 4


def test_sparse_probe_finds_the_planted_features():
    codes, labels, clusters = coded()
    scorer = fit_sparse_probe(codes, labels, clusters, k=5)
    assert {7, 31} <= set(scorer.features)
    assert len(scorer.features) == 5
    fresh, truth, _ = coded(seed=1)
    best = auroc((fresh[:, 7] + fresh[:, 31]).toarray()[:, 0], truth)
    assert auroc(scorer.score(fresh), truth) > best - 0.02 > 0.9
    assert np.allclose(scorer.score(fresh), scorer.score(fresh.toarray()))
    values = fresh.toarray()[:, list(scorer.features)]
    assert np.allclose(scorer.score(fresh), scorer.score_values(values))


def test_sparse_probe_takes_the_features_given():
    codes, labels, clusters = coded()
    scorer = fit_sparse_probe(codes, labels, clusters, features=(31, 100))
    assert scorer.features == (31, 100)
    assert scorer.weights_K[0] > 0


def test_words_learn_a_pair_of_words_and_characters_of_scripts_without_spaces():
    rng = np.random.default_rng(0)
    filler = np.array(["tea", "boat", "lamp", "fig", "cannot", "help"])
    labels = np.arange(300) % 3 == 0
    texts = [f"{' '.join(rng.choice(filler[:4], 5))} {'cannot help' if one else 'help tea cannot'}" for one in labels]
    scorer = fit_words(texts, labels, np.arange(300))
    assert scorer.score(["fig cannot help"])[0] > scorer.score(["cannot fig help"])[0]
    chinese = ["我不能帮助你" if one else "今天天气很好" for one in labels]
    scorer = fit_words(chinese, labels, np.arange(300))
    assert scorer.score(["不能"])[0] > scorer.score(["天气"])[0]


def test_folds_keep_conversations_whole_and_hold_both_labels():
    labels = np.arange(90) % 4 == 0
    clusters = np.arange(90) // 3
    folds = list(grouped_folds(labels, clusters, 0))
    assert len(folds) == 5
    for fit, judge in folds:
        assert not set(clusters[fit]) & set(clusters[judge])
        assert labels[fit].any()
        assert labels[judge].any()


def test_too_few_conversations_are_said():
    x, labels, _ = gaussians(30)
    scorer = fit_ridge(x, labels, np.zeros(30))
    assert "too few conversations" in scorer.chosen


def test_labels_of_one_kind_and_numbers_that_are_not_finite_are_refused():
    x, labels, clusters = gaussians(60)
    for fit in (fit_ridge, fit_mean_difference, fit_sparse_probe):
        with pytest.raises(DataError, match="both kinds"):
            fit(x, np.ones(60), clusters)
        bad = np.abs(x)
        bad[3, 4] = np.nan
        with pytest.raises(DataError, match="not finite"):
            fit(bad, labels, clusters)
        with pytest.raises(DataError, match="differ"):
            fit(x, labels, clusters[:5])
    with pytest.raises(DataError, match="no words"):
        fit_words(["", " ", "!"] * 4, np.arange(12) % 2, np.arange(12))


def test_labels_that_follow_nothing_are_not_learnt():
    """Cross validation inside the fitting set must not report luck."""
    rng = np.random.default_rng(3)
    x, labels, clusters = rng.normal(size=(300, 100)), rng.random(300) < 0.5, np.arange(300)
    said = float(fit_ridge(x, labels, clusters).chosen.split("AUROC ")[1].split()[0])
    assert abs(said - 0.5) < 0.1


def test_the_four_are_listed_and_none_needs_torch():
    assert [each.reads for each in BASELINES] == ["means", "means", "codes", "texts"]
    fit = f"import {baselines.__name__} as b; b.fit_ridge([[0.], [1.]] * 9, [0, 1] * 9, range(18))"
    code = f"{fit}; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
