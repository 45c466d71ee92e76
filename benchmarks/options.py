"""The trainer's options, one at a time, on a planted dictionary: `python benchmarks/options.py [--quick]`.

Each row is one option changed from the defaults, trained in this process on the rows of `peers/planted.py` (D 128, 1024
features for 512 true ones, k 8, 1000 batches of 1024), over three dictionaries with their own seeds. Printed: fraction
of variance unexplained and mean active features on held rows; the mean over true features of the largest cosine of a
decoder row (MMCS); features that never fired in the last `dead_after` samples. `--only` picks architectures and
`--options` options.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from peers.job import SMALL
from peers.planted import Rows, Trained, quality, write_rows

BATCHES = 256


class Option(NamedTuple):
    """Settings that differ from the defaults, and the architectures that they are tried on."""

    name: str
    settings: dict[str, Any]
    architectures: tuple[str, ...]


CHOSEN = ("topk", "batchtopk", "matryoshka")
STEERED = ("relu", "gated")
OPTIONS = (
    Option("defaults", {}, (*CHOSEN, *STEERED, "jumprelu")),
    Option("clip at 1: as good as none", {"clip_norm": 1.0}, (*CHOSEN, *STEERED, "jumprelu")),
    Option("twice the rate", {"lr": 2e-3}, CHOSEN),
    Option("four times the rate", {"lr": 4e-3}, CHOSEN),
    Option("random directions at the start", {"init_data_share": 0.0}, CHOSEN),
    Option("data alone at the start", {"init_data_share": 1.0}, CHOSEN),
    Option("no AuxK", {"auxk_coefficient": 0.0}, CHOSEN),
    Option("no falling rate", {"decay_share": 0.0}, CHOSEN),
    Option("no rising rate", {"warmup_share": 0.0}, CHOSEN),
    Option("a tenth of the window", {"bandwidth": 0.1}, ("jumprelu",)),
    Option("a hundredth of the window", {"bandwidth": 0.01}, ("jumprelu",)),
    Option("a tenth of the penalty", {"sparsity": 0.03}, ("jumprelu",)),
)


def main() -> int:
    """Train, print rows and targets; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the defaults, one seed, 300 steps")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="architectures")
    parser.add_argument("--options", nargs="+", default=[""], metavar="PART", help="options with this in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    arguments = parser.parse_args()
    os.environ |= {"TURNSCOPE_QUIET": "1"}
    seeds, steps = (1, 300) if arguments.quick else (arguments.seeds, 1000)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folders = [write_rows(Path(name) / str(seed), SMALL, BATCHES, 2 + seed) for seed in range(seeds)]
        wanted = [option for option in OPTIONS if any(part in option.name for part in arguments.options)]
        for option in OPTIONS[:1] if arguments.quick else wanted:
            for architecture in option.architectures:
                if arguments.only and architecture not in arguments.only:
                    continue
                row = {"option": option.name, "architecture": architecture, "settings": option.settings}
                rows.append(row | summary([*runs(folders, architecture, steps, option.settings)]))
                print(line(rows[-1]), flush=True)
    goals = targets(rows, steps)
    for goal in goals:
        print(f"{'ok  ' if goal['holds'] else 'MISS'} {goal['name']}: {goal['value']} (goal {goal['goal']})")
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows, "targets": goals}, indent=1))
    return 0 if all(goal["holds"] for goal in goals) else 1


def runs(folders: list[Path], architecture: str, steps: int, settings: dict[str, Any]) -> Iterator[dict[str, float]]:
    """The figures of one run on each folder of rows."""
    from torch import Tensor

    from turnscope.training.config import TrainConfig
    from turnscope.training.sources import ArraySource
    from turnscope.training.train import run as train

    for seed, folder in enumerate(folders):
        rows = Rows(folder, SMALL)
        config = TrainConfig(
            out=folder / f"sae-{time.monotonic_ns()}", architecture=architecture, n_features=SMALL.features, k=SMALL.k,
            batch_size=SMALL.batch, n_samples=steps * SMALL.batch, seed=seed, log_every=steps, threads=1,
            **{"lr": SMALL.lr, **settings},
        )  # fmt: skip
        result = train(config, source=ArraySource(rows.read(0, rows.n_train).numpy(), SMALL.batch, seed))
        sae = result.load()

        def rebuild(x_ND: Tensor, sae: Any = sae) -> tuple[Tensor, float]:
            codes = sae.encode(x_ND)
            return sae.decode(codes), codes.n_entries / len(x_ND)

        yield quality(Trained(rebuild, sae.w_dec_FD), rows) | {"dead": float(result.metrics["dead"])}


def summary(found: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds, and the deviation of the error."""
    figures = {name: fmean(one[name] for one in found) for name in ("fvu", "l0", "mmcs", "recovered", "dead")}
    return figures | {"fvu_sd": stdev(one["fvu"] for one in found) if len(found) > 1 else 0.0, "seeds": len(found)}


def targets(rows: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """What the defaults are held to at 1000 steps: k is met."""
    if steps < 1000:
        return []
    return [
        {
            "name": f"{row['architecture']}: active features asked for and found",
            "value": round(row["l0"], 2),
            "goal": f"{SMALL.k} within 5 %",
            "holds": abs(row["l0"] / SMALL.k - 1) <= 0.05,
        }
        for row in rows
        if row["option"] == "defaults"
    ]


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    return (
        f"{row['architecture']:<11} {row['option']:<31} FVU {row['fvu']:.4f} ({row['fvu_sd']:.4f})  "
        f"L0 {row['l0']:6.2f}  MMCS {row['mmcs']:.4f}  dead {row['dead']:4.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
