"""Stopping a run whose held-out error no longer falls. Off unless `patience` is set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class EarlyStop:
    """Counts lines of the log since the held-out raw nMSE last fell by at least `min_delta`.

    Its `state` goes into the checkpoint, so a resumed run stops at the step at which an unbroken one does.
    """

    patience: int | None
    min_delta: float
    best: float | None = None
    waited: int = 0

    def see(self, nmse: float) -> None:
        """Take the figure of one line."""
        if self.best is None or nmse < self.best - self.min_delta:
            self.best, self.waited = nmse, 0
        else:
            self.waited += 1

    @property
    def says_stop(self) -> bool:
        """Whether `patience` lines have gone by in vain."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.best, self.waited = state["best"], state["waited"]
