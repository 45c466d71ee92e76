"""Turns with a known answer: those that a positive, and those that a negative query finds.

Legend: M labelled turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError
from turnscope.audit.readings import Readings
from turnscope.audit.separation import whole_clusters

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """Rows of an index, ascending; whether each is positive; and the number of its duplicate group."""

    readings: Readings
    rows: Ints
    labels: Bools
    clusters: Ints
    read: dict[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    """What has been read of them already: codes, means, texts."""

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, keep_M: Bools) -> Labelled:
        """Some of them."""
        return Labelled(self.readings, self.rows[keep_M], self.labels[keep_M], self.clusters[keep_M])

    def of_splits(self, splits: Sequence[str]) -> Labelled:
        """Those of some splits."""
        return self.where(np.isin(self.readings.column("split", self.rows), list(splits)))

    def at_most(self, n: int, seed: int) -> Labelled:
        """About `n` of them, whole groups drawn at random."""
        if len(self) <= n:
            return self
        return self.where(whole_clusters(self.clusters, n, np.random.default_rng(seed)))

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the turns, in order of name."""
        return tuple(sorted(set(self.readings.column("role", self.rows).tolist())))

    @property
    def counts(self) -> str:
        """In words."""
        n, groups = int(self.labels.sum()), len(np.unique(self.clusters))
        return f"{n:,} positive and {len(self) - n:,} negative turns of {groups:,} conversations"


def find_labelled(readings: Readings, positive: str, negative: str) -> tuple[Labelled, tuple[str, ...]]:
    """The turns of two queries, and what to know of the queries.

    Raises QueryError for a mistake; DataError when a query finds nothing, ConfigError when both find the same turn.
    """
    found = [readings.index.query(text) for text in (positive, negative)]
    notices = tuple(dict.fromkeys(notice for each in found for notice in each.notices))
    for name, result in zip(("positive", "negative"), found, strict=True):
        if not len(result):
            because = f" ({'; '.join(notices)})" if notices else ""
            raise DataError(
                f"no turn is {name}: {result.query}{because}",
                where=readings.index.artifact.path,
                fix="try the query with turnscope query INDEX --count",
            )
    both = np.intersect1d(found[0].rows, found[1].rows)
    if len(both):
        raise ConfigError(
            f"{len(both):,} turns are both positive and negative",
            where=f"{found[0].query}  and  {found[1].query}",
            fix="a turn has one answer: exclude it from one of the two queries",
        )
    rows = np.concatenate([found[0].rows, found[1].rows])
    order = np.argsort(rows, kind="stable")
    labels = np.repeat([True, False], [len(found[0]), len(found[1])])[order]
    return Labelled(readings, rows[order], labels, readings.clusters(rows[order])), notices
