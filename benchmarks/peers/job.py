"""What a run is asked for: a JSON file from one environment to another."""

from __future__ import annotations

from typing import Any, NamedTuple

from peers.planted import Shape


class Job(NamedTuple):
    """One run. `quality` asks for figures on held rows, and otherwise for time and memory."""

    library: str
    variant: str
    rows: str
    folder: str
    shape: list[Any]
    steps: int
    lr: float
    quality: bool = False
    seed: int = 0
    threads: int = 2
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    @property
    def sizes(self) -> Shape:
        return Shape(*self.shape)

    @property
    def decay(self) -> int:
        """Steps of falling learning rate at the end, for libraries that have such a setting: ours falls as long."""
        return self.steps // 5


class UnsupportedError(Exception):
    """The library does not do this."""
