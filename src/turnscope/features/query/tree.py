"""What a query says, as a tree. Nodes are values: two that mean the same test are equal, wherever they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
WORD = re.compile(r"[^\W\d][\w-]*")
# Words that the language keeps for itself where a term may begin.
RESERVED = frozenset({"and", "or", "not"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in the text of the query: `text[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a feature is held against: a number, a percentile of its active values, or a multiple of its maximum."""

    kind: Literal["raw", "percentile", "max"]
    value: float
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class FeatureTest:
    """`F12`, `F12 > 0.4`. `feature` is a text until the query is bound: the words of an explanation."""

    feature: int | str
    operator: Operator | None
    threshold: Threshold | None
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Value:
    """What a field is compared with."""

    value: str | float | bool
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class FieldTest:
    """`role = assistant`; with neither operator nor value `has(role)`. `is_label` is None until the query is bound."""

    name: str
    is_label: bool | None
    operator: Operator | None
    value: Value | None
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Near:
    """Some turn of the same conversation, `low` to `high` turns further on, satisfies `item`."""

    low: int
    high: int
    item: Node
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Count:
    """How many turns of the conversation satisfy `item`; `any` is `count > 0`, `all` is `count of the others = 0`."""

    item: Node
    operator: Operator
    number: float
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """Every turn that does not satisfy `item`."""

    item: Node


@dataclass(frozen=True, slots=True)
class And:
    """Turns that satisfy all items."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Turns that satisfy one of the items."""

    items: tuple[Node, ...]


Node = FeatureTest | FieldTest | Near | Count | Not | And | Or


def canonical(node: Node) -> str:
    """The query in its one spelling; parsing it gives an equal tree."""
    match node:
        case And(items):
            return " & ".join(_bracketed(item, Or, And) for item in items)
        case Or(items):
            return " | ".join(_bracketed(item, Or) for item in items)
        case Not(item):
            return "!" + _bracketed(item, Or, And)
        case Near(low, high, item):
            name, number = ("next", high) if low > 0 else ("prev", -low) if high < 0 else ("within", high)
            steps = "" if number == 1 and name != "within" else f"{number}, "
            return f"{name}({steps}{canonical(item)})"
        case Count(Not(item), "=", 0):
            return f"all({canonical(item)})"
        case Count(item, operator, number):
            if (operator, number) == (">", 0):
                return f"any({canonical(item)})"
            return f"count({canonical(item)}) {operator} {number_text(number)}"
        case FeatureTest(feature, operator, threshold):
            name = f"F{feature}" if isinstance(feature, int) else text_literal(feature)
            return name if threshold is None else f"{name} {operator} {threshold_text(threshold)}"
        case FieldTest(name, is_label, operator, value):
            shown = field_text(name, is_label=bool(is_label))
            return f"has({shown})" if value is None else f"{shown} {operator} {value_text(value.value)}"


def _bracketed(node: Node, *loose: type) -> str:
    return f"({canonical(node)})" if isinstance(node, loose) else canonical(node)


def number_text(number: float) -> str:
    """The shortest spelling that reads back as the same number."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def threshold_text(threshold: Threshold) -> str:
    """`0.4`, `p90` or `0.5max`."""
    number = number_text(threshold.value)
    return f"p{number}" if threshold.kind == "percentile" else f"{number}max" if threshold.kind == "max" else number


def field_text(name: str, *, is_label: bool) -> str:
    """A field as a query names it."""
    if not is_label:
        return name
    return "label." + (name if WORD.fullmatch(name) else text_literal(name))


def value_text(value: str | float | bool) -> str:
    """A value as a query gives it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return text_literal(value) if isinstance(value, str) else number_text(value)


def text_literal(text: str) -> str:
    """Text in double quotes, with quotes and backslashes escaped."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
