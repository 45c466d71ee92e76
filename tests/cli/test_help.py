"""Help is instant and shows an example."""

from __future__ import annotations

import subprocess
import sys

import cli_support
import pytest

COMMANDS = [
    "demo", "demo corpus", "demo train-model", "demo check-model", "demo finetune", "run", "import", "export", "spans",
    "harvest",
    "sweep", "train", "index", "features", "features split", "evaluate", "convert", "verify", "repair", "merge",
    "split", "query", "search", "contrast", "persona",
    "audit", "diff", "find", "label", "monitor", "monitor fit", "monitor new", "monitor run", "monitor drift",
]  # fmt: skip
# Runs a command line and then says which heavy libraries it brought in.
PROBE = """
import sys
from turnscope.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print(*sorted({"torch", "transformers", "sklearn", "pyarrow"} & {name.partition(".")[0] for name in sys.modules}))
"""


def test_every_command_is_listed(turnscope: cli_support.Command) -> None:
    ran = turnscope("--help")
    assert ran.code == 0
    assert all(name in ran.out for name in COMMANDS if " " not in name)
    from turnscope.cli.main import app

    names = [name for name in app if not name.startswith("-")]
    assert sorted(names) == sorted(name for name in COMMANDS if " " not in name)
    inside = [
        f"{outer} {name}"
        for outer in ("demo", "features", "monitor")
        for name in app[outer]
        if not name.startswith("-")
    ]
    assert sorted(inside) == sorted(name for name in COMMANDS if " " in name)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(turnscope: cli_support.Command, command: str) -> None:
    ran = turnscope(*command.split(), "--help")
    assert ran.code == 0
    assert "Example" in ran.out
    assert f"turnscope {command}" in ran.out.split("Example", 1)[1]


@pytest.mark.parametrize("arguments", ["--help", "--version", "run --help", "demo --help", "harvest --help"])
def test_help_brings_in_nothing_heavy(arguments: str) -> None:
    command = [sys.executable, "-c", PROBE, *arguments.split()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == ""


def test_a_command_line_without_a_command_shows_help(turnscope: cli_support.Command) -> None:
    ran = turnscope()
    assert ran.code == 0
    assert "Usage: turnscope" in ran.out
