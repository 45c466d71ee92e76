"""Several dictionaries over one pass: each is the artifact that it is by itself. Schedules and early stopping."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_synthetic import planted

from turnscope.artifacts import ConfigError
from turnscope.training import ArraySource, Rows, TrainConfig, resolve_defaults, run, run_several
from turnscope.training.defaults import learning_rate
from turnscope.training.early import EarlyStop
from turnscope.training.trainer import Trainer

DATA = planted(3000, 16, 24, 3).x_ND
FILES = ("sae.json", "sae.safetensors", "metrics.jsonl", "manifest.json")


class Counted(ArraySource):
    """Says how many batches were drawn after training began."""

    drawn = 0

    def batches(self) -> Iterator[Any]:
        for batch in super().batches():
            self.drawn += 1
            yield batch


def config(out: Path, **settings: Any) -> TrainConfig:
    options: dict[str, Any] = {"n_features": 32, "k": 3, "n_samples": 40 * 128, "lr": 3e-3, "batch_size": 128}
    options |= {"log_every": 10, "checkpoint_every": 7, **settings}
    return TrainConfig(out=out, **options)


def variants(folder: Path) -> list[TrainConfig]:
    return [
        config(folder / "a"),
        config(folder / "b", n_features=64, k=5),
        config(folder / "c", n_samples=25 * 128, schedule="cosine"),
        config(folder / "d", architecture="topk"),
        config(folder / "e", seed=4, shuffle_seed=0),
    ]


def together(configs: list[TrainConfig], source: ArraySource | None = None) -> None:
    rows = Rows(source or ArraySource(DATA[:2500], 128), ArraySource(DATA[2500:], 128))
    run_several(configs, [rows] * len(configs))


def contents(out: Path) -> dict[str, bytes]:
    assert sorted(file.name for file in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for one in variants(folder):
        run(one, source=ArraySource(DATA[:2500], 128), held=ArraySource(DATA[2500:], 128))
    return folder


def same(folder: Path, alone: Path) -> None:
    for name in "abcde":
        assert contents(folder / name) == contents(alone / name), name


def test_one_pass_gives_each_the_bytes_it_has_alone(tmp_path: Path, alone: Path) -> None:
    source = Counted(DATA[:2500], 128)
    together(variants(tmp_path), source)
    same(tmp_path, alone)
    # 40 batches serve all five, beside the 20 of the sample that they start from.
    assert source.drawn <= 40 + 20 + 2


def test_a_stopped_pass_goes_on_where_each_stood(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = Trainer.train_on, {"n": 0}

    def fail(self: Trainer, raw: Any) -> None:
        seen["n"] += 1
        if seen["n"] == 5 * 14 - 2:  # in mid-batch: three have a checkpoint of step 14, two of step 7
            raise OSError(28, "No space left on device")
        step(self, raw)

    monkeypatch.setattr(Trainer, "train_on", fail)
    with pytest.raises(OSError, match="No space"):
        together(variants(tmp_path))
    monkeypatch.undo()
    run(variants(tmp_path)[1], source=ArraySource(DATA[:2500], 128), held=ArraySource(DATA[2500:], 128))
    together(variants(tmp_path))
    same(tmp_path, alone)


def test_finished_ones_are_only_read(tmp_path: Path, alone: Path) -> None:
    together(variants(tmp_path))
    source = Counted(DATA[:2500], 128)
    together(variants(tmp_path), source)
    assert source.drawn == 0


def test_two_in_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two dictionaries in one folder"):
        together([config(tmp_path / "a"), config(tmp_path / "a", k=4)])


def test_two_sources_take_turns(tmp_path: Path) -> None:
    order = list[str]()

    class Told(ArraySource):
        name = ""

        def batches(self) -> Iterator[Any]:
            for batch in super().batches():
                order.append(self.name)
                yield batch

    first, second = Told(DATA[:2000], 128), Told(DATA[500:2500], 128)
    first.name, second.name = "first", "second"
    run_several([config(tmp_path / "a"), config(tmp_path / "b")], [Rows(first), Rows(second)])
    trained = order[-80:]
    assert trained == ["first", "second"] * 40


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules(schedule: Any) -> None:
    one = config(Path("x"), schedule=schedule, n_samples=1000 * 128, lr=1.0, warmup_share=0.1, decay_share=0.2)
    resolved = resolve_defaults(one, 2500, 16)
    rates = np.array([learning_rate(resolved, step) for step in range(1000)])
    assert rates[0] == pytest.approx(0.01)
    assert rates[49] == pytest.approx(0.5, abs=0.01)
    assert (rates <= 1).all()
    expected = {"linear": (1.0, 0.5), "cosine": (0.5, (1 + math.cos(math.pi * 8 / 9)) / 2), "constant": (1.0, 1.0)}
    assert (rates[550], rates[900]) == pytest.approx(expected[schedule], abs=1e-3)
    assert rates[999] == pytest.approx({"linear": 0, "cosine": 0, "constant": 1}[schedule], abs=0.01)


def test_patience_counts_lines_without_a_better_figure() -> None:
    stop = EarlyStop(patience=2, min_delta=0.01)
    for nmse, waited in ((0.5, 0), (0.4, 0), (0.395, 1), (0.38, 0), (0.379, 1)):
        stop.see(nmse)
        assert (stop.waited, stop.says_stop) == (waited, False)
    stop.see(0.9)
    assert stop.says_stop
    off = EarlyStop(patience=None, min_delta=0.0)
    for _ in range(1000):
        off.see(1.0)
    assert not off.says_stop


def test_an_early_stop_is_the_same_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No line can be better by 10: the third one ends the run, at step 30 of 200.
    settings: dict[str, Any] = {"n_samples": 200 * 128, "patience": 2, "min_delta": 10.0}

    def train(name: str) -> Any:
        source, held = ArraySource(DATA[:2500], 128), ArraySource(DATA[2500:], 128)
        return run(config(tmp_path / name, **settings), source=source, held=held)

    result = train("whole")
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 30]
    assert any("stopped after step 30 of 200" in note for note in result.notes)
    step = Trainer.train_on
    for at in (5, 12, 29):

        def fail(self: Trainer, raw: Any, at: int = at) -> None:
            if self.step == at:
                raise OSError(28, "No space left on device")
            step(self, raw)

        monkeypatch.setattr(Trainer, "train_on", fail)
        with pytest.raises(OSError, match="No space"):
            train("broken")
    monkeypatch.undo()
    train("broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
