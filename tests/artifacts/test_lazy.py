"""Lazy public names: nothing is imported before it is used, and every name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import turnscope.artifacts as room


def test_every_public_name_resolves() -> None:
    for name in room.__all__:
        assert getattr(room, name) is not None
    assert set(dir(room)) == set(room.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing


def test_functions_are_not_hidden_by_the_modules_they_live_in() -> None:
    code = (
        "import sys, turnscope.artifacts.artifact, turnscope.artifacts.progress, turnscope.artifacts.fingerprint\n"
        "from turnscope.artifacts import fingerprint, progress\n"
        "assert callable(fingerprint) and callable(progress)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_room_is_cheap() -> None:
    code = "import sys, turnscope.artifacts as a; a.ConfigError; assert not {'pydantic', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
