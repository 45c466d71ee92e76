"""`turnscope sweep`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from turnscope.artifacts.errors import ConfigError, DependencyError
from turnscope.cli._output import print_json


def sweep(
    activations: Path, /, *, out: Path, widths: str, k: str, samples: str, lr: str = "",
    architectures: str = "batchtopk",
    seeds: str = "0", unit: Literal["turn", "token"] = "turn", batch_size: int | None = None, memory_gib: float = 2.0,
    json: bool = False,
) -> None:  # fmt: skip
    """A grid of dictionaries on one store, its table, and the laws by which width, samples and compute pay.

    Example: turnscope sweep runs/m/activations/resid.3 --widths 256,512,1024 --k 8,16,32 --samples 1e5,3e5,1e6
    --out runs/m/sweeps/first

    Lists are written with commas. Stopped? Run the same command again: finished cells are read, the others go on. A
    larger grid in the same folder trains what is new.

    Parameters
    ----------
    activations
        Activations of one site (turnscope harvest).
    out
        The sweep's folder: cells/ holds the dictionaries, report/ the table and the laws.
    widths
        Dictionary sizes.
    k
        Mean numbers of active features of a row.
    samples
        Samples of a run; each has a schedule of its own.
    lr
        Learning rates; without them the rule of train: 2e-4 sqrt(2^14/F).
    architectures
        As of train.
    seeds
        Of the initial weights; the mean of the seeds stands for a cell.
    unit
        Rows are turn means, or single tokens.
    batch_size
        Rows of a step.
    memory_gib
        Memory for the cells that are trained side by side in one pass over the data.
    json
        Print the report as JSON.
    """
    from turnscope.training.sweep import SweepConfig, run
    from turnscope.training.sweep_plot import plot

    config = SweepConfig.model_validate(
        {
            "source": activations, "out": out, "widths": whole_numbers(widths, "widths"), "k": whole_numbers(k, "k"),
            "samples": whole_numbers(samples, "samples"), "lr": numbers(lr, "lr"),
            "architectures": tuple(architectures.split(",")), "seeds": whole_numbers(seeds, "seeds"), "unit": unit,
            "batch_size": batch_size, "memory": int(memory_gib * 2**30),
        }
    )  # fmt: skip
    result = run(config)
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    try:
        print(f"plot: {plot(result.report, out)}", file=sys.stderr)
    except DependencyError as error:
        print(f"note: {error.what} ({error.fix})", file=sys.stderr)
    if json:
        return print_json(result.report)
    print(f"sweep: {result.artifact.path}")
    show(result.report)
    return None


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers with commas between them, as 1e-3,3e-3."""
    try:
        found = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (math.nan,)
    if any(not math.isfinite(number) for number in found):
        raise ConfigError(f"--{name} {text}: numbers with commas are wanted, as 1e3,3e3", where=f"--{name}")
    return found


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """Whole numbers with commas between them; 1e5 is one."""
    found = numbers(text, name)
    if any(number != int(number) for number in found):
        raise ConfigError(f"--{name} {text}: whole numbers are wanted", where=f"--{name}")
    return tuple(int(number) for number in found)


def show(report: Mapping[str, Any]) -> None:
    """The table and the laws, as text."""
    print(f"  {'F':>7} {'k':>4} {'samples':>10} {'lr':>8} {'FLOPs':>8}  {'nMSE centred':>12} {'L0':>6} {'dead':>6}")
    for row in sorted(report["rows"], key=lambda row: (row["architecture"], row["k"], row["flops"])):
        print(
            f"  {row['n_features']:>7} {row['k']:>4} {row['n_samples']:>10,} {row['lr']:>8.2g} {row['flops']:>8.2g}"
            f"  {row['loss']:>12.4f} {row['l0']:>6.1f} {row['dead']:>6}"
        )
    print(f"  {report['compute']}")
    for family, laws in report["laws"].items():
        print(f"{family}:")
        for line in law_lines(laws):
            print(f"  {line}")


def law_lines(laws: Mapping[str, Any]) -> list[str]:
    """The laws of one architecture and k, a line each, with standard errors."""

    def line(name: str, text: str) -> str:
        law = laws[name]
        if "withheld" in law:
            return f"{_SAID[name]}: withheld: {law['withheld']}"
        errors = ", ".join(f"{key} ± {value:.2g}" for key, value in law["standard_errors"].items())
        formula = text.format(**law["values"])
        return f"{_SAID[name]}: {formula}  ({law['points']} runs; {errors}; spread {law['spread']:.1%})"

    return [
        line("loss_by_compute", "L = {a:.3g} C^-{b:.3f} + {c:.4f}"),
        line("loss_by_size", "L = {e:.4f} + {A:.3g} F^-{alpha:.3f} + {B:.3g} S^-{beta:.3f}; best F ~ C^{width:.2f}, "
             "best S ~ C^{samples:.2f}"),
        line("width_by_compute", "F = {a:.3g} C^{b:.3f}"),
        line("samples_by_compute", "S = {a:.3g} C^{b:.3f}"),
        line("rate_by_width", "lr = {a:.3g} F^{b:.3f}"),
    ]  # fmt: skip


_SAID = {
    "loss_by_compute": "loss on the frontier", "loss_by_size": "loss by width and samples",
    "width_by_compute": "width on the frontier", "samples_by_compute": "samples on the frontier",
    "rate_by_width": "best lr",
}  # fmt: skip
