"""A run killed in its harvest and in its training goes on to the same bytes as an unbroken run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pipeline_support as support
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")

# Runs the recipe and kills itself at the n-th file that the harvest finishes, or after the n-th step of training.
SCRIPT = """
import os, signal, sys
from functools import partial
from pathlib import Path
import pipeline_support as support
from turnscope.pipeline import pipeline
from turnscope.training.trainer import Trainer

stage, n = sys.argv[1], int(sys.argv[2])
calls = 0

def deadly(real, counts):
    def call(*args, **kwargs):
        global calls
        calls += bool(counts(*args))
        if calls == n and counts(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

if stage == "harvest":
    os.replace = deadly(os.replace, lambda source, target: "activations" in Path(target).parts)
if stage == "training":
    Trainer.train_on = deadly(Trainer.train_on, lambda *_: True)
pipeline.TrainConfig = partial(pipeline.TrainConfig, checkpoint_every=3)
inputs = support.Inputs(Path(sys.argv[3]), Path(sys.argv[4]))
pipeline.run(support.recipe(inputs), Path(sys.argv[5]))
"""


def start(inputs: support.Inputs, out: Path, stage: str = "none", n: int = 0) -> int:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TURNSCOPE_QUIET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, stage, str(n), str(inputs.model), str(inputs.chats), str(out)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    return ran.returncode


@pytest.fixture(scope="module")
def unbroken(inputs: support.Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert start(inputs, out) == 0
    return support.artifacts(out)


def break_and_finish(inputs: support.Inputs, out: Path, kills: list[tuple[str, int]]) -> dict[str, str]:
    for stage, n in kills:
        assert start(inputs, out, stage, n) == -signal.SIGKILL, "the run ended before it was killed"
        assert not (out / "report.json").exists()
    assert start(inputs, out) == 0
    assert set(json.loads((out / "report.json").read_text())["saes"]) == {"turn", "token"}
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp" or path.name == ".work"]
    return support.artifacts(out)


def test_killed_in_harvest_and_training(inputs: support.Inputs, tmp_path: Path, unbroken: dict[str, str]) -> None:
    assert break_and_finish(inputs, tmp_path / "run", [("harvest", 3), ("training", 8)]) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [
        [("harvest", 1)],
        [("harvest", 2), ("harvest", 2), ("harvest", 1)],
        [("training", 1), ("training", 4), ("training", 20)],
        [("harvest", 4), ("training", 2), ("training", 30)],
    ],
    ids=str,
)
def test_killed_anywhere(
    inputs: support.Inputs, tmp_path: Path, unbroken: dict[str, str], kills: list[tuple[str, int]]
) -> None:
    assert break_and_finish(inputs, tmp_path / "run", kills) == unbroken
