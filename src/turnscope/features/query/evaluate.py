"""A bound query to the set of turns that satisfy it: postings and columns, merged as sorted row arrays.

Every node costs at most a few passes over the turns, and equal nodes are evaluated once.
"""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts.errors import DataError
from turnscope.features.query.bind import Index, Names
from turnscope.features.query.columns import COMPARE
from turnscope.features.query.rows import Ints, RowSet
from turnscope.features.query.tree import And, Count, FeatureTest, FieldTest, Near, Node, Not, Or, Threshold


class Evaluation:
    """One evaluation. `notices` tells of thresholds that a feature without active turns cannot have.

    Raises DataError when `seconds` have passed.
    """

    def __init__(self, index: Index, names: Names, seconds: float | None = None) -> None:
        self._index, self._names, self._seconds = index, names, seconds
        self._until = None if seconds is None else time.monotonic() + seconds
        self._done: dict[Node, RowSet] = {}
        self._postings: dict[int, tuple[Ints, NDArray[np.float64]]] = {}
        self.notices: list[str] = []

    def rows(self, node: Node) -> RowSet:
        """The turns that satisfy a node."""
        found = self._done.get(node)
        if found is None:
            if self._until is not None and time.monotonic() > self._until:
                raise DataError(f"the query took more than {self._seconds:g} s", fix="ask in parts")
            found = self._done[node] = self._evaluate(node)
        return found

    def _evaluate(self, node: Node) -> RowSet:
        columns = self._names.columns
        match node:
            case And(items):
                return self._all_of(items)
            case Or(items):
                return ~self._all_of(tuple(Not(item) for item in items))
            case Not(item):
                return ~self.rows(item)
            case Near(low, high, item):
                return columns.near(self.rows(item), low, high)
            case Count(item, operator, number):
                return columns.counted(self.rows(item), operator, number)
            case FieldTest(operator=operator, value=value):
                column = self._names.column(node)
                return column.present() if operator is None or value is None else column.rows(operator, value.value)
            case FeatureTest():
                return self._feature(node)

    def _all_of(self, items: tuple[Node, ...]) -> RowSet:
        """The smallest sets first, so that every further step works on few rows."""
        sets = sorted((self.rows(item) for item in items), key=lambda each: (each.inverted, len(each)))
        whole = sets[0]
        for each in sets[1:]:
            whole = whole & each
        return whole

    def postings(self, feature: int) -> tuple[Ints, NDArray[np.float64]]:
        """The turns on which a feature is active, ascending, and its values there."""
        if feature not in self._postings:
            rows, values = self._index.feature_turns(feature)
            self._postings[feature] = np.asarray(rows, np.int64), np.asarray(values, np.float64)
        return self._postings[feature]

    def _feature(self, node: FeatureTest) -> RowSet:
        assert isinstance(node.feature, int)
        rows, values = self.postings(node.feature)
        n = self._index.n_turns
        if node.threshold is None or node.operator is None:
            return RowSet(rows, n)
        bound = number_of(node.threshold, values)
        if bound is None:
            notice = f"F{node.feature} is active on no turn: it has no percentiles and no maximum"
            if notice not in self.notices:
                self.notices.append(notice)
            return RowSet.none(n)
        compare = COMPARE[node.operator]
        good = np.asarray(compare(values, bound), np.bool_)
        if compare(0.0, bound):  # and so do all turns on which it is not active
            return RowSet(rows[~good], n, inverted=True)
        return RowSet(rows[good], n)


def number_of(threshold: Threshold, values: NDArray[np.float64]) -> float | None:
    """The number that a threshold stands for. A percentile is one of the values: at least p % are no larger."""
    if threshold.kind == "raw":
        return threshold.value
    if not len(values):
        return None
    if threshold.kind == "max":
        return threshold.value * float(values.max())
    # exact: 0.07 * 100 is more than 7 in floating point
    rank = max(0, math.ceil(Fraction(repr(threshold.value)) * len(values) / 100) - 1)
    return float(np.partition(values, rank)[rank])
