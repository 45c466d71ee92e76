"""Training held against its limit and against other libraries: `python benchmarks/training.py [--quick] [--json FILE]`.

The limit is the encoder's dense product, which every process measures between its own steps, so that rows compare on a
busy machine. Each library trains in its own loop and its own environment (`python benchmarks/peers/install.py`), each
row in a fresh process. Without other options: time and memory of a step at D 896, F 16384, k 32, batch 2048, float32.
`--quality`: error and recovery on a planted dictionary, each library at its best learning rate. `--growth`: our time
for a sample against F and D; beside the JSON it draws a PNG where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from peers.apart import THREADS, apart
from peers.install import python_of
from peers.job import BIG, SMALL, Job, Shape
from peers.planted import write_rows

PEERS_REVIVE_AFTER = 10_000_000
"""Samples after which the peers, as they come, call a feature dead."""


class Row(NamedTuple):
    """A library and one of its ways to train; options go to its config. A variant's first word says what it rivals."""

    library: str
    variant: str
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    @property
    def name(self) -> str:
        return f"{self.library}:{self.variant}"


OURS = (
    Row("turnscope", "topk", {"architecture": "topk"}),
    Row("turnscope", "batchtopk", {"architecture": "batchtopk"}),
    Row("turnscope", "topk bf16", {"architecture": "topk", "encoder_dtype": "bfloat16"}),
    Row("turnscope", "batchtopk bf16", {"architecture": "batchtopk", "encoder_dtype": "bfloat16"}),
    Row("turnscope", "matryoshka", {"architecture": "matryoshka", "prefixes": [1 / 8, 1 / 4, 1 / 2]}),
    Row("turnscope", "jumprelu", {"architecture": "jumprelu"}),
    Row("turnscope", "relu", {"architecture": "relu"}),
    Row("turnscope", "gated", {"architecture": "gated"}),
)
LIMITS = (Row("limit", "float32"), Row("limit", "bfloat16"))
PEERS = (
    *(Row("sparsify", variant, options) for variant, options in (
        ("topk", {}), ("topk signum", {"optimizer": "signum", "lr": None}),
    )),
    *(Row("saelens", kind) for kind in ("topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated")),
    *(Row("dictlearn", kind) for kind in ("topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated")),
    *(Row("overcomplete", kind) for kind in ("topk", "batchtopk", "jumprelu", "relu")),
)  # fmt: skip
QUALITY = (
    *OURS[:2],
    Row("sparsify", "topk"),
    *(Row("saelens", kind) for kind in ("topk", "batchtopk")),
    *(Row("saelens", f"{kind} unit start", {"decoder_init_norm": 1.0}) for kind in ("topk", "batchtopk")),
    *(Row("dictlearn", kind) for kind in ("topk", "batchtopk")),
    *(Row("overcomplete", kind) for kind in ("topk", "batchtopk")),
)
SEEDS = 3
FIRST_LRS = (1e-3, 2e-3, 4e-3)
MOST_LRS = 8


def main() -> int:
    """Run what was asked for, print rows and targets; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours and the limit, few steps: under three minutes")
    parser.add_argument("--steps", type=int, help="timed steps of a row (and 3 to warm up); with --quality all steps")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="libraries, variants or LIBRARY:VARIANT")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--quality", action="store_true", help="figures on a planted dictionary")
    part.add_argument("--growth", action="store_true", help="our time against F and D")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.quality:
            chosen = pick((OURS[:2] if arguments.quick else QUALITY), arguments.only)
            rows = [*qualities(chosen, folder, arguments.steps or (200 if arguments.quick else 1000))]
            goals = quality_targets(rows)
        elif arguments.growth:
            rows, goals = [*growth(folder, arguments.steps or (3 if arguments.quick else 8), arguments.quick)], []
        else:
            chosen = pick((*LIMITS, *OURS, *(() if arguments.quick else PEERS)), arguments.only)
            rows = [*speeds(chosen, folder, arguments.steps or (8 if arguments.quick else 20))]
            goals = speed_targets({row["name"]: row for row in rows})
    for goal in goals:
        print(f"{'ok  ' if goal['holds'] else 'MISS'} {goal['name']}: {goal['value']} (goal {goal['goal']})")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {THREADS} threads, Python {platform.python_version()}"
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows, "targets": goals}, indent=1))
    if arguments.growth:
        report_growth(rows, arguments.json)
    return 0 if all(goal["holds"] for goal in goals) else 1


def pick(rows: tuple[Row, ...], only: list[str]) -> list[Row]:
    """The rows named, of those whose environment is there."""
    wanted = [row for row in rows if not only or {row.name, row.library, row.variant.split()[0], row.variant} & {*only}]
    peers = dict.fromkeys(row.library for row in wanted if row.library not in ("turnscope", "limit"))
    missing = {library for library in peers if python_of(library) is None}
    return [row for row in wanted if row.library not in missing]


def measure(row: Row, job: Job) -> dict[str, Any]:
    """One row in a fresh process."""
    found = apart(row.library, "peers.train_one", job._asdict(), Path(job.folder))
    for word in ("skip", "error"):
        if word in found:
            print(f"{word} {row.name}: {found[word].splitlines()[0]}", flush=True)
    return {"name": row.name, "library": row.library, "variant": row.variant, **found}


def speeds(rows: list[Row], folder: Path, steps: int) -> Iterator[dict[str, Any]]:
    """Time and memory of a step at the large shape."""
    total = steps + 3
    data = write_rows(folder / "rows", BIG, min(64, total + 1), seed=0)
    for row in rows:
        options = {"dead_after": PEERS_REVIVE_AFTER, **row.options} if row.library == "turnscope" else row.options
        job = Job(row.library, row.variant, str(data), str(folder), [*BIG], total, BIG.lr, options=options)
        found = measure(row, job)
        if "ms" in found:
            print(
                f"{row.name:<24} {found['ms']:8.1f} ms a step ({found['ms_p10']:.0f} to {found['ms_p90']:.0f}), "
                f"{found['ratio']:6.2f} of the limit, {found['added_mib']:6.0f} MiB more "
                f"({found['added_mib_to_the_end']:.0f} to the end), {found['clean']} of {found['steps']} steps clean",
                flush=True,
            )
        yield found


def speed_targets(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the limit and against the best peer; nothing is said of rows that were left out."""
    goals: list[dict[str, Any]] = []
    for row in OURS:
        found = rows.get(row.name, {"skip": ""})
        if "error" in found:
            goals.append(_target(f"{row.name} runs", found["error"], "no error", holds=False))
        if "ratio" not in found:
            continue
        kind = row.variant.split()[0]
        rivals = [
            rival
            for peer in PEERS
            if peer.variant.split()[0] == kind and "ratio" in (rival := rows.get(peer.name, {"skip": ""}))
        ]
        if kind in ("topk", "batchtopk"):
            most = 1.1 if "bf16" in row.variant else 1.6
            goals.append(_at_most(f"{row.name}, of the limit", found["ratio"], most))
        elif rivals and kind != "gated":
            best = min(rivals, key=lambda rival: rival["ratio"])
            share = found["ratio"] / best["ratio"]
            goals.append(_at_most(f"{row.name}, of the time of {best['name']}", share, 1 / 3))
        if rivals:
            least = min(rivals, key=lambda rival: rival["added_mib"])
            goals.append(_at_most(f"{row.name}, memory of {least['name']}", found["added_mib"] / least["added_mib"], 1))
    return goals


def qualities(rows: list[Row], folder: Path, steps: int) -> Iterator[dict[str, Any]]:
    """Figures on held rows, over seeds with a dictionary each, at the learning rate chosen on the first."""
    data = [write_rows(folder / f"rows-{seed}", SMALL, min(steps + 1, 256), seed) for seed in range(SEEDS)]
    for row in rows:

        def trained(lr: float, seed: int, row: Row = row) -> dict[str, Any]:
            job = Job(row.library, row.variant, str(data[seed]), str(folder), [*SMALL], steps, lr, options=row.options)
            return measure(row, job._replace(quality=True, seed=seed))

        tried = try_rates(trained)
        best = min(tried, key=lambda lr: error_of(tried[lr]))
        runs = [tried[best], *(trained(best, seed) for seed in range(1, SEEDS))]
        if not all("fvu" in run for run in runs):
            yield next(run for run in runs if "fvu" not in run)
            continue
        found: dict[str, Any] = {key: [run[key] for run in runs] for key in ("fvu", "mmcs", "recovered", "l0", "ms")}
        spread = "  ".join(f"{key} {fmean(found[key]):.4f} +- {stdev(found[key]):.4f}" for key in ("fvu", "mmcs"))
        times = f"l0 {fmean(found['l0']):.2f}  {fmean(found['ms']):.1f} ms a step"
        print(f"{row.name:<28} lr {best:.1e}  {spread}  {times}", flush=True)
        rates = {f"{lr:.2e}": error_of(one) for lr, one in sorted(tried.items())}
        yield {
            "name": row.name,
            "library": row.library,
            "variant": row.variant,
            "lr": best,
            "fvu_by_lr": rates,
            **found,
        }


def try_rates(trained: Callable[[float, int], dict[str, Any]]) -> dict[float, dict[str, Any]]:
    """Runs of the first seed by learning rate, by factors of two until the best is no end of the line."""
    tried = {lr: trained(lr, 0) for lr in FIRST_LRS}
    while len(tried) < MOST_LRS:
        best = min(tried, key=lambda lr: error_of(tried[lr]))
        if min(tried) < best < max(tried) or "skip" in tried[best]:
            break
        further = best / 2 if best == min(tried) else 2 * best
        tried[further] = trained(further, 0)
    return tried


def error_of(found: dict[str, Any]) -> float:
    """What a learning rate is chosen by; infinite for a run that failed or diverged."""
    error = found.get("fvu_to_choose_by", math.inf)
    return error if math.isfinite(error) else math.inf


def quality_targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """No worse than the best peer: the mean difference over seeds is below its standard error."""
    goals: list[dict[str, Any]] = []
    for row in rows:
        if row["library"] != "turnscope":
            continue
        if "fvu" not in row:
            goals.append(_target(f"{row['name']} runs", row.get("error", row.get("skip")), "no error", holds=False))
            continue
        kind = row["variant"].split()[0]
        rivals = [r for r in rows if r["library"] != "turnscope" and r["variant"].split()[0] == kind and "fvu" in r]
        for key, sign in (("fvu", 1), ("mmcs", -1)) if rivals else ():
            best = min(rivals, key=lambda rival, key=key, sign=sign: sign * fmean(rival[key]))
            worse = [sign * (ours - theirs) for ours, theirs in zip(row[key], best[key], strict=True)]
            error = stdev(worse) / math.sqrt(len(worse))
            name = f"{row['name']}, {key} {fmean(row[key]):.4f} worse than {best['name']}'s by"
            goals.append(_target(name, round(fmean(worse), 5), f"<= {error:.5f}", fmean(worse) <= error))
    return goals


def growth(folder: Path, steps: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Our time for a sample against F at D 256, and against D at F 16384."""
    base = Shape(d=256, features=16384, k=32, batch=1024, true=4096, active=32, zipf=0.7, lr=5e-4)
    widths, depths = ((4, 16), (128, 256)) if quick else ((4, 8, 16, 32, 64, 128, 256), (128, 256, 512, 1024, 2048))
    shapes = [("F", base._replace(features=1024 * width)) for width in widths]
    shapes += [("d", base._replace(d=d)) for d in depths]
    for along, shape in shapes:
        data = folder / f"rows-{shape.d}"
        if not data.exists():
            write_rows(data, shape, steps + 4, seed=0)
        row = OURS[1]
        job = Job(row.library, row.variant, str(data), str(folder), [*shape], steps + 3, shape.lr, options=row.options)
        found: dict[str, Any] = {**measure(row, job), "along": along, "F": shape.features, "d": shape.d}
        if "ms" in found:
            found["us_per_sample"] = 1e3 * found["ms"] / shape.batch
            print(
                f"F {shape.features:>7,}  d {shape.d:>5,}  {found['us_per_sample']:8.1f} us a sample, "
                f"{found['ratio']:.2f} of the limit, {found['added_mib']:6.0f} MiB more",
                flush=True,
            )
        yield found


def report_growth(rows: list[dict[str, Any]], file: Path | None) -> None:
    """Print the slopes of the logarithms; draw them beside the JSON file."""
    import numpy as np

    lines = {along: [row for row in rows if row["along"] == along and "ms" in row] for along in ("F", "d")}
    for along, line in lines.items():
        sizes = np.log([row[along] for row in line])
        slope, limit = (np.polyfit(sizes, np.log([row[key] for row in line]), 1)[0] for key in ("ms", "product_ms"))
        print(f"time for a sample grows as {along}^{slope:.2f}, the limit as {along}^{limit:.2f}")
    if file is None:
        return
    try:
        import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, (along, line) in zip(axes, lines.items(), strict=True):
        for key, label in (("ms", "a step"), ("product_ms", "its dense product")):
            axis.loglog([row[along] for row in line], [row[key] for row in line], "o-", label=label)
        axis.set(xlabel=along, ylabel="ms")
        axis.legend()
    figure.savefig(file.with_suffix(".png"), dpi=150)


def _at_most(name: str, value: float, goal: float) -> dict[str, Any]:
    return _target(name, round(value, 3), f"<= {goal:.3g}", value <= goal)


def _target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
