"""Progress of a long stage: a bar on a terminal, a plain line now and then elsewhere, silence when asked."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import IO, Any, Protocol

QUIET_VARIABLE = "TURNSCOPE_QUIET"
_LINE_SECONDS = 10.0


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, n: float = 1, **fields: object) -> None:
        """`n` more units are done; `fields` are shown beside, such as `loss=0.12`."""
        ...


@contextlib.contextmanager
def progress(
    description: str,
    total: float | None,
    unit: str,
    *,
    stream: IO[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Progress, None, None]:
    """Show progress towards `total` units (None: unknown) with rate and time left, on standard error.

    On a terminal a bar; otherwise one plain line every 10 seconds and one at the end; nothing under TURNSCOPE_QUIET=1.
    `clock` gives seconds and never runs backwards, so no time left is ever negative.
    """
    out = stream if stream is not None else sys.stderr
    if os.environ.get(QUIET_VARIABLE, "0") not in ("", "0"):
        yield _Silent()
    elif out.isatty():
        with _bar(description, total, unit, out) as bar:
            yield bar
    else:
        lines = _Lines(description, total, unit, out, clock)
        yield lines
        lines.show()


class _Silent:
    def advance(self, n: float = 1, **fields: object) -> None:
        """Show nothing."""


class _Lines:
    def __init__(
        self, description: str, total: float | None, unit: str, out: IO[str], clock: Callable[[], float]
    ) -> None:
        self.description, self.total, self.unit, self.out, self.clock = description, total, unit, out, clock
        self.start = self.shown = clock()
        self.done: float = 0
        self.fields: dict[str, object] = {}

    def advance(self, n: float = 1, **fields: object) -> None:
        self.done += n
        self.fields |= fields
        if self.clock() - self.shown >= _LINE_SECONDS:
            self.show()

    def show(self) -> None:
        self.shown = self.clock()
        seconds = max(self.shown - self.start, 1e-9)
        line = progress_line(self.description, self.done, self.total, self.unit, seconds)
        print(f"{line}{_shown(self.fields)}", file=self.out, flush=True)


def progress_line(description: str, done: float, total: float | None, unit: str, seconds: float) -> str:
    """One line of plain progress.

    >>> progress_line("harvest", 50, 200, "turns", 5.0)
    'harvest: 50/200 turns (25%), 10 turns/s, 0:00:15 left'
    """
    rate = done / seconds
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    if total is None:
        return f"{description}: {done:,.0f} {unit}, {speed} {unit}/s"
    share = f" ({done / total:.0%})" if total > 0 else ""
    line = f"{description}: {done:,.0f}/{total:,.0f} {unit}{share}, {speed} {unit}/s"
    if 0 < done < total:
        line += f", {_clock_time((total - done) / rate)} left"
    return line


def _clock_time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _shown(fields: dict[str, object]) -> str:
    def text(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return "".join(f" {name}={text(value)}" for name, value in fields.items())


@contextlib.contextmanager
def _bar(description: str, total: float | None, unit: str, out: IO[str]) -> Generator[Progress, None, None]:
    # rich takes a tenth of a second to import: only terminals pay for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[extra]}", markup=False),
    ]
    with RichProgress(*columns, console=Console(file=out)) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, extra=""))


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task
        self.fields: dict[str, object] = {}

    def advance(self, n: float = 1, **fields: object) -> None:
        self.fields |= fields
        self.bar.update(self.task, advance=n, extra=_shown(self.fields).strip())
