"""Separation against scipy, against brute-force shuffles of conversations, and where a test over turns fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_support import write_index
from scipy.stats import mannwhitneyu

from turnscope.artifacts import ConfigError, DataError
from turnscope.audit import separation
from turnscope.audit.separation import separate
from turnscope.features.store import FeatureIndex
from turnscope.stats import benjamini_hochberg

N, F = 600, 24


def codes(rng: np.random.Generator, n: int = N, f: int = F) -> Any:
    """Values with ties, some of them negative, on a share of the turns that differs by feature."""
    return np.round(rng.normal(size=(n, f)), 1) * (rng.random((n, f)) < np.linspace(0.05, 1, f))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureIndex, Any]:
    """Turns of 600 different conversations: no clustering."""
    values = codes(np.random.default_rng(0))
    return write_index(tmp_path_factory.mktemp("apart") / "features" / "x", values, np.arange(N)), values


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureIndex, Any, Any]:
    """Forty conversations of unequal length, each with a level of its own for every feature."""
    rng = np.random.default_rng(1)
    conversation_N = np.repeat(np.arange(40), rng.integers(5, 40, 40))
    n = len(conversation_N)
    fires = rng.random((n, 60)) < rng.beta(0.3, 0.5, (40, 60))[conversation_N]
    values = fires * rng.gamma(2, 1, (40, 60))[conversation_N] * (0.5 + rng.random((n, 60)))
    return (
        write_index(tmp_path_factory.mktemp("together") / "features" / "x", values, conversation_N),
        values,
        (conversation_N),
    )


def test_aurocs_are_mann_whitneys(apart: tuple[FeatureIndex, Any]) -> None:
    index, values = apart
    order = np.random.default_rng(2).permutation(N)
    a, b = order[:150], order[150:500]
    found = separate(index, a, b)
    exact = values.astype(np.float32).astype(np.float64)
    for feature in range(F):
        u = mannwhitneyu(exact[a, feature], exact[b, feature]).statistic / (len(a) * len(b))
        assert found.auroc_F[feature] == pytest.approx(u, abs=1e-12)
        assert found.share_a_F[feature] == pytest.approx((exact[a, feature] != 0).mean())
        assert found.share_b_F[feature] == pytest.approx((exact[b, feature] != 0).mean())
    gap = exact[a].mean(0) - exact[b].mean(0)
    spread = np.sqrt((len(a) * exact[a].var(0) + len(b) * exact[b].var(0)) / (len(a) + len(b) - 2))
    np.testing.assert_allclose(found.effect_F, gap / spread, rtol=1e-6)


def test_without_clusters_p_is_that_of_the_tie_corrected_rank_sum(apart: tuple[FeatureIndex, Any]) -> None:
    index, values = apart
    exact = values.astype(np.float32).astype(np.float64)
    order = np.random.default_rng(3).permutation(N)
    a, b = order[:300], order[300:]
    found = separate(index, a, b)
    wanted = [
        mannwhitneyu(exact[a, f], exact[b, f], use_continuity=False, method="asymptotic").pvalue for f in range(F)
    ]
    assert (found.p_F >= np.array(wanted) - 1e-12).all()  # never below it
    np.testing.assert_allclose(found.p_F, wanted, atol=0.02)
    np.testing.assert_allclose(found.q_F, benjamini_hochberg(found.p_F))


def test_the_error_is_that_of_conversations_dealt_out_anew(together: tuple[FeatureIndex, Any, Any]) -> None:
    """Standard deviation of the AUROC over shuffles of whole conversations, by brute force, against the one used."""
    index, _, conversation_N = together
    rng = np.random.default_rng(4)
    aurocs, errors = [], []
    for _ in range(100):
        in_a = np.isin(conversation_N, rng.permutation(40)[:20])
        found = separate(index, np.flatnonzero(in_a), np.flatnonzero(~in_a))
        aurocs.append(found.auroc_F)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors.append((found.auroc_F - 0.5) / found.z_F)
    ratio = np.nanmedian(errors, axis=0) / np.std(aurocs, axis=0)
    assert 0.9 < np.median(ratio) < 1.2
    assert ratio.min() > 0.75


def test_random_halves_of_clustered_turns_show_nothing_where_a_test_over_turns_does(
    together: tuple[FeatureIndex, Any, Any],
) -> None:
    index, values, conversation_N = together
    rng = np.random.default_rng(5)
    ours = naive = 0
    for number in range(200):
        in_a = np.isin(conversation_N, rng.permutation(40)[:20])
        found = separate(index, np.flatnonzero(in_a), np.flatnonzero(~in_a))
        ours += len(found.discoveries(0.05)) > 0
        if number < 20:
            p = mannwhitneyu(values[in_a], values[~in_a], axis=0).pvalue
            naive += bool((benjamini_hochberg(p) <= 0.05).any())
    assert naive == 20
    assert ours / 200 <= 0.08


@pytest.mark.parametrize("share", [0.03, 0.2])
def test_a_small_set_in_which_rare_features_happen_to_be_silent_shows_nothing(tmp_path: Path, share: float) -> None:
    """By its own spread alone, a feature that is silent in the small set would be found with certainty."""
    rng = np.random.default_rng(6)
    conversation_N = np.repeat(np.arange(400), 5)
    values = (rng.random((2000, 300)) < 0.01) * 1.0
    index = write_index(tmp_path / "features" / "x", values, conversation_N)
    found = 0
    for _ in range(20):
        in_a = np.isin(conversation_N, rng.permutation(400)[: int(400 * share)])
        one = separate(index, np.flatnonzero(in_a), np.flatnonzero(~in_a))
        assert one.n_tested > 200
        found += len(one.discoveries(0.05)) > 0
    assert found <= 2


def test_planted_features_are_found_and_the_others_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    conversation_N = np.repeat(np.arange(120), 6)
    in_a = conversation_N % 2 == 0
    values = (rng.random((720, 200)) < 0.1) * rng.gamma(2, 1, (720, 200))
    values[:, 3] = np.where(in_a, rng.random(720) < 0.6, rng.random(720) < 0.05) * 1.5
    values[:, 8] = np.where(in_a, 0, rng.random(720) < 0.5) * 1.5
    found = separate(
        write_index(tmp_path / "features" / "x", values, conversation_N), *map(np.flatnonzero, (in_a, ~in_a))
    )
    assert set(found.discoveries(0.01).tolist()) == {3, 8}
    assert found.auroc_F[3] > 0.7 > 0.3 > found.auroc_F[8]
    assert set(found.ranked(2).tolist()) == {3, 8}
    table = found.table()
    assert table.num_rows == 200
    assert table["auroc"][3].as_py() == pytest.approx(found.auroc_F[3])


def test_large_sets_are_read_feature_by_feature_to_the_same_figures(
    together: tuple[FeatureIndex, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _, conversation_N = together
    a, b = np.flatnonzero(conversation_N % 3 == 0), np.flatnonzero(conversation_N % 3 == 1)
    whole = separate(index, a, b)
    monkeypatch.setattr(separation, "_BLOCK", 500)
    parts = separate(index, a, b)
    for name in ("auroc_F", "p_F", "q_F", "effect_F", "conversations_F"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)


def test_other_clusters_can_be_named(together: tuple[FeatureIndex, Any, Any]) -> None:
    index, _, conversation_N = together
    a, b = np.flatnonzero(conversation_N % 2 == 0), np.flatnonzero(conversation_N % 2 == 1)
    named = separate(index, a, b, clusters_a=conversation_N[a] + 100, clusters_b=conversation_N[b] + 100)
    np.testing.assert_allclose(named.p_F, separate(index, a, b).p_F)
    alone = separate(index, a, b, clusters_a=a, clusters_b=b)
    assert np.nanmedian(alone.p_F) < np.nanmedian(named.p_F)
    with pytest.raises(ConfigError, match="both sets"):
        separate(index, a, b, clusters_a=a)


def test_too_few_conversations_give_figures_but_no_p_values(together: tuple[FeatureIndex, Any, Any]) -> None:
    index, _, conversation_N = together
    found = separate(index, np.flatnonzero(conversation_N < 3), np.flatnonzero(conversation_N >= 3))
    assert found.withheld == "set A has only 3 conversations, 5 needed"
    assert np.isnan(found.p_F).all()
    assert np.isnan(found.q_F).all()
    assert len(found.discoveries()) == 0
    assert np.isfinite(found.auroc_F).all()


def test_bad_sets_are_refused(together: tuple[FeatureIndex, Any, Any]) -> None:
    index = together[0]
    for a, b, words in (
        ([], [1], "set A is empty"),
        ([0], [], "set B is empty"),
        ([0, 1], [1, 2], "1 turns are in both"),
        ([0, 0], [1], "a turn twice"),
        ([-1], [1], "none of the"),
        ([0], [10**6], "none of the"),
    ):
        with pytest.raises(DataError, match=words):
            separate(index, a, b)


def test_no_torch() -> None:
    code = (
        "import sys, turnscope.audit.contrast, turnscope.audit.separation, turnscope.cli.contrast; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
