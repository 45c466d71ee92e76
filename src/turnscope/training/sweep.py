"""A sweep: a grid of dictionaries on one store, the laws fitted to them, and a table.

The sweep's folder holds `cells/NAME`, each a `sae` artifact, and `report`, the `sweep` artifact: the table as parquet,
and the table, equal-compute curves and laws as JSON. Cells are trained in one pass over the data (`several`), as many
together as fit into memory, and those that are there are only read: a sweep that was stopped goes on cell by cell, and
one whose grid has grown trains what is new and writes its report anew.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from turnscope.artifacts import Artifact, Config, ConfigError, IntegrityError, RunFolder, begin, write_bytes, write_json
from turnscope.harvest.store import open_activations
from turnscope.sae.config import Architecture
from turnscope.stats import Withheld
from turnscope.training.config import TrainConfig
from turnscope.training.job import TrainResult
from turnscope.training.scaling import (
    Fit,
    Point,
    best_rates,
    frontier,
    iso_compute,
    loss_by_compute,
    loss_by_size,
    power_law,
    rate_law,
)
from turnscope.training.several import run_several

LAWS_NAME, TABLE_NAME, CELLS, REPORT = "sweep.json", "table.parquet", "cells", "report"
COMPUTE = "C = 2 d S (F + 4 k) floating-point operations for S samples, F features, k active, width d"

LOSS = "held-out centred nMSE, 1 - FVE"


class SweepConfig(Config):
    """A grid of dictionaries; `run` takes one."""

    source: Path
    """Activation store folder."""
    out: Path
    """The sweep's folder."""
    widths: tuple[int, ...] = Field(min_length=1)
    k: tuple[int, ...] = Field(min_length=1)
    samples: tuple[int, ...] = Field(min_length=1)
    """Samples that a cell is trained on; each has a schedule of its own, since a rate that has not come down yet would
    not tell what so many samples give."""
    lr: tuple[float, ...] = ()
    """Learning rates; none: the rule of `train`."""
    architectures: tuple[Architecture, ...] = ("batchtopk",)
    seeds: tuple[int, ...] = (0,)
    """Of the initial weights; the order of rows is that of the first."""
    unit: str = Field(default="turn", pattern="^(turn|token)$")
    batch_size: int | None = Field(default=None, ge=1)
    memory: int = Field(default=2 << 30, ge=1 << 20, exclude=True)
    """Bytes for the cells trained in one pass: weights, gradients and Adam's moments. Changes nothing in the result."""

    @field_validator("widths", "k", "samples", "lr", "architectures", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value is named twice")
        if any(isinstance(value, int | float) and value < 0 for value in values):
            raise ValueError("values are positive")
        return values


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep: the report's artifact, what `sweep.json` says, and the dictionaries."""

    artifact: Artifact
    report: Mapping[str, Any]
    cells: tuple[TrainResult, ...]
    notes: tuple[str, ...]


def run(config: SweepConfig) -> SweepResult:
    """Train every cell of the grid that is not there, fit the laws, write the artifact.

    Raises as `train.run` does; ConfigError, before any work, when some k exceeds some width.
    """
    cells, folder = list(cells_of(config)), RunFolder(config.out)
    with folder.lock():
        results = list[TrainResult]()
        for group in cell_groups(cells, config):
            results += run_several(group)
        report = {"compute": COMPUTE, "loss": LOSS, **report_of([_row(result) for result in results])}
        inputs = {result.path.name: result.artifact.fingerprint for result in results}
        artifact = _written(folder.artifact(REPORT), config, inputs, report)
    notes = tuple(dict.fromkeys(f"{result.path.name}: {note}" for result in results for note in result.notes))
    return SweepResult(artifact, report, tuple(results), notes)


def _written(path: Path, config: SweepConfig, inputs: Mapping[str, str], report: Mapping[str, Any]) -> Artifact:
    """The report's artifact. One of another grid is replaced: it is made of the cells, and they are all there."""
    try:
        work = begin(path, "sweep", config, inputs)
    except IntegrityError:
        Artifact.open(path, "sweep")  # nothing but a report is thrown away
        shutil.rmtree(path)
        work = begin(path, "sweep", config, inputs)
    if isinstance(work, Artifact):
        return work
    write_json(work.path / LAWS_NAME, report)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(report["rows"]), buffer)
    write_bytes(work.path / TABLE_NAME, buffer.getvalue())
    return work.commit({"cells": len(inputs)})


def cells_of(config: SweepConfig) -> Iterator[TrainConfig]:
    """The grid, one config for each dictionary. ConfigError when some k exceeds some width."""
    if max(config.k) > min(config.widths):
        raise ConfigError(f"k = {max(config.k)} is greater than width {min(config.widths)}", where="SweepConfig")
    folder = config.out / CELLS
    for architecture in config.architectures:
        for seed in config.seeds:
            for width in config.widths:
                for k in config.k:
                    for samples in config.samples:
                        for lr in config.lr or (None,):
                            parts = [f"f{width}", f"k{k}", f"s{samples}", *([f"lr{lr:g}"] if lr else [])]
                            parts += [architecture] * (len(config.architectures) > 1)
                            parts += [f"seed{seed}"] * (len(config.seeds) > 1)
                            yield TrainConfig.model_validate(
                                {
                                    "source": config.source, "out": folder / "-".join(parts), "unit": config.unit,
                                    "architecture": architecture, "seed": seed, "shuffle_seed": config.seeds[0],
                                    "n_features": width, "k": k, "n_samples": samples, "lr": lr,
                                    "batch_size": config.batch_size,
                                }
                            )  # fmt: skip


def cell_groups(cells: Sequence[TrainConfig], config: SweepConfig) -> Iterator[list[TrainConfig]]:
    """Cells in passes of which each fits into the memory."""
    d_model, group, held = open_activations(config.source).d_model, list[TrainConfig](), 0
    for cell in cells:
        # Encoder and decoder, each with a gradient and two moments, in float32.
        size = 2 * 4 * 4 * d_model * (cell.n_features or 0)
        if group and held + size > config.memory:
            yield group
            group, held = list[TrainConfig](), 0
        group.append(cell)
        held += size
    yield group


def _row(result: TrainResult) -> dict[str, Any]:
    config, metrics = result.config, result.metrics
    d_model = result.load().config.d_model
    point = Point(config.n_features, config.k, metrics["samples"], config.lr, metrics["held_nmse_centred"], d_model)
    return {
        "cell": result.path.name, "architecture": config.architecture, "seed": config.seed, **asdict(point),
        "flops": point.flops, "nmse_raw": metrics["held_nmse_raw"], "l0": metrics["held_l0"], "dead": metrics["dead"],
    }  # fmt: skip


def report_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table, and laws for every architecture and k: the best rate and the mean of seeds stand for a cell."""
    families = dict[str, Any]()
    for architecture, k in sorted({(row["architecture"], row["k"]) for row in rows}):
        points = [_point(row) for row in rows if (row["architecture"], row["k"]) == (architecture, k)]
        families[f"{architecture}, k {k}"] = _laws(points)
    return {"rows": [dict(row) for row in rows], "laws": families}


def _point(row: Mapping[str, Any]) -> Point:
    return Point(*(row[name] for name in ("n_features", "k", "n_samples", "lr", "loss", "d_model")))


def _laws(points: Sequence[Point]) -> dict[str, Any]:
    best = best_of(points)
    edge = frontier(best)
    longest = max(point.n_samples for point in points)
    rates = best_rates(mean_of_seeds([point for point in points if point.n_samples == longest]))
    return {
        "frontier": [{"flops": p.flops, **asdict(p)} for p in edge],
        "iso_compute": [asdict(point) for point in iso_compute(best)],
        "loss_by_compute": _record(loss_by_compute([p.flops for p in edge], [p.loss for p in edge])),
        "loss_by_size": _record(loss_by_size(best)),
        "width_by_compute": _record(_along(edge, "n_features")),
        "samples_by_compute": _record(_along(edge, "n_samples")),
        "best_rates": [asdict(rate) for rate in rates],
        "rate_by_width": _record(rate_law(rates)),
    }


def _along(edge: Sequence[Point], name: str) -> Fit | Withheld:
    return power_law([p.flops for p in edge], [getattr(p, name) for p in edge], "compute levels on the frontier")


def mean_of_seeds(points: Sequence[Point]) -> list[Point]:
    """One point for each cell, with the mean loss of its seeds."""
    cells: dict[tuple[int, int, float], list[Point]] = {}
    for point in points:
        cells.setdefault((point.n_features, point.n_samples, point.lr), []).append(point)
    return [
        Point(f, same[0].k, s, lr, sum(p.loss for p in same) / len(same), same[0].d_model)
        for (f, s, lr), same in cells.items()
    ]


def best_of(points: Sequence[Point]) -> list[Point]:
    """One point for each width and number of samples: the one of the best rate."""
    best: dict[tuple[int, int], Point] = {}
    for point in mean_of_seeds(points):
        key = (point.n_features, point.n_samples)
        if key not in best or point.loss < best[key].loss:
            best[key] = point
    return list(best.values())


def _record(found: Fit | Withheld) -> dict[str, Any]:
    return {"withheld": found.reason} if isinstance(found, Withheld) else found.record()
