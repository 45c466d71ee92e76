"""Ctrl-C and SIGTERM, taken at a point of the trainer's choosing.

An exception raised inside the optimiser's step would leave half of the weights moved. While `deferred_signals` is
active, the first signal only sets a mark; the trainer looks at it between steps, saves, and lets the signal through.
A second Ctrl-C goes through at once: the checkpoint on disk is whole whenever it comes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Pending:
    """The signal that has come, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def deferred_signals() -> Generator[Pending]:
    """Hold signals back until the block ends, then deliver the one that came.

    Outside the main thread signals cannot be caught, and nothing is deferred.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    previous: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    # What a shell told a job in the background to ignore stays ignored.
    previous = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        pending.signal = number
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield pending
    finally:
        restore()
    if pending.signal is not None:
        signal.raise_signal(pending.signal)
