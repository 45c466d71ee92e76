"""Killed fifty times at random moments (kill -9, from outside), a run of three dictionaries leaves the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 50
NAMES = ("a", "b", "c")
FILES = ("sae.json", "sae.safetensors", "metrics.jsonl", "manifest.json")
SCRIPT = """
import sys
from pathlib import Path
from training_synthetic import planted
from turnscope.training import ArraySource, Rows, TrainConfig, run_several

folder = Path(sys.argv[1])
x_ND = planted(3000, 16, 24, 3).x_ND
rows = Rows(ArraySource(x_ND[:2500], 128), ArraySource(x_ND[2500:], 128))
shared = dict(n_features=64, k=3, batch_size=128, lr=3e-3, dead_after=1000, checkpoint_every=5, log_every=10, threads=1)
configs = [
    TrainConfig(out=folder / "a", n_samples=4000 * 128, **shared),
    TrainConfig(out=folder / "b", n_samples=2500 * 128, schedule="cosine", architecture="topk", **shared),
    TrainConfig(out=folder / "c", n_samples=4000 * 128, patience=100, min_delta=1e-4, **shared),
]
print("begun", flush=True)
run_several(configs, [rows] * 3)
"""


def start(folder: Path, helper_path: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helper_path, *sys.path]), "TURNSCOPE_QUIET": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {f"{name}/{file}": (folder / name / file).read_bytes() for name in NAMES for file in FILES}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_leave_the_bytes_of_an_unbroken_run(tmp_path: Path, helper_path: str) -> None:
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", random.Random(0)
    began = time.monotonic()
    process = start(whole, helper_path)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    lasted = time.monotonic() - began
    kills = 0
    while kills < KILLS:
        process = start(broken, helper_path)
        assert process.stdout is not None
        process.stdout.readline()
        # Most land in training, some while starting or while an artifact is being written.
        time.sleep(rng.uniform(0, 2.5 * lasted / KILLS))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    process = start(broken, helper_path)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    assert contents(broken) == contents(whole)
    assert kills >= KILLS // 2, f"the run was over after {kills} kills: it must be longer"
    assert all(not (broken / name / ".work").exists() for name in NAMES)
