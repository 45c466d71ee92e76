"""Figures of a run as they come, sent to a tracker of experiments. The run's own metrics.jsonl does not depend on it.

Both libraries have the same three calls: `init(project=, name=, config=)`, `log(figures, step=)` and `finish()`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from turnscope.artifacts import DependencyError

TrackerName = Literal["trackio", "wandb"]


class Tracker(Protocol):
    """Where a run's figures go."""

    def log(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, at its step."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class NoTracker:
    """Nowhere."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Send nothing."""

    def close(self) -> None:
        """Nothing to end."""


class LibraryTracker:
    """A run of trackio or wandb.

    Args:
        library: which.
        project: the group of runs.
        name: of this one.
        config: its settings.

    Raises DependencyError, naming the extra, when the library is not there.
    """

    def __init__(self, library: TrackerName, project: str, name: str, config: Mapping[str, Any]) -> None:
        try:
            self._module: Any = importlib.import_module(library)
        except ImportError as error:
            raise DependencyError(
                f"{library} is not installed", where="track", fix=f'pip install "turnscope[{library}]"'
            ) from error
        self._module.init(project=project, name=name, config=dict(config))

    def log(self, line: Mapping[str, Any]) -> None:
        """Numbers of the line, at its step; what was sent before a kill is sent again under the same step."""
        figures = {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
        self._module.log(figures, step=int(line["step"]))

    def close(self) -> None:
        """End the run."""
        self._module.finish()


def tracker(library: TrackerName | None, project: str, name: str, config: Mapping[str, Any]) -> Tracker:
    """The tracker asked for, or none."""
    return NoTracker() if library is None else LibraryTracker(library, project, name, config)
