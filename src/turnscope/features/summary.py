"""What each feature does on a set of turns: density, strength, and the turns on which it is strongest.

N rows (turns), F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TopTurn(NamedTuple):
    """A turn on which a feature is strong. `row` numbers the turns that were given."""

    row: int
    activation: float


class FeatureSummary(NamedTuple):
    """One feature on one set of turns. `share` is its part of the summed squares of all activations."""

    feature: int
    density: float
    maximum: float
    share: float
    top: tuple[TopTurn, ...]


def summarise(
    codes_NF: NDArray[np.floating], texts: Sequence[str], features: Sequence[int], top: int = 5
) -> list[FeatureSummary]:
    """Summaries of some features over turns with these dense codes and texts; no text stands twice among the top."""
    power_F = np.square(codes_NF, dtype=np.float64).sum(0)
    total = power_F.sum()
    found: list[FeatureSummary] = []
    for feature in features:
        column_N = codes_NF[:, feature]
        tops: dict[str, TopTurn] = {}
        for row in np.argsort(-column_N, kind="stable")[: 50 * top].tolist():
            if len(tops) == top or column_N[row] <= 0:
                break
            tops.setdefault(str(texts[row]), TopTurn(row, float(column_N[row])))
        share = float(power_F[feature] / total) if total > 0 else 0.0
        found.append(
            FeatureSummary(
                feature,
                float((column_N > 0).sum() / max(1, len(column_N))),
                float(column_N.max(initial=0.0)),
                share,
                tuple(tops.values()),
            )
        )
    return found


def pick(codes_NF: NDArray[np.floating], count: int, low: float = 0.003, high: float = 0.2) -> list[int]:
    """The features that carry most of the activations' power among those that are neither rare nor dense.

    Rare ones (density under `low`) have too few turns to be read, dense ones (over `high`) rarely mean one thing.
    """
    density_F = (codes_NF > 0).sum(0) / max(1, len(codes_NF))
    power_F = np.square(codes_NF, dtype=np.float64).sum(0)
    power_F[(density_F < low) | (density_F > high)] = 0
    order = np.argsort(-power_F, kind="stable")
    return [int(f) for f in order[:count] if power_F[f] > 0]
