"""Environments of the libraries that we are measured against: `python benchmarks/peers/install.py [NAME...]`.

Each goes into `.venv-peers/NAME` at the root of the repository and holds exactly what `benchmarks/peers/NAME.txt`
lists, so that nothing of theirs meets ours. `--pip-args` goes to pip: an index that has torch without CUDA, for one.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import venv
from pathlib import Path

LISTS = Path(__file__).parent
VENVS = LISTS.parents[1] / ".venv-peers"
NAMES = tuple(sorted(path.stem for path in LISTS.glob("*.txt")))
TORCH = "torch=="


def main() -> int:
    """Make the environments asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--pip-args", default="", help="passed on to pip")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no list for {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        print(f"installing {name}: some minutes", flush=True)
        install(name, shlex.split(arguments.pip_args))
    return 0


def install(name: str, options: list[str]) -> None:
    """A fresh environment. Torch first and with what it needs; then the rest as listed and nothing else, since some
    peers ask for packages, or versions of torch, that would break them.
    """
    folder, wanted = VENVS / name, LISTS / f"{name}.txt"
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    torch = next(line for line in wanted.read_text().splitlines() if line.startswith(TORCH))
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(wanted)], check=True)


def python_of(name: str) -> Path | None:
    """The interpreter of a peer's environment; None, and a line that says so, where it is not installed."""
    python = VENVS / name / "bin" / "python"
    if python.exists():
        return python
    print(f"skip {name}: run python benchmarks/peers/install.py {name}")
    return None


if __name__ == "__main__":
    sys.exit(main())
