"""Turns read again: scrambled tokens, and neurons, held against what the model's own modules say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from index_support import save_sae

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.features.again import Rereader
from turnscope.features.config import IndexConfig
from turnscope.features.encode import Dictionary
from turnscope.features.index import run
from turnscope.features.neurons import neuron_table, strongest_correlation
from turnscope.features.scramble import pick_rows
from turnscope.features.store import open_index
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.harvest import run as harvest
from turnscope.harvest.store import open_activations
from turnscope.models.load import load_subject
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation, Part, Turn
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.spans import TurnRenderer, token_rows
from turnscope.transcripts.store import open_transcripts

MODEL = str(Path(__file__).parents[2] / "src" / "turnscope" / "demo" / "model")
SITES = ("embed", "resid.1")
WORDS = ("please", "tell", "me", "a", "joke", "about", "the", "weather", "and", "then", "stop", "I", "like", "tea")


def said(number: int) -> Conversation:
    rng = np.random.default_rng(number)
    turns = tuple(
        Turn(index=i, role=role, parts=(Part("text", " ".join(rng.permutation(WORDS)[: rng.integers(6, 13)])),))
        for i, role in enumerate(("user", "assistant", "user", "assistant"))
    )
    return Conversation(f"c{number}", turns, source="test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    out = folder / "transcripts"
    import_conversations(
        map(said, range(16)), out, ImportConfig(out=out, near_duplicates=None), inputs={"test": "said"}
    )
    harvest(HarvestConfig(transcripts=out, model=MODEL, sites=SITES, out=folder / "activations", tokens="all"))
    for site in SITES:
        store = open_activations(folder / "activations" / site)
        for unit in ("turn", "token"):
            save_sae(folder / "saes" / f"{unit}-{site}", dictionary(store, site, unit))
    return folder


def dictionary(store: Any, site: str, unit: str) -> SparseAutoencoder:
    """Thirty-two random directions, of which the strongest four fire."""
    torch.manual_seed(1)
    manifest = store.artifact.manifest
    config = SAEConfig(
        d_model=store.d_model, n_features=32, k=4, architecture="topk", unit=unit, site=site,
        subject_fingerprint=manifest.inputs["model"], token_set="content", span_policy="full_render",
        roles=("user", "assistant"),
    )  # fmt: skip
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.w_dec_FD.copy_(torch.nn.functional.normalize(torch.randn(32, store.d_model), dim=1))
        sae.w_enc_DF.copy_(sae.w_dec_FD.T)
        sae.b_dec_D.copy_(torch.from_numpy(store.mean_ND(np.arange(len(store))).mean(0)))
    return sae


def index(world: Path, out: Path, site: str, unit: str = "turn", **more: Any) -> Any:
    config = IndexConfig(
        activations=world / "activations" / site, sae=world / "saes" / f"{unit}-{site}", out=out,
        transcripts=world / "transcripts", splits=("train", "explain", "eval", "locked"), model=MODEL, logits=False,
        **more,
    )  # fmt: skip
    return run(config).open()


@pytest.mark.parametrize("unit", ["turn", "token"])
def test_order_means_nothing_to_embeddings_and_something_above_them(world: Path, tmp_path: Path, unit: str) -> None:
    tables = [index(world, tmp_path / site, site, unit, scramble_turns=50).scramble() for site in SITES]
    tables = [found.select(["turns", "kept", "value_kept", "gained"]).to_pydict() for found in tables]
    plain, above = ([row for row in zip(*t.values(), strict=True) if row[0]] for t in tables)
    assert len(plain) > 8
    for _, kept, value, gained in plain:  # a mean of embeddings, and the set of them, know no order
        assert kept == pytest.approx(1)
        assert value == pytest.approx(1, abs=1e-3)
        assert not gained
    assert min(kept for _, kept, _, _ in above) < 0.9
    assert max(gained or 0 for *_, gained in above) > 0


def test_a_turn_read_alone_is_the_one_that_was_stored(world: Path) -> None:
    rereader = Rereader(open_activations(world / "activations/resid.1"), open_transcripts(world / "transcripts"), MODEL)
    store = rereader.store
    turns = store.table(["conversation_id", "turn"])
    for reading in rereader.readings(turns, np.arange(len(store))):
        mean_PD, _ = rereader.encode(reading, Dictionary(world / "saes/turn-resid.1"), 0.0)
        np.testing.assert_allclose(mean_PD, store.mean_ND(reading.rows), rtol=1e-4, atol=1e-4)
        with pytest.raises(IntegrityError, match="read again"):
            rereader.require_same(mean_PD + 1.0, reading.rows)


class OneNeuron:
    """An index whose feature 0 is a neuron, taken from the model by name, and feature 1 fires hardly ever."""

    n_features = 3

    def __init__(self, values_N: np.ndarray[Any, Any]) -> None:
        self.n_turns, self.values_N = len(values_N), values_N.astype(np.float32)

    def turn_codes(self, rows: Any) -> Any:
        n = len(rows)
        features, values = np.zeros(n, np.int64), self.values_N[rows]
        return np.arange(n + 1), features, values

    def feature_turns(self, feature: int) -> Any:
        return np.arange(self.n_turns if not feature else 0), self.values_N


@pytest.mark.parametrize("by_max", [False, True])
def test_the_neuron_that_a_feature_is_gets_found(world: Path, tmp_path: Path, by_max: bool) -> None:
    store, transcripts = open_activations(world / "activations/resid.1"), open_transcripts(world / "transcripts")
    subject = load_subject(MODEL)
    seen: list[torch.Tensor] = []
    model: Any = subject.model
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _m, a: seen.append(a[0][0].clone()))
    truth: dict[tuple[str, int], float] = {}
    renderer = TurnRenderer(subject.tokenizer)
    with torch.inference_mode():
        for conversation, rendered in zip(transcripts, renderer.render_many(list(transcripts)), strict=True):
            model(input_ids=torch.tensor([rendered.token_ids]))
            for span in rendered.turns:
                values = seen[-1][list(token_rows(span, "content")), 7]
                truth[conversation.id, span.index] = float(values.max() if by_max else values.mean())
    handle.remove()
    turns = store.table(["conversation_id", "turn"])
    turns = turns.append_column("activation_row", [np.arange(len(store))])
    keys = zip(turns["conversation_id"].to_pylist(), turns["turn"].to_pylist(), strict=True)
    codes = OneNeuron(-np.array([truth[key] for key in keys]))
    rereader = Rereader(store, transcripts, MODEL)
    table = neuron_table(rereader, codes, turns, np.arange(0, len(store), 2), by_max=by_max, scratch=tmp_path)
    row, *others = table.to_pylist()
    assert (row["block"], row["neuron"]) == (1, 7)
    assert row["r"] == pytest.approx(-1, abs=1e-3)
    assert abs(row["r_residual"]) < 1
    assert all(other["r"] is None and other["neuron"] is None for other in others)
    assert not list(tmp_path.iterdir())


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    codes, others = rng.random((50, 4)).astype(np.float32), rng.random((50, 9)).astype(np.float32)
    others[:, 3] = 5  # does not vary
    expected = np.corrcoef(codes.T, np.delete(others, 3, axis=1).T)[:4, 4:]
    r, which = strongest_correlation(codes, others)
    np.testing.assert_allclose(np.abs(r), np.abs(expected).max(1), rtol=1e-4)
    assert 3 not in which


def test_an_index_with_both_opens_and_resumes(world: Path, tmp_path: Path) -> None:
    first = index(world, tmp_path / "a", "resid.1", scramble_turns=20, neuron_turns=40)
    assert len(first.scramble()) == len(first.neurons()) == 32
    assert {"scramble.parquet", "neurons.parquet"} <= set(first.artifact.manifest.files)
    again = index(world, tmp_path / "b", "resid.1", scramble_turns=20, neuron_turns=40)
    assert again.artifact.manifest.files == first.artifact.manifest.files
    none = index(world, tmp_path / "c", "resid.1")
    with pytest.raises(ConfigError, match="--scramble-turns"):
        none.scramble()


def test_the_model_must_be_named_and_be_the_one_harvested(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model"):
        run(
            IndexConfig(
                activations=world / "activations/resid.1",
                sae=world / "saes/turn-resid.1",
                transcripts=world / "transcripts",
                out=tmp_path / "x",
                scramble_turns=5,
            )
        )
    embed = open_activations(world / "activations/embed")
    rereader, turns = Rereader(embed, open_transcripts(world / "transcripts"), MODEL), embed.table(["turn"])
    with pytest.raises(ConfigError, match="no neurons come before"):
        neuron_table(rereader, OneNeuron(np.ones(4)), turns, np.arange(4), by_max=False, scratch=tmp_path)


def test_rare_features_get_their_turns_first(world: Path, tmp_path: Path) -> None:
    found = index(world, tmp_path / "i", "resid.1")
    usable = np.ones(found.n_turns, np.bool_)
    usable[::3] = False
    rows = pick_rows(found, usable, 25, 0)
    assert len(rows) == 25
    assert usable[rows].all()
    alive = [f for f in range(32) if usable[found.feature_turns(f)[0]].any()]
    covered = [f for f in alive if np.isin(found.feature_turns(f)[0], rows).any()]
    by_rarity = sorted(alive, key=lambda f: int(usable[found.feature_turns(f)[0]].sum()))
    assert set(by_rarity[: len(alive) // 2]) <= set(covered)
    assert pq.read_table(found.artifact.path / "turns.parquet").num_rows == found.n_turns
    assert open_index(found.artifact.path).n_turns == found.n_turns
