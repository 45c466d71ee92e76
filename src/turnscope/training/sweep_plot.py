"""Curves of a sweep, where matplotlib is there."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from turnscope.artifacts import DependencyError

PLOT_NAME = "sweep.png"


def plot(report: Mapping[str, Any], folder: Path) -> Path:
    """Loss by compute for each width with the fitted law, and loss by width at equal compute; a row for each k.

    Returns the picture's path. DependencyError, naming the extra, without matplotlib.
    """
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        fix = 'pip install "turnscope[plot]"'
        raise DependencyError("matplotlib is not installed: there is a table, and no plot", fix=fix) from error
    families = report["laws"]
    figure = figures.Figure(figsize=(11, 4 * len(families)), layout="constrained")
    axes = figure.subplots(len(families), 2, squeeze=False)
    for (name, laws), (by_compute, by_width) in zip(families.items(), axes, strict=True):
        rows = [row for row in report["rows"] if f"{row['architecture']}, k {row['k']}" == name]
        for width in sorted({row["n_features"] for row in rows}):
            line = sorted((row["flops"], row["loss"]) for row in rows if row["n_features"] == width)
            by_compute.plot(*zip(*line, strict=True), "o-", label=f"F {width}")
        law = laws["loss_by_compute"].get("values")
        if law:
            low, high = (math.log(bound(row["flops"] for row in rows)) for bound in (min, max))
            grid = [math.exp(low + (high - low) * i / 60) for i in range(61)]
            label = f"{law['a']:.3g} C^-{law['b']:.3g} + {law['c']:.3g}"
            by_compute.plot(grid, [law["a"] * c ** -law["b"] + law["c"] for c in grid], "k--", label=label)
        for level in sorted({point["flops"] for point in laws["iso_compute"]}):
            same = sorted((p["n_features"], p["loss"]) for p in laws["iso_compute"] if p["flops"] == level)
            by_width.plot(*zip(*same, strict=True), "o-", label=f"C {level:.1e}")
        by_compute.set(xscale="log", yscale="log", xlabel="FLOPs", ylabel="held-out centred nMSE", title=name)
        by_width.set(xscale="log", yscale="log", xlabel="features", title=f"{name}, at equal compute")
        by_compute.legend(fontsize=7)
        by_width.legend(fontsize=7)
    figure.savefig(folder / PLOT_NAME, dpi=120)
    return folder / PLOT_NAME
