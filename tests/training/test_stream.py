"""Rows harvested while training: the rows that a store holds, in an order of measured quality, resumed exactly."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "harvest"))  # for harvest_support

import harvest_support as support  # pyright: ignore[reportMissingImports]

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.harvest import HarvestConfig, harvest
from turnscope.harvest.store import open_activations
from turnscope.harvest.stream import LiveHarvest, neighbours
from turnscope.pipeline.live import train_live
from turnscope.training import TrainConfig
from turnscope.training.trainer import Trainer
from turnscope.transcripts import import_
from turnscope.transcripts.config import ImportConfig

SITES = ("resid.0", "resid.2")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(transcripts, model): 120 chats, imported and split."""
    folder = tmp_path_factory.mktemp("stream")
    model = support.make_model(folder / "model")
    lines = [json.dumps({"messages": chat["messages"]}) for chat in support.chats(120, 3)]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import_.run(ImportConfig(sources=(folder / "chats.jsonl",), out=folder / "transcripts", near_duplicates=None))
    return folder / "transcripts", model


def settings(inputs: tuple[Path, Path], **changed: Any) -> HarvestConfig:
    options: dict[str, Any] = {"sites": SITES, "too_long": "truncate-left", **changed}
    return HarvestConfig(transcripts=inputs[0], model=str(inputs[1]), out=Path("unused"), **options)


def epoch(source: Any, rows: int) -> np.ndarray:
    parts, taken = [], 0
    for batch in source.batches():
        parts.append(batch)
        taken += len(batch)
        if taken >= rows:
            return np.concatenate(parts)[:rows]
    raise AssertionError


@pytest.mark.parametrize(("unit", "tokens"), [("turn", "none"), ("token", "all")])
def test_an_epoch_serves_the_rows_of_a_store(inputs: tuple[Path, Path], tmp_path: Path, unit: Any, tokens: Any) -> None:
    config = settings(inputs, tokens=tokens, token_dtype="float32")
    stored = open_activations(
        harvest.run(config.model_copy(update={"out": tmp_path / "out"})).activations["resid.2"].path
    )
    live = LiveHarvest(config, unit, "train", buffer_rows=60 if unit == "turn" else 2000)
    assert live.n_chunks > 1
    in_train = np.asarray(stored.table(["split"])["split"].to_pylist()) == "train"
    rows_ND = stored.mean_ND(np.flatnonzero(in_train))
    if unit == "token":
        offsets = stored.token_offsets
        picked = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in np.flatnonzero(in_train)])
        rows_ND = stored.tokens_TD(picked)
    assert live.n_rows == len(rows_ND)
    served_ND = epoch(live.source("resid.2", 16), len(rows_ND))
    assert not np.array_equal(served_ND, rows_ND)
    ordered = [np.sort(np.round(x_ND @ np.linspace(1, 2, x_ND.shape[1]), 3)) for x_ND in (served_ND, rows_ND)]
    assert np.allclose(*ordered, rtol=1e-4, atol=2e-3)


def test_a_source_goes_on_at_any_batch(inputs: tuple[Path, Path]) -> None:
    live = LiveHarvest(settings(inputs), buffer_rows=60)
    whole = live.source("resid.2", 16)
    states, expected = [], []
    for batch, _ in zip(whole.batches(), range(30), strict=False):
        states.append(whole.state_dict())
        expected.append(batch)
    assert states[-1]["epoch"] >= 1, "the walk must pass the end of an epoch"
    fresh = LiveHarvest(settings(inputs), buffer_rows=60)
    for stop in (0, 3, 11, 24):
        source = fresh.source("resid.2", 16)
        source.load_state_dict(json.loads(json.dumps(states[stop])))
        after = next(source.batches())
        assert np.array_equal(after, expected[stop + 1])
    with pytest.raises(IntegrityError, match="another source: shuffle"):
        LiveHarvest(settings(inputs), buffer_rows=1000).source("resid.2", 16).load_state_dict(states[3])
    with pytest.raises(IntegrityError, match="another source: source"):
        fresh.source("resid.0", 16).load_state_dict(states[3])


def test_shuffle_quality_is_that_of_its_chunks(inputs: tuple[Path, Path]) -> None:
    whole = LiveHarvest(settings(inputs), buffer_rows=10**6)
    small = LiveHarvest(settings(inputs), buffer_rows=120)
    batch = 32
    for live in (whole, small):
        served = live.conversations(0)
        counts = np.unique(served, return_counts=True)[1]
        # Drawing without replacement from a chunk of M rows: (B - 1) (c - 1) / (M - 1) for a conversation of c rows.
        pairs = float((counts * (counts - 1)).sum()) / len(served)
        expected = (batch - 1) * pairs / (len(served) / live.n_chunks - 1)
        assert neighbours(served, batch) == pytest.approx(expected, rel=0.35)
        # Serving follows the order of the transcripts in nothing: 3 / sqrt(N) is three standard errors.
        assert abs(np.corrcoef(served, np.arange(len(served)))[0, 1]) < 3 / np.sqrt(len(served)) + 0.02
    in_order = np.sort(whole.conversations(0))
    assert neighbours(in_order, batch) > 3 * neighbours(whole.conversations(0), batch)
    assert abs(np.corrcoef(in_order, np.arange(len(in_order)))[0, 1]) > 0.9
    assert not np.array_equal(whole.conversations(0), whole.conversations(1))


def dictionaries(folder: Path) -> list[tuple[str, TrainConfig]]:
    def config(name: str, **changed: Any) -> TrainConfig:
        options: dict[str, Any] = {"n_features": 24, "k": 3, "n_samples": 30 * 32, "batch_size": 32, "threads": 1}
        return TrainConfig(out=folder / name, checkpoint_every=4, log_every=10, **{**options, **changed})

    return [("resid.0", config("a")), ("resid.2", config("b")), ("resid.2", config("c", n_features=48))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_training_while_harvesting_resumes_to_the_same_bytes(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[tuple[str, int]]()
    read = LiveHarvest._read  # pyright: ignore[reportPrivateUsage]

    def counted(self: LiveHarvest, epoch: int, number: int) -> Any:
        reads.append((self.split, epoch * 1000 + number))
        return read(self, epoch, number)

    monkeypatch.setattr(LiveHarvest, "_read", counted)
    whole = train_live(settings(inputs), dictionaries(tmp_path / "whole"), buffer_rows=100)
    assert [result.load().config.site for result in whole] == ["resid.0", "resid.2", "resid.2"]
    assert whole[0].load().config.subject_fingerprint
    # After the starts, two sites and three dictionaries read each chunk of the model once.
    trained = [key for key in reads if key[0] == "train"]
    last = max(trained)[1]
    assert trained.count(("train", last)) == 1
    step, calls = Trainer.train_on, {"n": 0}
    for stop in (20, 50):
        calls["n"] = 0

        def fail(self: Trainer, raw: Any, stop: int = stop) -> None:
            calls["n"] += 1
            if calls["n"] == stop:
                raise OSError(28, "No space left on device")
            step(self, raw)

        monkeypatch.setattr(Trainer, "train_on", fail)
        with pytest.raises(OSError, match="No space"):
            train_live(settings(inputs), dictionaries(tmp_path / "broken"), buffer_rows=100)
    monkeypatch.setattr(Trainer, "train_on", step)
    train_live(settings(inputs), dictionaries(tmp_path / "broken"), buffer_rows=100)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_what_cannot_be_read_live_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens is none"):
        LiveHarvest(settings(inputs), "token")
    with pytest.raises(ConfigError, match="may not be trained on"):
        LiveHarvest(settings(inputs), "turn", "locked")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"resid\.1"):
        train_live(settings(inputs), [("resid.1", TrainConfig(out=tmp_path / "a"))])
    with pytest.raises(ConfigError, match="one unit"):
        train_live(settings(inputs), [("resid.0", TrainConfig(out=tmp_path / "a", unit="nested"))])
