"""New conversations read as the index's own were: the codes are those of the index, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from turnscope.artifacts import ConfigError, DataError, Draft, IntegrityError, begin
from turnscope.features.config import IndexConfig
from turnscope.features.find import codes_of
from turnscope.features.fresh import FreshReader
from turnscope.features.index import run
from turnscope.features.store import FeatureIndex
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.harvest import run as harvest
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.store import open_transcripts

MODEL = Path(__file__).parents[2] / "src" / "turnscope" / "demo" / "model"
WORDS = ["What is a guitar good for?", "A guitar is for music.", "Give me some facts on the choir.", "No, I will not."]


def chat(i: int) -> Conversation:
    turns = [
        {"role": ("user", "assistant")[t % 2], "content": WORDS[(i + t) % 4] + " Yes." * (t % 3)} for t in range(4)
    ]
    return Conversation.from_messages(turns, id=f"chat-{i}")


def make(folder: Path, unit: str, **settings: Any) -> FeatureIndex:
    transcripts = folder / "transcripts"
    import_conversations([chat(i) for i in range(4)], transcripts, ImportConfig(out=transcripts, near_duplicates=None))
    tokens = "all" if unit == "token" else "none"
    activations = folder / "activations"
    harvest(
        HarvestConfig(transcripts=transcripts, model=str(MODEL), sites=("resid.1",), out=activations, tokens=tokens)
    )
    torch.manual_seed(0)
    width = harvest_width(activations / "resid.1")
    sae = SparseAutoencoder(SAEConfig(d_model=width, n_features=64, k=8, unit=unit, site="resid.1"))  # type: ignore[arg-type]
    sae.w_enc_DF.data = torch.randn(width, 64)
    draft = begin(folder / "saes" / unit, "sae", sae.config, {})
    assert isinstance(draft, Draft)
    sae.save(draft.path)
    draft.commit({"samples": 0})
    config = IndexConfig(
        activations=activations / "resid.1", sae=folder / "saes" / unit, transcripts=transcripts,
        out=folder / "features" / unit, splits=("train", "explain", "eval", "locked"),
        **settings,
    )  # fmt: skip
    return FeatureIndex(run(config).artifact, open_transcripts(transcripts))


def harvest_width(path: Path) -> int:
    from turnscope.harvest.store import open_activations

    return open_activations(path).d_model


@pytest.mark.parametrize(
    ("unit", "settings"),
    [("turn", {}), ("token", {}), ("token", {"pool": "mean"}), ("token", {"pool": "sum", "outlier_norm": 1.02})],
)
def test_codes_are_those_of_the_index(tmp_path: Path, unit: str, settings: dict[str, Any]) -> None:
    index = make(tmp_path, unit, **settings)
    with pytest.raises(ConfigError, match="nothing says"):
        FreshReader(index)
    (tmp_path / "run.toml").write_text(f"model = '{MODEL}'\n")
    reader = FreshReader(index)
    fresh = reader.read([chat(2), chat(0)])
    for i, (turn, number) in enumerate(zip(fresh.turns, fresh.conversation_N.tolist(), strict=True)):
        name = ("chat-2", "chat-0")[number]
        names, turns = index.turns["conversation_id"].to_pylist(), index.turns["turn"].to_pylist()
        known = codes_of(index, [list(zip(names, turns, strict=True)).index((name, turn.turn))])
        mine = slice(fresh.codes.ptr[i], fresh.codes.ptr[i + 1])
        assert np.array_equal(fresh.codes.features_E[mine], known.features_E)
        np.testing.assert_allclose(fresh.codes.values_E[mine], known.values_E, rtol=2e-3, atol=1e-3)

    assert len(fresh.turns) == 8
    assert len(fresh.codes.features_E)
    with pytest.raises(DataError, match="no turn can be read"):
        reader.read([Conversation.from_messages([{"role": "user", "content": "  "}])])


def test_others_are_refused(tmp_path: Path) -> None:
    index = make(tmp_path, "turn")
    with pytest.raises(IntegrityError, match="something else"):
        FreshReader(index, model="minilm")
    other = begin(tmp_path / "saes" / "other", "sae", SAEConfig(d_model=8, n_features=8, k=2), {})
    assert isinstance(other, Draft)
    SparseAutoencoder(SAEConfig(d_model=8, n_features=8, k=2)).save(other.path)
    other.commit({"samples": 0})
    with pytest.raises(IntegrityError, match="another sae"):
        FreshReader(index, sae=tmp_path / "saes" / "other", model=str(MODEL))
    (tmp_path / "saes" / "turn").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="not in"):
        FreshReader(index, model=str(MODEL))
