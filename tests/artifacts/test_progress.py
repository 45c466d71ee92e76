"""Progress: plain lines, a bar on a terminal, silence on request."""

from __future__ import annotations

import io

import pytest

from turnscope.artifacts import progress
from turnscope.artifacts.progress import progress_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _loud(_quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNSCOPE_QUIET")


def test_one_line_every_ten_seconds_and_one_at_the_end() -> None:
    out, now = io.StringIO(), [0.0]
    with progress("harvest", 100, "turns", stream=out, clock=lambda: now[0]) as bar:
        for _ in range(25):
            now[0] += 1
            bar.advance(4, loss=0.123456)
    assert out.getvalue().splitlines() == [
        "harvest: 40/100 turns (40%), 4 turns/s, 0:00:15 left loss=0.1235",
        "harvest: 80/100 turns (80%), 4 turns/s, 0:00:05 left loss=0.1235",
        "harvest: 100/100 turns (100%), 4 turns/s loss=0.1235",
    ]


def test_unknown_and_empty_totals() -> None:
    assert progress_line("read", 50, None, "rows", 5.0) == "read: 50 rows, 10 rows/s"
    assert progress_line("read", 0, 0, "rows", 1e-9) == "read: 0/0 rows, 0 rows/s"
    assert "left" not in progress_line("read", 12, 10, "rows", 1.0)


def test_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNSCOPE_QUIET", "1")
    out = Terminal()
    with progress("x", 1, "turns", stream=out) as bar:
        bar.advance()
    assert out.getvalue() == ""


def test_bar_on_a_terminal() -> None:
    out = Terminal()
    with progress("harvest", 10, "turns", stream=out) as bar:
        bar.advance(10, loss=0.5)
    assert "harvest" in out.getvalue()
    assert "10/10" in out.getvalue()
