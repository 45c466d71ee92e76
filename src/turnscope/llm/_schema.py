"""Does a text hold JSON of a schema? The subset that endpoints take for structured output is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def unmet(text: str, schema: Mapping[str, Any]) -> str:
    """What is wrong with `text`, or "" when it is JSON that meets `schema`."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return _unmet(value, schema, "answer")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unmet(value: Any, schema: Mapping[str, Any], at: str) -> str:
    named = schema.get("type")
    names = [named] if isinstance(named, str) else list(named or ())
    if names and not any(_is(value, name) for name in names):
        return f"{at}: {' or '.join(names)} wanted"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at}: none of the values allowed"
    if isinstance(value, dict):
        return _unmet_object(value, schema, at)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{at}: {len(value)} items"
        found = (_unmet(item, schema.get("items", {}), f"{at}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), "")
    return ""


def _unmet_object(value: dict[str, Any], schema: Mapping[str, Any], at: str) -> str:
    fields: Mapping[str, Any] = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{at}: no {missing[0]}"
    other = [name for name in value if name not in fields]
    if other and schema.get("additionalProperties") is False:
        return f"{at}: {other[0]!r} was not asked for"
    found = (_unmet(value[name], fields[name], f"{at}.{name}") for name in fields if name in value)
    return next(filter(None, found), "")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False
    return isinstance(value, _TYPES.get(name, (object,)))
