"""What a statistic gives: an estimate with its interval and its counts, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95% interval by conversation, and what it rests on."""

    value: float
    low: float
    high: float
    n_positive: int
    n_negative: int
    n_clusters: int

    @property
    def ci(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Withheld:
    """No figure is given, and why. Never turned into a number."""

    reason: str

    def __str__(self) -> str:
        return f"withheld: {self.reason}"
