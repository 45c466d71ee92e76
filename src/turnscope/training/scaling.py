"""Laws fitted to a sweep: loss by compute, by width and samples, and the learning rate by width.

Compute is counted as the arithmetic that grows with the dictionary: one encoder product forward, 2 d F a sample, and
four passes over the active entries (decode, their gradient, and the two weight gradients), 2 d k each. The backward
pass is sparse, so it has no product of d by F; Adam (about 20 d F a step) is left out, and is a share 10 / B of the
encoder product. Hence C = 2 d S (F + 4 k) for S samples.

Fits are by least squares in log loss, from several starts, with the standard errors of the linearised fit; a parameter
at its bound has an error of little meaning. A fit with fewer points than it needs is withheld with the reason.

Legend: P points (finished runs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from turnscope.stats import Withheld

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """One finished run. `loss` is the held-out error that the laws are about."""

    n_features: int
    k: int
    n_samples: int
    lr: float
    loss: float
    d_model: int

    @property
    def flops(self) -> float:
        """Floating-point operations of the run; see the head of the file."""
        return flops(self.d_model, self.n_features, self.k, self.n_samples)


def flops(d_model: int, n_features: int, k: int, n_samples: float) -> float:
    """2 d S (F + 4 k).

    >>> flops(10, 100, 5, 1000)
    2400000.0
    """
    return 2.0 * d_model * n_samples * (n_features + 4 * k)


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters by name with their standard errors, and the spread of log loss (or log lr) around the law."""

    values: dict[str, float]
    errors: dict[str, float]
    spread: float
    n_points: int

    def record(self) -> dict[str, Any]:
        """Plain numbers, for JSON; an error that cannot be told (as many parameters as points) is left out."""
        told = {name: error for name, error in self.errors.items() if math.isfinite(error)}
        return {"values": self.values, "standard_errors": told, "spread": self.spread, "points": self.n_points}


def loss_by_compute(flops_P: Sequence[float], loss_P: Sequence[float]) -> Fit | Withheld:
    """L(C) = a C^-b + c with c >= 0, on the points given (the frontier, as a rule). C in FLOPs."""
    if len(set(flops_P)) < 4:
        return Withheld(f"{len(set(flops_P))} compute levels: three parameters need at least 4")
    x, y = np.asarray(flops_P, float), np.asarray(loss_P, float)
    middle = math.exp(float(np.log(x).mean()))

    def law(p: Floats) -> Floats:
        return np.exp(p[0]) * (x / middle) ** -p[1] + p[2]

    starts = [np.array([math.log(y.mean()), b, c * y.min()]) for b, c in product((0.1, 0.3, 0.8), (0.0, 0.5, 0.9))]
    p, errors, spread = _fit(law, y, starts, ([-60, 1e-6, 0], [60, 10, y.min()]))
    a = math.exp(p[0]) * middle ** p[1]
    values = {"a": a, "b": float(p[1]), "c": float(p[2])}
    return Fit(values, {"b": float(errors[1]), "c": float(errors[2])}, spread, len(y))


def loss_by_size(points: Sequence[Point]) -> Fit | Withheld:
    """L(F, S) = e + A F^-alpha + B S^-beta, and from it the compute-optimal F ~ C^width and S ~ C^samples.

    Where C grows as F S, the least loss at a given C has width = beta / (alpha + beta), samples = alpha / (alpha +
    beta): a dictionary should grow faster than its data where more data helps faster than more features do.
    """
    widths, samples = {p.n_features for p in points}, {p.n_samples for p in points}
    if len(widths) < 3 or len(samples) < 3:
        reason = f"{len(widths)} widths and {len(samples)} sample counts: the law of both needs 3 of each"
        return Withheld(reason)
    f = np.array([p.n_features for p in points], float)
    s = np.array([p.n_samples for p in points], float)
    y = np.array([p.loss for p in points])
    f0, s0 = math.exp(float(np.log(f).mean())), math.exp(float(np.log(s).mean()))

    def law(p: Floats) -> Floats:
        return p[0] + np.exp(p[1]) * (f / f0) ** -p[2] + np.exp(p[3]) * (s / s0) ** -p[4]

    def start(c: float, alpha: float, beta: float) -> Floats:
        part = math.log((1 - c) * y.mean() / 2)
        return np.array([c * y.min(), part, alpha, part, beta])

    starts = [start(0.1, 0.3, 0.3), start(0.6, 0.1, 0.5), start(0.6, 0.5, 0.1)]
    p, errors, spread = _fit(law, y, starts, ([0, -60, 1e-6, -60, 1e-6], [y.min(), 60, 10, 60, 10]))
    alpha, beta = float(p[2]), float(p[4])
    values = {
        "e": float(p[0]), "A": math.exp(p[1]) * f0**alpha, "alpha": alpha, "B": math.exp(p[3]) * s0**beta,
        "beta": beta, "width": beta / (alpha + beta), "samples": alpha / (alpha + beta),
    }  # fmt: skip
    # Of beta / (alpha + beta), the two errors taken as independent.
    share = math.hypot(beta * errors[2], alpha * errors[4]) / (alpha + beta) ** 2
    told = {"e": float(errors[0]), "alpha": float(errors[2]), "beta": float(errors[4])}
    return Fit(values, {**told, "width": share, "samples": share}, spread, len(points))


def predicted(size_law: Fit, n_features: float, n_samples: float) -> float:
    """The loss that `loss_by_size` expects."""
    v = size_law.values
    return v["e"] + v["A"] * n_features ** -v["alpha"] + v["B"] * n_samples ** -v["beta"]


def power_law(x: Sequence[float], y: Sequence[float], what: str) -> Fit | Withheld:
    """Fit y = a x^b, by a straight line through the logarithms; withheld under three different x."""
    if len(set(x)) < 3:
        return Withheld(f"{len(set(x))} different {what}: a law needs at least 3")
    u, v = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    centred = u - u.mean()
    b = float(centred @ v / (centred @ centred))
    left = v - v.mean() - b * centred
    free = len(u) - 2
    error = math.sqrt(float(left @ left) / free / float(centred @ centred))
    values = {"a": math.exp(float(v.mean()) - b * float(u.mean())), "b": b}
    return Fit(values, {"b": error}, math.sqrt(float(left @ left) / free), len(u))


def frontier(points: Sequence[Point]) -> list[Point]:
    """Runs that no run of as much or less compute beats, by compute."""
    best, kept = math.inf, list[Point]()
    for point in sorted(points, key=lambda p: (p.flops, p.loss)):
        if point.loss < best:
            kept.append(point)
            best = point.loss
    return kept


@dataclass(frozen=True, slots=True)
class IsoPoint:
    """A width at a given compute, its loss read between two runs of that width."""

    flops: float
    n_features: int
    n_samples: float
    loss: float


def iso_compute(points: Sequence[Point], levels: int = 7) -> list[IsoPoint]:
    """Loss by width at equal compute (runs of one k): log loss is read off straight lines in log samples between a
    width's runs, and never beyond them.
    """
    by_width: dict[int, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.n_samples):
        by_width.setdefault(point.n_features, []).append(point)
    if not points:
        return []
    low, high = (bound(p.flops for p in points) for bound in (min, max))
    found = list[IsoPoint]()
    for level in np.geomspace(low, high, levels).tolist():
        for width, runs in sorted(by_width.items()):
            n_samples = level / flops(runs[0].d_model, width, runs[0].k, 1)
            measured = [run.n_samples for run in runs]
            if len(runs) > 1 and measured[0] * (1 - 1e-9) <= n_samples <= measured[-1] * (1 + 1e-9):
                log_loss = np.interp(math.log(n_samples), np.log(measured), np.log([run.loss for run in runs]))
                found.append(IsoPoint(level, width, n_samples, math.exp(float(log_loss))))
    return found


@dataclass(frozen=True, slots=True)
class BestRate:
    """The learning rate at which a width does best; `at_edge` when the best one tried was the first or last."""

    n_features: int
    lr: float
    at_edge: bool


def best_rates(points: Sequence[Point]) -> list[BestRate]:
    """For each width the bottom of the parabola through the best rate and its neighbours, in log lr and log loss.

    Points are of one k and one number of samples. Widths with fewer than three rates are left out.
    """
    found = list[BestRate]()
    for width in sorted({p.n_features for p in points}):
        tried = sorted({p.lr: p.loss for p in points if p.n_features == width}.items())
        if len(tried) < 3:
            continue
        place = min(range(len(tried)), key=lambda i: tried[i][1])
        if place in (0, len(tried) - 1):
            found.append(BestRate(width, tried[place][0], at_edge=True))
            continue
        near = tried[place - 1 : place + 2]
        curve = np.polyfit(np.log([lr for lr, _ in near]), np.log([loss for _, loss in near]), 2)
        found.append(BestRate(width, math.exp(-curve[1] / (2 * curve[0])), at_edge=False))
    return found


def rate_law(rates: Sequence[BestRate]) -> Fit | Withheld:
    """Fit lr = a F^b through the widths whose best rate lies inside the rates tried."""
    inside = [rate for rate in rates if not rate.at_edge]
    law = power_law([rate.n_features for rate in inside], [rate.lr for rate in inside], "widths with a best lr inside")
    if isinstance(law, Withheld) and len(inside) < len(rates):
        edges = ", ".join(str(rate.n_features) for rate in rates if rate.at_edge)
        return Withheld(f"{law.reason}; at the edge of the rates tried: width {edges}")
    return law


def _fit(
    law: Callable[[Floats], Floats], y: Floats, starts: Sequence[Floats], bounds: tuple[Any, Any]
) -> tuple[Floats, Floats, float]:
    """Parameters, their standard errors and the spread: least squares of log(law) - log(y), the best of the starts."""
    low, high = (np.asarray(bound, float) for bound in bounds)

    def misses(p: Floats) -> Floats:
        return np.log(np.maximum(law(p), 1e-300)) - np.log(y)

    inside = [np.clip(start, low + 1e-9, high - 1e-12) for start in starts]
    found = [least_squares(misses, start, bounds=bounds, x_scale="jac", max_nfev=2000) for start in inside]
    best = min(found, key=lambda result: result.cost)
    free = len(y) - len(best.x)
    if free <= 0:
        return best.x, np.full(len(best.x), np.nan), 0.0
    spread = math.sqrt(2 * best.cost / free)
    return best.x, spread * np.sqrt(np.diag(np.linalg.pinv(best.jac.T @ best.jac))), spread
