"""Sets of turn rows: an ascending array of row numbers, or all rows but those of one. N rows in all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_SEARCH = 16  # from this ratio of sizes on, searching the longer array beats marking both


@dataclass(frozen=True, slots=True)
class RowSet:
    """`rows` ascending, none twice; when `inverted`, the set is every other row below `n`."""

    rows: Ints
    n: int
    inverted: bool = False

    @classmethod
    def none(cls, n: int) -> RowSet:
        """The empty set."""
        return cls(np.zeros(0, np.int64), n)

    def __len__(self) -> int:
        return self.n - len(self.rows) if self.inverted else len(self.rows)

    def __invert__(self) -> RowSet:
        return RowSet(self.rows, self.n, not self.inverted)

    def __and__(self, other: RowSet) -> RowSet:
        a, b = self, other
        if a.inverted and b.inverted:
            return RowSet(_union(a.rows, b.rows, a.n), a.n, inverted=True)
        if a.inverted:
            a, b = b, a
        if b.inverted:
            return RowSet(a.rows[~_contains(b.rows, a.rows, a.n)], a.n)
        small, large = (a.rows, b.rows) if len(a.rows) <= len(b.rows) else (b.rows, a.rows)
        return RowSet(small[_contains(large, small, a.n)], a.n)

    def __or__(self, other: RowSet) -> RowSet:
        if not (self.inverted or other.inverted):
            return RowSet(_union(self.rows, other.rows, self.n), self.n)
        return ~(~self & ~other)

    def ascending(self) -> Ints:
        """The rows of the set."""
        if not self.inverted:
            return self.rows
        left = np.ones(self.n, np.bool_)
        left[self.rows] = False
        return np.flatnonzero(left)


def _contains(rows: Ints, asked: Ints, n: int) -> NDArray[np.bool_]:
    """For each of the asked rows, whether it is among `rows`; both ascending."""
    if not len(rows) or not len(asked):
        return np.zeros(len(asked), np.bool_)
    if len(asked) * _SEARCH < len(rows):
        place = np.searchsorted(rows, asked)
        return rows[np.minimum(place, len(rows) - 1)] == asked
    marked = np.zeros(n, np.bool_)
    marked[rows] = True
    return marked[asked]


def _union(a: Ints, b: Ints, n: int) -> Ints:
    if not len(a) or not len(b):
        return a if len(a) else b
    if (len(a) + len(b)) * _SEARCH < n:
        return np.union1d(a, b)
    marked = np.zeros(n, np.bool_)
    marked[a] = True
    marked[b] = True
    return np.flatnonzero(marked)
