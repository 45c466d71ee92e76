"""A tiny world with known truth: labelled chats, a random Llama's activations of them, dictionaries made by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import harvest_support
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from turnscope.artifacts import Draft, begin
from turnscope.evaluation.labels import read_turns
from turnscope.harvest import harvest, open_activations
from turnscope.harvest.config import HarvestConfig
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation, Part, Turn
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.store import open_transcripts

SITE = "resid.1"
# before the random features: of several that are as good the first is chosen
PLANTED, PAIRED, FEATURES = 1, 0, 12
_WORDS = ("tea", "boat", "lamp", "fig", "green", "seven")


@dataclass(frozen=True)
class World:
    """Where everything lies. `saes` by name: turn, token, embed."""

    folder: Path
    model: Path
    transcripts: Path
    activations: dict[str, Path]
    saes: dict[str, Path]


def conversations(general: int, pairs: int) -> Iterator[Conversation]:
    """Chats of four turns whose `mood` shows as one of two words and whose `coin` shows in nothing; then pairs."""
    rng = random.Random(0)

    def text(*said: str) -> str:
        return " ".join([*rng.choices(_WORDS, k=3), *said])

    for i in range(general):
        turns: list[Turn] = []
        for t in range(4):
            sunny = rng.random() < 0.5
            labels = {"mood": "sunny" if sunny else "grey", "coin": rng.random() < 0.5, "rare": i == 0 or None}
            turns.append(_turn(t, text("zzz" if sunny else "qqq"), labels))
        yield Conversation(f"chat-{i}", tuple(turns))
    for i in range(pairs):
        opening = text()
        for verdict in ("right", "wrong"):
            answer = "8" * 6 if verdict == "wrong" else "1" * 6
            turns = [_turn(0, opening, {}), _turn(1, answer, {"verdict": verdict})]
            yield Conversation(f"pair-{i}-{verdict}", tuple(turns), group=f"pair-{i}", labels={"pair": f"pair-{i}"})


def _turn(index: int, text: str, labels: dict[str, Any]) -> Turn:
    return Turn(index, ("user", "assistant")[index % 2], (Part("text", text),), labels)


def make_world(folder: Path, general: int = 150, pairs: int = 120) -> World:
    """Import, harvest and plant: feature PLANTED reads the mood, PAIRED the verdict, the others nothing."""
    transcripts = folder / "transcripts"
    import_conversations(conversations(general, pairs), transcripts, ImportConfig(out=transcripts))
    model = harvest_support.make_model(folder / "model")
    harvested = harvest.run(
        HarvestConfig(transcripts=transcripts, model=str(model), sites=("embed", SITE), out=folder / "acts", tokens=9)
    )
    activations = {site: artifact.path for site, artifact in harvested.activations.items()}
    store = open_activations(activations[SITE])
    turns = read_turns(open_transcripts(transcripts), store)
    columns = {
        PLANTED: direction(store.mean_ND(), [labels.get("mood") for labels in turns.labels], "sunny"),
        PAIRED: direction(store.mean_ND(), [labels.get("verdict") for labels in turns.labels], "wrong"),
    }
    saes = {
        "turn": make_sae(folder / "sae", store.d_model, columns=columns),
        "token": make_sae(folder / "sae_token", store.d_model, unit="token"),
        "embed": make_sae(folder / "sae_embed", store.d_model, site="embed"),
    }
    return World(folder, model, transcripts, activations, saes)


def direction(x_ND: np.ndarray, values: list[Any], wanted: str) -> tuple[np.ndarray, float]:
    """The direction and offset in which rows with the wanted label lie above zero and others below."""
    rows = [i for i, value in enumerate(values) if value is not None]
    probe = LogisticRegression(C=100.0, max_iter=2000).fit(x_ND[rows], [values[i] == wanted for i in rows])
    return probe.coef_[0], float(probe.intercept_[0])


def make_sae(
    out: Path, d_model: int, *, unit: Literal["turn", "token"] = "turn", site: str = SITE,
    columns: dict[int, tuple[np.ndarray, float]] | None = None,
) -> Path:  # fmt: skip
    """A finished dictionary with random features and the given encoder columns (weights, bias)."""
    config = SAEConfig(d_model=d_model, n_features=FEATURES, k=4, unit=unit, site=site)
    sae = SparseAutoencoder(config)
    generator = torch.Generator().manual_seed(1)
    sae.w_enc_DF.data = torch.randn(d_model, FEATURES, generator=generator)
    sae.w_dec_FD.data = torch.nn.functional.normalize(torch.randn(FEATURES, d_model, generator=generator), dim=1)
    for feature, (weights_D, bias) in (columns or {}).items():
        sae.w_enc_DF.data[:, feature] = torch.from_numpy(weights_D).float()
        sae.b_enc_F.data[feature] = bias
    draft = begin(out, "sae", config, {})
    assert isinstance(draft, Draft)
    sae.save(draft.path)
    draft.commit({"samples": 0})
    return out
