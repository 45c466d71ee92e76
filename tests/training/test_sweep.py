"""A sweep: its grid, its cells found again, its table, and what is refused before any work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from training_synthetic import planted

import turnscope.training.several as several
import turnscope.training.sweep as sweep
from turnscope.artifacts import ConfigError
from turnscope.training import ArraySource
from turnscope.training.scaling import flops
from turnscope.training.sources import Origin
from turnscope.training.trainer import Trainer

DATA = planted(3000, 16, 24, 3).x_ND


@pytest.fixture(autouse=True)
def _rows_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of an array in place of a store's."""

    class Store:
        d_model = 16

    def opened(path: Path, config: Any) -> Any:
        return ArraySource(DATA[:2500], 128), ArraySource(DATA[2500:], 128), Origin()

    monkeypatch.setattr(several, "open_source", opened)
    monkeypatch.setattr(sweep, "open_activations", lambda path: Store())


def config(out: Path, **settings: Any) -> sweep.SweepConfig:
    grid: dict[str, Any] = {"widths": (16, 32), "k": (2, 3), "samples": (1280, 2560), "batch_size": 128}
    return sweep.SweepConfig(source=Path("store"), out=out, **{**grid, **settings})


def test_every_cell_is_an_artifact_and_a_row(tmp_path: Path) -> None:
    result = sweep.run(config(tmp_path / "s"))
    rows = result.report["rows"]
    assert [path.name for path in sorted((tmp_path / "s" / "cells").iterdir())] == sorted(row["cell"] for row in rows)
    assert len(rows) == len(result.cells) == 8
    assert all((cell.path / "manifest.json").exists() for cell in result.cells)
    row = next(row for row in rows if row["cell"] == "f32-k2-s2560")
    assert row["flops"] == flops(16, 32, 2, 2560)
    assert row["loss"] == next(c for c in result.cells if c.path.name == row["cell"]).metrics["held_nmse_centred"]
    report = tmp_path / "s" / "report"
    assert json.loads((report / "sweep.json").read_text())["rows"] == rows
    assert pq.read_table(report / "table.parquet").to_pylist() == rows
    assert "withheld" in result.report["laws"]["batchtopk, k 2"]["loss_by_size"]


def test_a_stopped_sweep_and_a_larger_grid_train_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep.run(config(tmp_path / "whole", memory=1 << 20))
    step, trained = Trainer.train_on, list[int]()

    def counted(self: Trainer, raw: Any) -> None:
        trained.append(self.config.n_features)
        if len(trained) == 100:
            raise OSError(28, "No space left on device")
        step(self, raw)

    monkeypatch.setattr(Trainer, "train_on", counted)
    with pytest.raises(OSError, match="No space"):
        sweep.run(config(tmp_path / "broken"))
    again = sweep.run(config(tmp_path / "broken"))
    assert again.artifact.fingerprint == whole.artifact.fingerprint
    trained.clear()
    larger = sweep.run(config(tmp_path / "broken", widths=(16, 32, 48), samples=(1280,)))
    assert set(trained) == {48}
    assert len(larger.report["rows"]) == 6
    trained.clear()
    sweep.run(config(tmp_path / "broken", widths=(16, 32, 48), samples=(1280,)))
    assert trained == []


def test_memory_parts_cells_into_passes(tmp_path: Path) -> None:
    one = config(tmp_path / "s", widths=(4096, 8192), k=(2,), samples=(1280, 2560), memory=8 << 20)
    # A cell of 4,096 features of width 16 takes 2 MiB, one of 8,192 twice that.
    groups = [[cell.n_features for cell in group] for group in sweep.cell_groups(list(sweep.cells_of(one)), one)]
    assert groups == [[4096, 4096, 8192], [8192]]


def test_the_best_rate_and_the_mean_of_seeds_stand_for_a_cell() -> None:
    base = {"cell": "", "architecture": "batchtopk", "k": 2, "n_samples": 100, "d_model": 16}
    rows = [
        {**base, "seed": seed, "n_features": 16, "lr": lr, "loss": loss}
        for lr, losses in ((1e-3, (0.3, 0.5)), (2e-3, (0.2, 0.7)))
        for seed, loss in enumerate(losses)
    ]
    (point,) = sweep.report_of(rows)["laws"]["batchtopk, k 2"]["frontier"]
    assert (point["lr"], point["loss"]) == (1e-3, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (16, 16)}, "twice"),
        ({"k": (64,)}, "k = 64 is greater than width 16"),
        ({"widths": ()}, "widths"),
        ({"architectures": ("nope",)}, "architectures"),
        ({"unit": "nested"}, "unit"),
        ({"samples": (-5,)}, "positive"),
    ],
)
def test_contradictions_are_refused_before_any_work(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep.run(config(tmp_path / "s", **settings))
    assert not (tmp_path / "s" / "cells").exists()


def test_numbers_on_the_command_line() -> None:
    from turnscope.cli.sweep import numbers, whole_numbers

    assert whole_numbers("1e5,3e5", "samples") == (100_000, 300_000)
    assert numbers("", "lr") == ()
    for text in ("1e5,x", "nan", "1,,2"):
        with pytest.raises(ConfigError, match="numbers with commas"):
            numbers(text, "lr")
    with pytest.raises(ConfigError, match="whole numbers"):
        whole_numbers("2.5", "k")


def test_the_picture_has_a_row_for_each_k_and_every_width(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import figure as figures

    from turnscope.training.sweep_plot import plot

    drawn: list[Any] = []

    class Figure(figures.Figure):
        def savefig(self, *arguments: Any, **named: Any) -> None:
            drawn.append(self)
            super().savefig(*arguments, **named)

    rows = [
        {"architecture": "topk", "k": k, "n_features": width, "flops": width * 10.0**n, "loss": 1 / (width * n * k)}
        for k in (4, 8) for width in (16, 32) for n in (1, 2, 3)
    ]  # fmt: skip
    law = {"values": {"a": 2.0, "b": 0.1, "c": 0.0}}
    iso = [{"flops": 160.0, "n_features": 16, "loss": 0.5}, {"flops": 160.0, "n_features": 32, "loss": 0.4}]
    laws = {f"topk, k {k}": {"loss_by_compute": law, "iso_compute": iso} for k in (4, 8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "Figure", Figure)
        path = plot({"rows": rows, "laws": laws}, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    left, right, *others = drawn[0].axes
    assert len(others) == 2
    assert [line.get_label() for line in left.lines] == ["F 16", "F 32", "2 C^-0.1 + 0"]
    assert list(left.lines[0].get_ydata()) == [row["loss"] for row in rows[:3]]
    assert list(right.lines[0].get_ydata()) == [0.5, 0.4]


def test_without_matplotlib_there_is_a_table_and_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from turnscope.artifacts import DependencyError
    from turnscope.training.sweep_plot import plot

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match="no plot") as error:
        plot({"laws": {}}, tmp_path)
    assert "turnscope[plot]" in error.value.fix
    assert np.isfinite(DATA).all()
