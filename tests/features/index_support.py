"""Small worlds whose codes are known: the dictionary's encoder is the identity, so activations are codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from turnscope.artifacts import Draft, begin, write_bytes
from turnscope.features.config import IndexConfig
from turnscope.features.index import run
from turnscope.features.store import FeatureIndex
from turnscope.harvest import ActivationsConfig
from turnscope.harvest._safetensors import pack
from turnscope.harvest.norms import turn_facts
from turnscope.harvest.pieces import write_piece
from turnscope.harvest.shards import shard_name, turns_name
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.nested import NestedSAE
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation, Part, Turn
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.store import open_transcripts

F = 16
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Chat:
    """One planted turn: where it stands, what it says, its codes and those of its tokens (with ids)."""

    conversation: str
    turn: int
    text: str
    codes_F: NDArray[np.float32]
    tokens_TF: NDArray[np.float32]
    ids_T: NDArray[np.int32]
    labels: dict[str, Any]


def sparse(rng: np.random.Generator, n: int, density: float, width: int = F) -> NDArray[np.float32]:
    """Random codes; the last feature never fires, the first always does."""
    codes = rng.gamma(2.0, 1.0, (n, width)).astype(np.float32) * (rng.random((n, width)) < density)
    codes[:, -1] = 0
    codes[:, 0] = 1 + rng.random(n)
    return codes.astype(np.float32)


def planted(conversations: int = 60, seed: int = 0, width: int = F) -> list[Chat]:
    """Chats of two to six turns with words and codes at random."""
    rng = np.random.default_rng(seed)
    words = np.array(["tea", "boat", "lamp", "fig", "green", "seven", "мир", "дом"])
    chats: list[Chat] = []
    for c in range(conversations):
        for t in range(int(rng.integers(2, 7))):
            n = int(rng.integers(1, 6))
            said = rng.choice(words[6:] if c % 5 == 0 else words[:6], n)
            chats.append(
                Chat(
                    f"chat-{c}", t, " ".join([*said.tolist(), f"n{c}.{t}"]), sparse(rng, 1, 0.3, width)[0],
                    sparse(rng, n, 0.2, width), rng.integers(0, 50, n).astype(np.int32), {"mood": str(rng.integers(2))},
                )
            )  # fmt: skip
    return chats


def make_transcripts(out: Path, chats: list[Chat]) -> Path:
    """Import the chats."""
    by: dict[str, list[Turn]] = {}
    for chat in chats:
        turn = Turn(chat.turn, ROLES[chat.turn % 2], (Part("text", chat.text),), chat.labels)
        by.setdefault(chat.conversation, []).append(turn)
    import_conversations((Conversation(k, tuple(v)) for k, v in by.items()), out, ImportConfig(out=out))
    return out


def make_activations(
    out: Path, transcripts: Path, chats: list[Chat], *, tokens: bool = False, shard_turns: int = 50,
    first_position: int = 4,
) -> Path:  # fmt: skip
    """A finished store of the chats in the order given; the means are the codes, the tokens their codes."""
    store = open_transcripts(transcripts)
    of = {c.id: c for c in store}
    config = ActivationsConfig(model="planted", site="resid.0", template="plain", tokens="all" if tokens else "none")
    draft = begin(out, "activations", config, {"model": "planted", "transcripts": store.fingerprint})
    assert isinstance(draft, Draft)
    shards = [chats[i : i + shard_turns] for i in range(0, len(chats), shard_turns)]
    for index, shard in enumerate(shards):
        means = np.stack([chat.codes_F for chat in shard])
        tensors = {"mean_ND": torch.from_numpy(means)}
        if tokens:
            sizes = [len(chat.ids_T) for chat in shard]
            tensors |= {
                "tokens_TD": torch.from_numpy(np.concatenate([chat.tokens_TF for chat in shard])),
                "token_offsets": torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
                "token_ids_T": torch.from_numpy(np.concatenate([chat.ids_T for chat in shard])),
                "token_positions_T": torch.cat([torch.arange(n, dtype=torch.int32) + first_position for n in sizes]),
            }
        write_bytes(draft.path / shard_name(index), pack(tensors))
        norms = np.linalg.norm(means, axis=1).astype(np.float32)
        lengths = np.array([max(1, len(chat.ids_T)) for chat in shard])
        columns = {
            "conversation_id": [chat.conversation for chat in shard], "turn": [chat.turn for chat in shard],
            "role": [ROLES[chat.turn % 2] for chat in shard], "split": [of[c.conversation].split for c in shard],
            "group": [of[c.conversation].group for c in shard], "n_tokens": lengths,
            "status": ["exact"] * len(shard), "norm": norms,
        }  # fmt: skip
        facts = {
            "norms": {**turn_facts(norms, lengths, np.ones(len(shard), np.bool_)), "tokens": None},
            "counts": {}, "conversations": "",
        }  # fmt: skip
        write_piece(draft.path / turns_name(index), columns, facts)
    draft.commit({"turns.kept": len(chats)})
    return out


def identity(width: int = F, unit: Literal["turn", "token"] = "turn", decoder_FD: Any = None) -> SparseAutoencoder:
    """A dictionary whose codes are its inputs."""
    sae = SparseAutoencoder(SAEConfig(d_model=width, n_features=width, k=4, unit=unit, site="resid.0"))
    sae.w_enc_DF.data = torch.eye(width)
    sae.w_dec_FD.data = torch.eye(width) if decoder_FD is None else torch.from_numpy(decoder_FD).float()
    return sae


def save_sae(out: Path, sae: SparseAutoencoder | NestedSAE) -> Path:
    """As a finished artifact."""
    config = (sae.turn if isinstance(sae, NestedSAE) else sae).config
    draft = begin(out, "sae", config, {})
    assert isinstance(draft, Draft)
    sae.save(draft.path)
    draft.commit({"samples": 0})
    return out


@dataclass(frozen=True)
class World:
    """Everything of one index; `chats` are the indexed turns, row by row."""

    folder: Path
    transcripts: Path
    activations: Path
    sae: Path
    index: FeatureIndex
    chats: list[Chat]

    def config(self, out: str, **changes: Any) -> IndexConfig:
        """Settings of another index of the same things."""
        return IndexConfig(
            activations=self.activations, sae=self.sae, transcripts=self.transcripts,
            out=self.folder / "features" / out,
            **{"block_turns": 16, "memory_entries": 1000, "cofiring_turns": 100_000, **changes},
        )  # fmt: skip

    @property
    def codes_NF(self) -> NDArray[np.float32]:
        """Planted codes of turn means."""
        return np.stack([chat.codes_F for chat in self.chats])

    @property
    def pooled_NF(self) -> NDArray[np.float32]:
        """The largest planted code of each turn's tokens."""
        return np.stack([chat.tokens_TF.max(0) for chat in self.chats])


def make_world(
    folder: Path, chats: list[Chat], sae: SparseAutoencoder | NestedSAE | None = None, *, tokens: bool = False,
    order: NDArray[np.int64] | None = None, **changes: Any,
) -> World:  # fmt: skip
    """Import, store, index. `order` shuffles the rows of the store."""
    transcripts = make_transcripts(folder / "transcripts", chats)
    stored = chats if order is None else [chats[i] for i in order]
    activations = make_activations(folder / "activations", transcripts, stored, tokens=tokens)
    dictionary = save_sae(folder / "sae", sae or identity(len(chats[0].codes_F)))
    world = World(folder, transcripts, activations, dictionary, None, stored)  # type: ignore[arg-type]
    index = run(world.config("index", **changes)).open()
    kept = index.turns["activation_row"].to_pylist()
    return World(folder, transcripts, activations, dictionary, index, [stored[i] for i in kept])
