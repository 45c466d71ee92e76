"""What is known of each turn, in a form that is compared quickly: values once, and a number per turn.

N turns (rows of the index), V different values of a column, C conversations.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from turnscope.artifacts.errors import IntegrityError
from turnscope.features.query.rows import Ints, RowSet
from turnscope.features.query.tree import Operator

LABELS = "labels"
ALIASES = {"conversation": "conversation_id", "tokens": "n_tokens", "length": "n_tokens"}
COMPARE: dict[Operator, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
Scalar = str | float | bool


def kind_of(value: Any) -> str:
    """`text`, `a number`, `true or false`, or an empty string for what cannot be compared."""
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else ""


def holds(value: Any, sign: Operator, wanted: Scalar) -> bool:
    """Whether a value that is there satisfies a comparison: of its own kind only; of a list any item, with != none."""
    if not isinstance(value, list):
        return _scalar_holds(value, sign, wanted)
    items = cast("list[Any]", value)
    if sign == "!=":
        return not any(_scalar_holds(item, "=", wanted) for item in items)
    return any(_scalar_holds(item, sign, wanted) for item in items)


def _scalar_holds(value: Any, sign: Operator, wanted: Scalar) -> bool:
    if kind_of(value) != kind_of(wanted):
        return sign == "!="
    if isinstance(wanted, bool) and sign not in ("=", "!="):
        return False
    return bool(COMPARE[sign](value, wanted))


class Column:
    """A column of few or many values: `values_V`, and `code_N` that numbers them, -1 where there is none."""

    def __init__(self, values_V: Sequence[Any], code_N: NDArray[Any]) -> None:
        self.values_V, self.code_N = values_V, code_N

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of the values, and of the items of lists."""
        seen = (item for value in self.values_V for item in (value if isinstance(value, list) else [value]))
        return frozenset(kind_of(item) for item in cast("Any", seen)) - {""}

    def rows(self, sign: Operator, wanted: Scalar) -> RowSet:
        """The turns whose value is there and satisfies the comparison."""
        return self._where(np.fromiter((holds(value, sign, wanted) for value in self.values_V), np.bool_))

    def present(self) -> RowSet:
        """The turns that have a value."""
        return RowSet(np.flatnonzero(self.code_N >= 0), len(self.code_N))

    def at(self, row: int) -> Any:
        """The value of one turn, or None."""
        code = int(self.code_N[row])
        return None if code < 0 else self.values_V[code]

    def _where(self, good_V: NDArray[np.bool_]) -> RowSet:
        n, good = len(self.code_N), np.flatnonzero(good_V)
        if not len(good):
            return RowSet.none(n)
        if len(good) == 1:
            return RowSet(np.flatnonzero(self.code_N == good[0]), n)
        return RowSet(np.flatnonzero(np.append(good_V, False)[self.code_N]), n)


class TextColumn(Column):
    """A column of text; equality does not look at the values one by one."""

    @cached_property
    def kinds(self) -> frozenset[str]:
        return frozenset({"text"})

    def rows(self, sign: Operator, wanted: Scalar) -> RowSet:
        if sign in ("=", "!=") and isinstance(wanted, str):
            same = np.zeros(len(self.values_V), np.bool_)
            if wanted in self.values_V:
                same[self.values_V.index(wanted)] = True
            return self._where(same if sign == "=" else ~same)
        return super().rows(sign, wanted)


class NumberColumn(Column):
    """A column of numbers, compared as one array; `there_N` is False where there is none."""

    @cached_property
    def kinds(self) -> frozenset[str]:
        return frozenset({"a number"})

    def __init__(self, number_N: NDArray[Any], there_N: NDArray[np.bool_]) -> None:
        super().__init__((), np.where(there_N, 0, -1))
        self.number_N = number_N

    def rows(self, sign: Operator, wanted: Scalar) -> RowSet:
        return RowSet(np.flatnonzero(COMPARE[sign](self.number_N, wanted) & (self.code_N >= 0)), len(self.code_N))

    def at(self, row: int) -> Any:
        return self.number_N[row].item() if self.code_N[row] >= 0 else None


class TurnColumns:
    """The fields and labels of an index's turns, and who stands next to whom. Made once, and kept.

    Args:
        turns: row-aligned; `conversation_id`, `turn`, any further columns of text, numbers or truth, and `labels`
            (JSON objects as text), which may be absent.
    """

    def __init__(self, turns: pa.Table) -> None:
        self.n, self._turns = len(turns), turns
        self._columns: dict[str, Column] = {}
        self._labels: dict[str, Column] = {}

    @cached_property
    def fields(self) -> dict[str, str]:
        """Every name that a query may give a field, and its column."""
        names = {field.name: field.name for field in self._turns.schema if _usable(field.type) and field.name != LABELS}
        return names | {alias: name for alias, name in ALIASES.items() if name in names}

    @cached_property
    def label_names(self) -> frozenset[str]:
        """The keys of all labels."""
        return frozenset(key for labels in self._label_objects[0] for key in labels)

    def field(self, name: str) -> Column:
        """A field by one of its names."""
        name = self.fields[name]
        if name not in self._columns:
            self._columns[name] = _column(self._turns[name])
        return self._columns[name]

    def label(self, key: str) -> Column:
        """The values of one label; a turn that lacks it, or has null, has none."""
        if key not in self._labels:
            objects, code_N = self._label_objects
            place: dict[str, int] = {}
            values: list[Any] = []
            code_V = np.full(len(objects), -1, np.int32)
            for number, labels in enumerate(objects):
                value = labels.get(key)
                if value is None:
                    continue
                spelled = json.dumps(value)  # tells 1 from true, and takes lists
                if spelled not in place:
                    place[spelled] = len(values)
                    values.append(value)
                code_V[number] = place[spelled]
            self._labels[key] = Column(values, np.append(code_V, np.int32(-1))[code_N])
        return self._labels[key]

    @cached_property
    def _label_objects(self) -> tuple[list[dict[str, Any]], NDArray[np.int32]]:
        """Every different set of labels once, and its number for each turn (-1 for none)."""
        if LABELS not in self._turns.column_names:
            return [], np.full(self.n, -1, np.int32)
        spelled, code_N = _encoded(self._turns[LABELS])
        try:
            objects = [json.loads(text) if text else {} for text in spelled]
        except ValueError as error:
            raise IntegrityError(f"labels are not JSON: {error}", fix="build the feature index again") from None
        return [each if isinstance(each, dict) else {} for each in objects], code_N

    @cached_property
    def conversation_N(self) -> NDArray[np.int64]:
        """The number of each turn's conversation."""
        return self._conversations[1].astype(np.int64)

    @property
    def n_conversations(self) -> int:
        """Conversations that have a turn in the index."""
        return len(self._conversations[0])

    @cached_property
    def _conversations(self) -> tuple[list[str], NDArray[np.int32]]:
        return _encoded(self._turns["conversation_id"])

    @cached_property
    def _order(self) -> tuple[Ints, Ints, Ints, int]:
        """(key_N, sorted keys, rows in order of key, stride): key = conversation x stride + number of the turn."""
        turn_N = np.asarray(self._turns["turn"].to_numpy(), np.int64)
        stride = int(turn_N.max(initial=0)) + 1
        key_N = self.conversation_N * stride + turn_N
        rows = np.argsort(key_N, kind="stable")
        return key_N, key_N[rows], rows, stride

    def neighbour(self, row: int, distance: int) -> int | None:
        """The row of the turn so many turns further on in the same conversation; None when it is not in the index."""
        key_N, sorted_N, order_N, stride = self._order
        key = int(key_N[row]) + distance
        if not 0 <= int(key_N[row]) % stride + distance < stride:
            return None
        place = int(np.searchsorted(sorted_N, key))
        return int(order_N[place]) if place < self.n and sorted_N[place] == key else None

    def near(self, rows: RowSet, low: int, high: int) -> RowSet:
        """Turns t for which a turn of `rows` stands at t + low ... t + high of the same conversation."""
        key_N, sorted_N, order_N, stride = self._order
        keys = key_N[rows.ascending()]
        if not self._is_ordered:
            keys.sort()
        begin = keys - keys % stride
        low_keys = np.maximum(keys - min(high, stride), begin)
        high_keys = np.minimum(keys - max(low, -stride), begin + stride - 1)
        first, last = np.searchsorted(sorted_N, low_keys), np.searchsorted(sorted_N, high_keys, side="right")
        # both ascend, so a range begins no earlier than where the one before it ended
        first[1:] = np.maximum(first[1:], last[:-1])
        lengths = np.maximum(last - first, 0)
        ends = np.cumsum(lengths)
        places = np.arange(int(lengths.sum())) + np.repeat(first - (ends - lengths), lengths)
        return RowSet(places if self._is_ordered else np.sort(order_N[places]), self.n)

    @cached_property
    def _is_ordered(self) -> bool:
        """Whether rows stand by conversation and turn, as a harvest writes them; then no place has to be looked up."""
        return bool(np.all(self._order[2] == np.arange(self.n)))

    def counted(self, rows: RowSet, sign: Operator, number: float) -> RowSet:
        """All turns of the conversations in which as many turns of `rows` stand."""
        inside = rows.rows  # the smaller work for a set that is given by what it lacks
        count_C = np.bincount(self.conversation_N[inside], minlength=self.n_conversations)
        if rows.inverted:
            count_C = np.bincount(self.conversation_N, minlength=self.n_conversations) - count_C
        return RowSet(np.flatnonzero(COMPARE[sign](count_C, number)[self.conversation_N]), self.n)


def _usable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _usable(cast("Any", kind).value_type)
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return any(test(kind) for test in tests)


def _column(column: pa.ChunkedArray) -> Column:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        there_N = np.asarray(pc.call_function("is_valid", [column]).to_numpy())
        if column.null_count:
            column = pc.call_function("coalesce", [column, pa.scalar(0, kind)])
        if pa.types.is_integer(kind):
            return NumberColumn(np.asarray(column.to_numpy()), there_N)
        number_N = np.asarray(column.to_numpy(), np.float64)
        return NumberColumn(number_N, there_N & ~np.isnan(number_N))
    values, code_N = _encoded(column)
    if "" in values:  # how tables of turns write that nothing is known
        code_N = np.where(code_N == values.index(""), -1, code_N)
    return Column(values, code_N) if pa.types.is_boolean(kind) else TextColumn(values, code_N)


def _encoded(column: pa.ChunkedArray) -> tuple[list[Any], NDArray[np.int32]]:
    """The different values of a column, and for each row the number of its value, -1 for null."""
    whole: Any = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    code_N = np.asarray(whole.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)
    return whole.dictionary.to_pylist(), code_N
