"""Benjamini-Hochberg: against scipy, against its definition, and by the rate of false discoveries it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, norm

from turnscope.artifacts import DataError
from turnscope.stats import benjamini_hochberg


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_definition(p: list[float], q: float) -> None:
    adjusted = benjamini_hochberg(p)
    np.testing.assert_allclose(adjusted, false_discovery_control(p), rtol=1e-12)
    # Step-up: reject the k smallest, k the largest rank whose p value is at most q k / m.
    ordered = np.sort(p)
    ranks = np.arange(1, len(p) + 1)
    if np.min(np.abs(ordered * len(p) / ranks - q)) > 1e-9:
        below = ranks[ordered * len(p) / ranks <= q]
        assert (adjusted <= q).sum() == (below[-1] if len(below) else 0)


def test_false_discoveries_stay_at_the_promised_rate() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        null = np.arange(200) < 150
        p = norm.sf(rng.normal(size=200) + np.where(null, 0, 3))
        found = benjamini_hochberg(p) <= 0.1
        shares.append((found & null).sum() / max(found.sum(), 1))
    assert np.mean(shares) == pytest.approx(0.1 * 150 / 200, abs=0.012)  # the theory's value under independence


def test_nothing_to_test() -> None:
    assert benjamini_hochberg([]).shape == (0,)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_no_p_value(bad: float) -> None:
    with pytest.raises(DataError):
        benjamini_hochberg([0.5, bad])
