"""Running commands in this process."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from turnscope.cli.main import main


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """`turnscope ARGUMENTS`. An error that is not the user's comes through, as a traceback would."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ran:
        self._capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Ran(code, *self._capsys.readouterr())
