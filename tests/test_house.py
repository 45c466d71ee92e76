"""House rules that no linter checks: light rooms stay light, files stay short, nothing is pickled."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "turnscope"
LIGHT = ["artifacts", "stats", "llm", "transcripts", "cli"]
HEAVY = {"torch", "transformers"}

# Imports a room and every module in it, so that lazy names cannot hide a heavy import.
WALK = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def rooms() -> list[str]:
    return sorted(entry.name for entry in SOURCE.iterdir() if (entry / "__init__.py").exists())


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_never_import_torch(room: str) -> None:
    if room not in rooms():
        pytest.skip(f"there is no {room} room yet")
    run = subprocess.run([sys.executable, "-c", WALK, f"turnscope.{room}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.split())


def test_configs_never_import_torch() -> None:
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in sorted(SOURCE.glob("*/config.py"))
        if (path.parent / "__init__.py").exists()
    ]
    code = f"import sys, {', '.join(modules)}; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.split())


def python_files() -> list[Path]:
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "examples")]
    return sorted(path for folder in folders if folder.exists() for path in folder.rglob("*.py"))


def test_no_file_is_above_800_lines() -> None:
    long = {path.name: lines for path in python_files() if (lines := len(path.read_text("utf-8").splitlines())) > 800}
    assert long == {}


def test_nothing_is_pickled() -> None:
    """But for the one file that opens other libraries' weights, when `turnscope convert` is asked to."""
    exempt = {"test_house.py", "_pickled.py", "test_hostile.py"}  # the last makes the pickles that must be refused
    use = re.compile(r"\b(import|from)\s+(pickle|dill|cloudpickle|shelve)\b|\btorch\.(load|save)\(|allow_pickle=True")
    found = [str(path) for path in python_files() if use.search(path.read_text("utf-8")) and path.name not in exempt]
    assert found == []


def test_every_source_file_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.read_text("utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_every_room_is_in_the_layers_contract() -> None:
    layers = (ROOT / "pyproject.toml").read_text("utf-8").partition("[[tool.importlinter.contracts]]")[2]
    assert [room for room in rooms() if not re.search(rf'"[^"]*\b{room}\b[^"]*"', layers)] == []
