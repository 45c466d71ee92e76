"""Training straight from a harvested store."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "harvest"))

import harvest_support as support

from turnscope.artifacts import DataError
from turnscope.harvest import harvest, open_activations
from turnscope.training import TrainConfig, run


@pytest.mark.parametrize("unit", ["turn", "token"])
def test_a_store_becomes_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setattr(harvest, "open_transcripts", support.ListStore)
    support.write_chats(tmp_path / "chats.json", support.chats(210))
    model = support.make_model(tmp_path / "model")
    harvested = harvest.run(support.config(tmp_path, model, tokens="all"))
    store = open_activations(harvested.activations["resid.1"].path)
    config = TrainConfig(source=store.artifact.path, out=tmp_path / "sae", unit=unit, n_samples=5_000)  # type: ignore[arg-type]
    result = run(config)
    sae = result.load()
    assert sae.config.site == "resid.1"
    assert sae.config.roles == ("user", "assistant")
    assert sae.config.token_set == "content"
    assert sae.config.span_policy == "full_render"
    assert sae.config.subject == "model"
    assert sae.config.unit == unit
    assert len(sae.config.subject_fingerprint) == len(sae.config.input_fingerprint) == 64
    assert len(sae.encode(store.mean_ND())) == len(store)
    assert str(tmp_path) not in (result.path / "manifest.json").read_text() + (result.path / "sae.json").read_text()


def test_token_training_needs_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest, "open_transcripts", support.ListStore)
    support.write_chats(tmp_path / "chats.json", support.chats(6))
    harvested = harvest.run(support.config(tmp_path, support.make_model(tmp_path / "model")))
    with pytest.raises(DataError, match="no tokens"):
        run(TrainConfig(source=harvested.activations["resid.1"].path, out=tmp_path / "sae", unit="token"))
