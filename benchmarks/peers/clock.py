"""Time and memory of training steps, taken from outside: a step is a batch handed out until the next is asked for.

Runs in every environment: needs torch only.

Legend: B batch, D width, F features.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peers.job import Shape
from peers.planted import Rows
from torch import Tensor

WARM_UP = 3
BUSY = 0.15
"""Cores that other processes may use during a step that counts as clean."""
_FEWEST_CLEAN = 5


class Step(NamedTuple):
    """One step, and the product measured right before it."""

    seconds: float
    foreign: float
    """Cores that other processes used meanwhile."""
    product: float


class Product:
    """One dense encoder product, 2BDF operations: what no exact step can do without, and our limit."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        self.x_BD = torch.randn(shape.batch, shape.d).to(dtype)
        self.w_DF = torch.randn(shape.d, shape.features).to(dtype)
        self._out_BF = torch.zeros(shape.batch, shape.features, dtype=dtype)

    def __call__(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        torch.mm(self.x_BD, self.w_DF, out=self._out_BF)
        return time.perf_counter() - start


class Steps(Iterator[Tensor]):
    """Batches that time what is done with each.

    Args:
        rows: where batches come from; reading one is no part of a step.
        n_steps: steps to be timed. One batch more is handed out, for a library that takes no further one after its last
            step; then `end` is raised.
        product: measured before each step, so that steps of different processes can be compared.
    """

    def __init__(
        self, rows: Rows, n_steps: int, product: Product | None = None, end: type[Exception] = StopIteration
    ) -> None:
        self.rows, self.n_steps, self.end = rows, n_steps, end
        self._measure = product
        self._product = product() if product else 0.0
        self.peak_mib = self._begun = self._cpu = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin anew with the first batch."""
        self.done = list[Step]()
        self._index = 0

    def __next__(self) -> Tensor:
        now = time.perf_counter()
        if self._index:
            self._ended(now - self._begun)
        if self._index > self.n_steps:
            raise self.end
        batch_BD = self.rows.batch(self._index)
        self._index += 1
        self._cpu, self._begun = foreign_cpu(), time.perf_counter()
        return batch_BD

    def _ended(self, seconds: float) -> None:
        self.done.append(Step(seconds, max(0.0, foreign_cpu() - self._cpu) / seconds, self._product))
        self.peak_mib = peak_mib()
        # Less than a tenth of the product is no step: someone gathers rows.
        if self._measure and seconds > self._product / 10:
            self._product = self._measure()


def summary(steps: list[Step], batch: int) -> dict[str, Any]:
    """Medians over clean steps where there are five or more, else over all, after some to warm up."""
    timed = steps[WARM_UP:] or steps
    clean = [step for step in timed if step.foreign < BUSY]
    used = clean if len(clean) >= _FEWEST_CLEAN else timed
    seconds = sorted(step.seconds for step in used)
    found: dict[str, Any] = {
        "steps": len(timed),
        "clean": len(clean),
        "foreign_cores": statistics.fmean(step.foreign for step in timed),
        "ms": 1e3 * statistics.median(seconds),
        "ms_p10": 1e3 * seconds[len(seconds) // 10],
        "ms_p90": 1e3 * seconds[9 * len(seconds) // 10],
        "rows_per_s": batch / statistics.median(seconds),
    }
    if used[0].product:
        found["product_ms"] = 1e3 * statistics.median(step.product for step in used)
        found["ratio"] = statistics.median(step.seconds / step.product for step in used)
    return found


def foreign_cpu() -> float:
    """Processor seconds of everything on the machine but this process, since some moment; 0 where that is not told."""
    try:
        fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields)
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - own.user - own.system


def forget_peak() -> float:
    """Start the peak of memory anew where Linux lets one; returns what the process holds now, in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_mib()
    return _status("VmRSS")


def peak_mib() -> float:
    """Most memory that this process held, in MiB."""
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
