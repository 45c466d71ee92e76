"""Fingerprints: sha256 of a value's canonical JSON, and of a file's bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from turnscope.artifacts.errors import DataError, StorageError

_CHUNK_BYTES = 1 << 20


def canonical_json(obj: object) -> bytes:
    """JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes on every machine.

    Takes JSON values, mappings, sequences, dataclasses, pydantic models (a Config gives its `recorded()` fields)
    and numpy scalars. Raises DataError for NaN, infinities, or anything else, since a guess at
    their text would make two different things look equal.
    """
    try:
        text = json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot take a fingerprint: {error}") from error
    return text.encode("ascii")


def fingerprint(obj: object) -> str:
    """64 hex characters: sha256 of `canonical_json(obj)`. Raises DataError as that does.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def file_sha256(path: str | Path) -> str:
    """64 hex characters: sha256 of the file's bytes, read in pieces. Raises StorageError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror or error}", where=path) from error
    return digest.hexdigest()


def _plain(obj: Any) -> Any:
    if obj is None or isinstance(obj, (str, bool, int, float)):
        return obj
    for method in ("recorded", "model_dump"):  # Config, then other pydantic models
        if callable(getattr(obj, method, None)) and not isinstance(obj, type):
            return _plain(obj.recorded() if method == "recorded" else obj.model_dump(mode="json"))
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: _plain(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        items = cast("Mapping[object, object]", obj).items()
        bad = [key for key, _ in items if not isinstance(key, str)]
        if bad:
            raise TypeError(f"keys must be strings, not {bad[0]!r}")
        return {str(key): _plain(value) for key, value in items}
    if isinstance(obj, Sequence) and not isinstance(obj, (bytes, bytearray, memoryview)):
        return [_plain(value) for value in cast("Sequence[object]", obj)]
    scalar: Any = obj  # numpy is known by name, so that this floor need not import it
    if type(scalar).__module__ == "numpy" and getattr(scalar, "shape", None) == ():
        return _plain(scalar.item())
    raise TypeError(f"a {type(obj).__name__} has no canonical JSON")
