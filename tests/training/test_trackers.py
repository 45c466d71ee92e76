"""Figures sent to a tracker, which is a fake module here: both libraries are called alike."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from training_synthetic import planted

from turnscope.artifacts import DependencyError
from turnscope.training import ArraySource, TrainConfig, run
from turnscope.training.trackers import tracker


class Fake(ModuleType):
    """What trackio and wandb have in common."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls = list[tuple[str, Any]]()

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> None:
        self.calls.append(("init", (project, name, config)))

    def log(self, figures: dict[str, Any], *, step: int) -> None:
        self.calls.append(("log", (step, figures)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_the_lines_of_the_log_are_sent(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(library)
    monkeypatch.setitem(sys.modules, library, fake)
    x_ND = planted(1000, 8, 12, 2).x_ND
    settings: dict[str, Any] = {"n_features": 16, "k": 2, "n_samples": 20_000, "log_every": 20}
    tracked = TrainConfig(out=tmp_path / "mine", track=library, track_project="chats", **settings)
    result = run(tracked, source=ArraySource(x_ND))
    assert [name for name, _ in fake.calls] == ["init", *["log"] * (len(fake.calls) - 2), "finish"]
    project, name, config = fake.calls[0][1]
    assert (project, name, config["n_features"]) == ("chats", "mine", 16)
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    sent = [figures | {"step": step} for kind, (step, figures) in fake.calls[1:-1] if kind == "log"]
    assert sent == lines
    silent = run(TrainConfig(out=tmp_path / "other", **settings), source=ArraySource(x_ND))
    # What a tracker is told changes nothing in the artifact.
    assert silent.artifact.fingerprint == result.artifact.fingerprint


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match="wandb is not installed") as error:
        tracker("wandb", "p", "n", {})
    assert 'pip install "turnscope[wandb]"' in error.value.fix
