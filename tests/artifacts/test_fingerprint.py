"""Fingerprints: equal for equal values, different for different ones."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnscope.artifacts import Config, DataError, StorageError, canonical_json, file_sha256, fingerprint

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@dataclasses.dataclass
class Point:
    x: int


class Settings(Config):
    n: int = 1
    out: Path = Path("here")


def test_known_value() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()


@given(st.dictionaries(st.text(), JSON))
def test_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_kinds_of_values() -> None:
    assert fingerprint(Point(3)) == fingerprint({"x": np.int64(3)})
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(Settings(out=Path("there"))) == fingerprint({"n": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1, 2}, b"x", Path("x"), np.zeros(2)])
def test_values_without_one_meaning_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="fingerprint"):
        fingerprint(value)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data[:size]).hexdigest()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        file_sha256(tmp_path / "x")
