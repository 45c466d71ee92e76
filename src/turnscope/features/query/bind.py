"""The names of a query, held against an index: features by number or explanation, fields, labels, kinds of values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import pyarrow as pa

from turnscope.features.query.columns import Column, TurnColumns, kind_of
from turnscope.features.query.errors import QueryError, did_you_mean, quoted
from turnscope.features.query.rows import Ints
from turnscope.features.query.tree import And, Count, FeatureTest, FieldTest, Near, Node, Not, Or

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from turnscope.transcripts.store import TranscriptStore

_CANDIDATES = 6


class Index(Protocol):
    """What a query needs of a feature index."""

    @property
    def n_turns(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def turns(self) -> pa.Table: ...
    @property
    def transcripts(self) -> TranscriptStore | None: ...
    def feature_turns(self, feature: int) -> tuple[Ints, NDArray[np.floating]]: ...
    def explanations(self) -> pa.Table: ...


class Names:
    """Everything of an index that a query can name. Made once, and kept."""

    def __init__(self, index: Index) -> None:
        self._index, self.columns = index, TurnColumns(index.turns)

    def bind(self, node: Node, text: str) -> Node:
        """`node` with features as numbers and labels told from fields. Raises QueryError for what the index has not."""
        match node:
            case And(items):
                return And(tuple(self.bind(item, text) for item in items))
            case Or(items):
                return Or(tuple(self.bind(item, text) for item in items))
            case Not(item) | Near(item=item) | Count(item=item):
                return replace(node, item=self.bind(item, text))
            case FeatureTest():
                return self._feature(node, text)
            case FieldTest():
                return self._field(node, text)

    def column(self, node: FieldTest) -> Column:
        """The column of a bound test."""
        return self.columns.label(node.name) if node.is_label else self.columns.field(node.name)

    def _feature(self, node: FeatureTest, text: str) -> FeatureTest:
        n = self._index.n_features
        if isinstance(node.feature, str):
            return replace(node, feature=self._by_words(node.feature, node, text))
        if node.feature >= n:
            raise QueryError(
                f"there is no feature F{node.feature}", text, node.place.start, node.place.end,
                fix=f"this index has F0 to F{n - 1:,}",
            )  # fmt: skip
        return node

    def _by_words(self, words: str, node: FeatureTest, text: str) -> int:
        """The one feature whose explanation is these words; else the one whose explanation has all of them."""
        wanted = _normal(words)
        explained = self._explained
        found = {each.feature: each for each in explained if each.normal == wanted}
        if not found:
            asked = set(wanted.split())
            found = {each.feature: each for each in explained if asked <= set(each.normal.split())}
        if len(found) == 1:
            return next(iter(found))
        place = node.place
        if found:
            some = [f"F{each.feature} {quoted(each.text)}" for each in list(found.values())[:_CANDIDATES]]
            more = f", and {len(found) - len(some):,} more" if len(found) > len(some) else ""
            what = f"{len(found):,} features are explained by {quoted(words)}"
            raise QueryError(what, text, place.start, place.end, fix=f"name one: {', '.join(some)}{more}")
        if not explained:
            fix = "this index has no explanations: name features by number (F12)"
        else:
            near = did_you_mean(words, (each.text for each in explained)) if len(explained) <= 20_000 else ""
            fix = near or "search the explanations: turnscope search"
        raise QueryError(f"no feature is explained by {quoted(words)}", text, place.start, place.end, fix=fix)

    @cached_property
    def _explained(self) -> Sequence[_Explained]:
        table = self._index.explanations()
        pairs = zip(table["feature"].to_pylist(), table["text"].to_pylist(), strict=True)
        return [_Explained(int(feature), str(text), _normal(str(text))) for feature, text in pairs if text]

    def _field(self, node: FieldTest, text: str) -> FieldTest:
        columns, name, place = self.columns, node.name, node.place
        is_field = node.is_label is None and name in columns.fields
        if not is_field and name not in columns.label_names:
            known = sorted(columns.label_names)
            if node.is_label:
                fix = did_you_mean(name, known) or f"labels here: {_some(known)}"
                raise QueryError(f"no turn has a label {quoted(name)}", text, place.start, place.end, fix=fix)
            names = [*columns.fields, *known]
            fix = did_you_mean(name, names) or f"fields: {_some(columns.fields)}; labels: {_some(known)}"
            if re.fullmatch(r"[Ff][-_ ]?\d+", name):
                fix = "a feature is F and a number: F12"
            raise QueryError(f"no field or label {quoted(name)}", text, place.start, place.end, fix=fix)
        node = replace(node, name=columns.fields[name] if is_field else name, is_label=not is_field)
        if node.value is not None and node.operator is not None:
            self._check_kind(node, text)
        return node

    def _check_kind(self, node: FieldTest, text: str) -> None:
        assert node.value is not None
        kinds, value, place = self.column(node).kinds, node.value.value, node.value.place
        kind, name = kind_of(value), quoted(node.name)
        if kind not in kinds:
            holds = " or ".join(sorted(kinds)) or "nothing that can be compared"
            fix = {
                "text": f'put text in quotes: "{text[place.start : place.end]}"' if kind != "text" else "",
                "a number": f"compare it with a number: {node.name} > 3",
                "true or false": f"compare it with true or false: {node.name} = true",
            }.get(min(kinds, default=""), "")
            raise QueryError(f"{name} is {holds}, not {kind}", text, place.start, place.end, fix=fix)
        if isinstance(value, bool) and node.operator not in ("=", "!="):
            raise QueryError(
                f"{name} is true or false, without an order", text, place.start, place.end, fix="use = or !="
            )

    def notices(self, node: Node) -> Iterator[str]:
        """What a bound query asks for that no turn has: most often a slip of the pen."""
        for test in leaves(node):
            if not isinstance(test, FieldTest) or test.value is None or test.operator not in ("=", "!="):
                continue
            column, value = self.column(test), test.value.value
            if isinstance(value, str) and not len(column.rows("=", value)):
                names = sorted(set(_texts(column.values_V)))
                near = did_you_mean(value, names) if len(names) <= 20_000 else ""
                fix = near or (f"there is {_some(names)}" if len(names) <= 20 else "")
                yield f"no turn has {test.name} = {quoted(value)}" + (f"; {fix}" if fix else "")


def _texts(values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        yield from (item for item in items if isinstance(item, str))


class _Explained(NamedTuple):
    feature: int
    text: str
    normal: str


def leaves(node: Node) -> Iterator[FeatureTest | FieldTest]:
    """The tests of a query, in the order in which they are written."""
    match node:
        case And(items) | Or(items):
            for item in items:
                yield from leaves(item)
        case Not(item) | Near(item=item) | Count(item=item):
            yield from leaves(item)
        case FeatureTest() | FieldTest():
            yield node


def _normal(text: str) -> str:
    """The words of a text in lower case, one space between them; what is no letter or digit parts words."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _some(names: Sequence[str] | dict[str, str], most: int = 8) -> str:
    shown = [name if len(name) <= 40 else name[:39] + "…" for name in list(names)[:most]]
    return (", ".join(shown) or "none") + (", ..." if len(names) > most else "")
