"""Errors say what, where and what to do, and survive a trip between processes."""

from __future__ import annotations

import copy

import pytest

from turnscope.artifacts import errors


def test_text() -> None:
    assert str(errors.DataError("too few rows")) == "too few rows"
    full = errors.StorageError("disk full", where="/x", fix="free some space")
    assert str(full) == "disk full\n  where: /x\n  fix: free some space"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("StorageError", 3),
        ("DataError", 4),
        ("IntegrityError", 5),
        ("ModelError", 6),
        ("DependencyError", 7),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    cls = getattr(errors, name)
    assert issubclass(cls, errors.TurnscopeError)
    assert cls.exit_code == code


def test_copies_keep_every_part() -> None:
    error = copy.copy(errors.ModelError("no", where="w", fix="f"))
    assert (type(error), str(error)) == (errors.ModelError, "no\n  where: w\n  fix: f")
