"""Laws recovered from losses drawn from known laws."""

import math
from itertools import product

import numpy as np
import pytest

from turnscope.stats import Withheld
from turnscope.training.scaling import (
    BestRate,
    Fit,
    Point,
    best_rates,
    flops,
    frontier,
    iso_compute,
    loss_by_compute,
    loss_by_size,
    power_law,
    predicted,
    rate_law,
)

D, K = 64, 8
WIDTHS, SAMPLES = (256, 512, 1024, 2048, 4096), (10**4, 10**5, 10**6, 10**7)


def grid(e: float, a: float, alpha: float, b: float, beta: float, noise: float = 0.0, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    return [
        Point(f, K, s, 1e-3, float((e + a * f**-alpha + b * s**-beta) * math.exp(noise * rng.normal())), D)
        for f, s in product(WIDTHS, SAMPLES)
    ]


def fit(found: Fit | Withheld) -> Fit:
    assert isinstance(found, Fit), found
    return found


def test_compute_is_counted_as_stated() -> None:
    # One sample: 64 x 256 products and sums forward, and four sparse passes of 64 x 8.
    assert flops(D, 256, K, 1) == 2 * 64 * 256 + 4 * 2 * 64 * 8
    assert Point(256, K, 1000, 1e-3, 0.1, D).flops == 1000 * flops(D, 256, K, 1)


@pytest.mark.parametrize(("a", "b", "c"), [(40.0, 0.25, 0.05), (3.0, 0.1, 0.0), (1e5, 0.6, 0.12)])
def test_loss_by_compute_finds_its_law(a: float, b: float, c: float) -> None:
    flops_P = np.geomspace(1e9, 1e15, 12)
    found = fit(loss_by_compute(flops_P.tolist(), (a * flops_P**-b + c).tolist())).values
    assert found["b"] == pytest.approx(b, rel=0.01)
    assert found["a"] == pytest.approx(a, rel=0.1)
    assert found["c"] == pytest.approx(c, abs=2e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.3), (0.25, 0.5), (0.6, 0.2)])
def test_loss_by_size_finds_its_law(alpha: float, beta: float) -> None:
    found = fit(loss_by_size(grid(0.05, 5.0, alpha, 8.0, beta)))
    assert found.values["alpha"] == pytest.approx(alpha, rel=0.02)
    assert found.values["beta"] == pytest.approx(beta, rel=0.02)
    assert found.values["e"] == pytest.approx(0.05, abs=2e-3)
    assert found.values["width"] == pytest.approx(beta / (alpha + beta), rel=0.02)
    assert predicted(found, 700, 3e5) == pytest.approx(0.05 + 5 * 700**-alpha + 8 * 3e5**-beta, rel=0.01)


def test_noise_is_told_by_the_errors() -> None:
    alpha, beta = 0.4, 0.3
    inside = 0
    for seed in range(8):
        found = fit(loss_by_size(grid(0.05, 5.0, alpha, 8.0, beta, noise=0.01, seed=seed)))
        inside += abs(found.values["alpha"] - alpha) < 2 * found.errors["alpha"]
        assert found.spread == pytest.approx(0.01, rel=0.6)
    # 95 % of intervals of two standard errors hold the truth; fewer than 5 of 8 come by chance in 4 of 10,000 tries.
    assert inside >= 5


def test_the_optimum_of_the_law_has_its_exponents() -> None:
    # Against a search over widths at each compute, where compute is F S and nothing else.
    e, a, alpha, b, beta = 0.02, 5.0, 0.4, 8.0, 0.3
    width = np.geomspace(1, 1e7, 200_001)
    best = []
    for compute in np.geomspace(1e10, 1e16, 7):
        loss = e + a * width**-alpha + b * (compute / width) ** -beta
        best.append((compute, float(width[loss.argmin()])))
    law = fit(power_law([c for c, _ in best], [w for _, w in best], "levels"))
    found = fit(loss_by_size(grid(e, a, alpha, b, beta)))
    assert found.values["width"] == pytest.approx(law.values["b"], abs=0.01)
    assert found.values["width"] + found.values["samples"] == pytest.approx(1)


def test_the_frontier_holds_what_nothing_cheaper_beats() -> None:
    points = [Point(256, K, s, 1e-3, loss, D) for s, loss in ((100, 0.5), (200, 0.6), (400, 0.4), (800, 0.45))]
    points += [Point(512, K, 800, 1e-3, 0.2, D)]
    assert [p.loss for p in frontier(points)] == [0.5, 0.4, 0.2]


def test_iso_compute_reads_between_runs_and_never_beyond() -> None:
    points = grid(0.05, 5.0, 0.4, 8.0, 0.3)
    found = iso_compute(points, levels=9)
    for point in found:
        assert SAMPLES[0] * 0.999 <= point.n_samples <= SAMPLES[-1] * 1.001
        assert flops(D, point.n_features, K, point.n_samples) == pytest.approx(point.flops)
        # A straight line between decades of a gently bent curve.
        truth = 0.05 + 5 * point.n_features**-0.4 + 8 * point.n_samples**-0.3
        assert point.loss == pytest.approx(truth, rel=0.05)
    assert len({p.flops for p in found}) == 9
    assert iso_compute([]) == []


def test_the_rate_law_is_found_and_edges_are_left_out() -> None:
    rates = np.geomspace(1e-4, 1e-1, 9)
    points = []
    for width in WIDTHS:
        best = 2e-3 * math.sqrt(2**10 / width)
        points += [Point(width, K, 10**5, lr, math.exp(0.05 * math.log(lr / best) ** 2), D) for lr in rates]
    found = best_rates(points)
    assert [rate.lr for rate in found] == pytest.approx([2e-3 * math.sqrt(2**10 / w) for w in WIDTHS], rel=1e-3)
    law = fit(rate_law(found)).values
    assert law["b"] == pytest.approx(-0.5, abs=1e-3)
    assert law["a"] * 2**10 ** law["b"] == pytest.approx(2e-3, rel=0.01) or law["a"] == pytest.approx(2e-3 * 32)
    edges = best_rates([p for p in points if p.lr > 5e-3])
    assert all(rate.at_edge for rate in edges)
    withheld = rate_law([*edges[:4], BestRate(8192, 1e-3, False)])
    assert isinstance(withheld, Withheld)
    assert "at the edge" in withheld.reason


def test_too_few_points_are_withheld() -> None:
    assert isinstance(loss_by_compute([1e9, 1e10, 1e11], [0.3, 0.2, 0.1]), Withheld)
    assert isinstance(power_law([1.0, 2.0, 2.0], [1.0, 2.0, 2.0], "x"), Withheld)
    points = [p for p in grid(0.05, 5.0, 0.4, 8.0, 0.3) if p.n_features < 1000]
    found = loss_by_size(points)
    assert isinstance(found, Withheld)
    assert "2 widths and 4 sample counts" in found.reason
    assert best_rates(points) == []
