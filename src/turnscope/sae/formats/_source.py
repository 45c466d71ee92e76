"""What an adapter is given, what it gives back, and how it reads JSON that others wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from turnscope.artifacts import ConfigError, IntegrityError, StorageError
from turnscope.sae.sparse_autoencoder import SparseAutoencoder

_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller knows and the files may not say. A contradiction is an error."""

    k: int | None = None
    input_scale: float | None = None
    """Factor on raw activations, where a file says that inputs are normalised but not by how much."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A dictionary read from another library's files."""

    sae: SparseAutoencoder
    files: tuple[Path, ...]
    """The files it was made from."""
    notes: tuple[str, ...] = ()
    """What was folded, and what the files did not say."""


class Fields:
    """A JSON object of unknown content, read field by field with a clear error for each that is not as it should be."""

    def __init__(self, values: Mapping[str, Any], where: Path) -> None:
        self.values = values
        self.where = where

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def table(self, name: str) -> Fields:
        """A nested object; empty when it is not there or is something else."""
        value = self.values.get(name)
        return Fields(cast("dict[str, Any]", value) if isinstance(value, dict) else {}, self.where)

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value[:300] if isinstance(value, str) else ""

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(f"{name} is {value!r:.40}, expected true or false")
        return value

    def count(self, name: str) -> int | None:
        """A positive whole number, or None when it is not there (or 0)."""
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value == 0:
            return None
        if type(value) is not int or value < 0:
            raise self.refuse(f"{name} is {value!r:.40}, expected a positive whole number")
        return value

    def number(self, name: str) -> float | None:
        """A positive finite number, or None when it is not there."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.refuse(f"{name} is {value!r:.40}, expected a positive number")
        return float(value)

    def refuse(self, reason: str, fix: str = "") -> IntegrityError:
        return IntegrityError(f"{self.where.name} is refused: {reason}", where=str(self.where), fix=fix)


def read_json(path: Path) -> Fields:
    """The object in a JSON file of at most 1 MB. Raises IntegrityError, StorageError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise IntegrityError(f"{path.name} is larger than 1 MB", where=str(path))
        stored: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not JSON", where=str(path)) from error
    if not isinstance(stored, dict):
        raise IntegrityError(f"{path.name} is not a JSON object", where=str(path))
    return Fields(cast("dict[str, Any]", stored), path)


def unsupported(what: str, where: Path, why: str) -> ConfigError:
    """A dictionary that is sound but is none that the canonical form can hold."""
    return ConfigError(f"{what} cannot be converted: {why}", where=str(where))
