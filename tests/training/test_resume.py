"""Killed at any step and resumed, a run leaves the bytes that an unbroken run leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_synthetic import planted

from turnscope.artifacts import IntegrityError, sole_writer
from turnscope.sae.weights import Layout, write_weights
from turnscope.training import ArraySource, TrainConfig, run
from turnscope.training.checkpoint import NAME, load_checkpoint
from turnscope.training.defaults import resolve_defaults
from turnscope.training.initial import initial_weights, measure
from turnscope.training.interrupt import deferred_signals
from turnscope.training.trainer import Trainer

FILES = ("sae.json", "sae.safetensors", "metrics.jsonl", "manifest.json")
SCRIPT = """
import os, signal, sys
from pathlib import Path
from training_synthetic import planted
from turnscope.training import ArraySource, TrainConfig, run
import turnscope.training.trainer as trainer

out, stop_at, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
step = trainer.Trainer.train_on
def train_on(self, raw_BD):
    step(self, raw_BD)
    if self.step == stop_at:
        os.kill(os.getpid(), number)
trainer.Trainer.train_on = train_on
x_ND = planted(3000, 16, 24, 3).x_ND
config = TrainConfig(
    out=out, n_features=64, k=3, n_samples=100 * 128, batch_size=128, lr=3e-3, dead_after=1000,
    checkpoint_every=7, log_every=10, threads=1,
)
run(config, source=ArraySource(x_ND[:2500], 128), held=ArraySource(x_ND[2500:], 128))
"""


def start(out: Path, stop_at: int, number: int, helper_path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(out), str(stop_at), str(number)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helper_path, *sys.path]), "TURNSCOPE_QUIET": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def contents(out: Path) -> dict[str, bytes]:
    assert sorted(file.name for file in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_kill_and_resume_give_the_same_bytes(tmp_path: Path, helper_path: str) -> None:
    whole = start(tmp_path / "whole", -1, signal.SIGKILL, helper_path)
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    # Before the first checkpoint, just after one, between two, in mid-window of the log, and at the last step.
    for step in (3, 8, 33, 71, 100):
        assert start(broken, step, signal.SIGKILL, helper_path).returncode == -signal.SIGKILL
        assert not (broken / "manifest.json").exists()
    assert start(broken, -1, signal.SIGKILL, helper_path).returncode == 0
    assert contents(broken) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_save_the_last_step_and_go_through(
    tmp_path: Path, helper_path: str, number: signal.Signals, code: int
) -> None:
    stopped = start(tmp_path / "a", 45, number, helper_path)
    assert stopped.returncode in (code, -number)
    assert "stopped after step 45 of 100, saved" in stopped.stderr
    assert (tmp_path / "a" / ".work" / NAME).exists()
    assert start(tmp_path / "a", 45, number, helper_path).returncode == 0, "it must go on from step 45, not repeat it"
    assert start(tmp_path / "b", -1, number, helper_path).returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_second_trainer_is_refused(tmp_path: Path, helper_path: str) -> None:
    out = tmp_path / "out"
    with sole_writer(out):
        second = start(out, -1, signal.SIGKILL, helper_path)
    assert second.returncode == 1
    assert f"in use by process {os.getpid()}" in second.stderr
    assert not out.exists(), "a writer that wrote nothing leaves nothing"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as pending:
            os.kill(os.getpid(), signal.SIGINT)
        assert pending.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_array_source_goes_on_where_it_stood() -> None:
    x_ND = np.arange(50, dtype=np.float32).reshape(25, 2)
    whole, broken = ArraySource(x_ND, 8, seed=3), ArraySource(x_ND, 8, seed=3)
    expected = [batch for batch, _ in zip(whole.batches(), range(12), strict=False)]
    first = [batch for batch, _ in zip(broken.batches(), range(5), strict=False)]
    resumed = ArraySource(x_ND, 8, seed=3)
    state = broken.state_dict()
    state["position"] = 5 * 8
    resumed.load_state_dict(state)
    rest = [batch for batch, _ in zip(resumed.batches(), range(7), strict=False)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, first + rest, strict=True))
    epoch = np.concatenate(expected)[:25]
    assert sorted(epoch[:, 0].tolist()) == x_ND[:, 0].tolist()
    with pytest.raises(IntegrityError, match="another source"):
        ArraySource(x_ND + 1, 8, seed=3).load_state_dict(state)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND = planted(1000, 8, 12, 2).x_ND
    config = TrainConfig(out=tmp_path / "sae", n_features=16, k=2, n_samples=20_000, checkpoint_every=5)
    step = Trainer.train_on

    def fail(self: Trainer, raw_BD: np.ndarray) -> None:
        if self.step == 12:
            raise OSError(28, "No space left on device")
        step(self, raw_BD)

    monkeypatch.setattr(Trainer, "train_on", fail)
    with pytest.raises(OSError, match="No space"):
        run(config, source=ArraySource(x_ND))
    monkeypatch.undo()
    checkpoint = tmp_path / "sae" / ".work" / NAME
    checkpoint.write_bytes(checkpoint.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=NAME):
        run(config, source=ArraySource(x_ND))


@pytest.mark.parametrize("metadata", [None, {"state": "{"}, {"other": "{}"}])
def test_a_checkpoint_without_its_state_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2)}
    write_weights(tmp_path / NAME, tensors, metadata)
    with pytest.raises(IntegrityError, match="state of a run"):
        load_checkpoint(tmp_path, Layout.of(tensors))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_step_can_be_resumed_at(architecture: Any, dtype: Any) -> None:
    # More than 64 rows and F > 4k, or there is no search that begins where the last batch's ended.
    x_ND = planted(2000, 64, 96, 4).x_ND
    config = resolve_defaults(
        TrainConfig(
            out=Path("out"), architecture=architecture, n_features=256, k=4, batch_size=200, n_samples=20 * 200,
            lr=3e-3, encoder_dtype=dtype,
        ), 2000, 64,
    )  # fmt: skip
    rows_ND = torch.from_numpy(x_ND)
    statistics = measure(rows_ND)
    trainer = Trainer.fresh(config, initial_weights(rows_ND, statistics, 256, 0.8, 0), statistics, rows_ND)
    for step in range(20):
        tensors, values = trainer.checkpoint()
        resumed = Trainer.restore(config, {name: tensor.clone() for name, tensor in tensors.items()}, values)
        batch_BD = x_ND[(step * 200) % 2000 :][:200]
        trainer.train_on(batch_BD)
        resumed.train_on(batch_BD)
        for name, tensor in trainer.weights.items():
            assert torch.equal(tensor, resumed.weights[name]), f"{name} after step {step}"


def test_no_time_is_spent_holding_signals_back() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), deferred_signals() as pending:
        os.kill(os.getpid(), signal.SIGINT)
        while pending.signal is None and time.monotonic() - began < 5:
            time.sleep(0.01)
    assert pending.signal == signal.SIGINT
