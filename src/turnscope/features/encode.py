"""The dictionary of an index, flat or nested, and the codes of one block of turns. The only part that needs torch.

A nested dictionary's features are numbered through: the turn block first, the token block after it.

Legend: N turns of a block, T tokens of them, D width, E entries, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import Artifact, IntegrityError
from turnscope.harvest.store import ActivationStore
from turnscope.sae import SAEConfig, SparseAutoencoder, SparseCodes
from turnscope.sae.nested import NestedSAE, is_nested

Ints = NDArray[np.int64]
Pool = Literal["max", "mean", "sum"]


class Csr(NamedTuple):
    """Entries row after row: how many each row has, their features (ascending in a row) and values."""

    counts: Ints
    features_E: NDArray[np.int32]
    values_E: NDArray[np.float32]


class Block(NamedTuple):
    """Codes of some turns. `tokens` is None for a turn dictionary; else there is a row of it for each stored token."""

    turns: Csr
    tokens: Csr | None
    n_sinks: int


class Dictionary:
    """A finished dictionary of any unit."""

    def __init__(self, folder: Path) -> None:
        self.artifact = Artifact.open(folder, "sae")
        self.nested: NestedSAE | None = None
        if is_nested(folder):
            self.nested = NestedSAE.load(folder)
            self.blocks: dict[Literal["turn", "token"], SparseAutoencoder] = {
                "turn": self.nested.turn,
                "token": self.nested.token,
            }
        else:
            flat = SparseAutoencoder.load(folder)
            self.blocks = {flat.config.unit: flat}
        self.unit: Literal["turn", "token"] = "token" if "token" in self.blocks else "turn"
        self.n_turn_features = self.blocks["turn"].config.n_features if "turn" in self.blocks else 0
        self.n_features = sum(block.config.n_features for block in self.blocks.values())

    @property
    def config(self) -> SAEConfig:
        """Of its first block; what it says of the activations holds for all."""
        return next(iter(self.blocks.values())).config

    def require_same_reading(self, store: ActivationStore) -> None:
        """IntegrityError for activations that were read elsewhere or otherwise than those of its training."""
        manifest, sae = store.artifact.manifest, self.config
        read = {**manifest.config, "model": manifest.inputs.get("model", "")}
        for name, wanted in (
            ("site", sae.site), ("token_set", sae.token_set), ("span_policy", sae.span_policy),
            ("roles", list(sae.roles)), ("model", sae.subject_fingerprint),
        ):  # fmt: skip
            if wanted and wanted != read.get(name):
                raise IntegrityError(
                    f"the dictionary was trained on other activations: {name} {wanted}, these have {read.get(name)}",
                    where=str(store.artifact.path),
                    fix="name the activations that the dictionary was trained on, or ones harvested alike",
                )

    def decoder_FD(self) -> NDArray[np.float32]:
        """Directions of all features, of unit length (zero stays zero)."""
        stacked = torch.cat([block.w_dec_FD.detach() for block in self.blocks.values()])
        return torch.nn.functional.normalize(stacked, dim=1).numpy()

    def encode(
        self, mean_ND: NDArray[np.float32], tokens_TD: NDArray[np.float32] | None, lengths_N: Ints, keep_T: Any,
        pool: Pool = "max",
    ) -> Block:  # fmt: skip
        """Codes of some turns from their means and stored tokens; tokens that are not kept get none."""
        turns = _csr(self.blocks["turn"].encode(mean_ND)) if "turn" in self.blocks else None
        if self.unit == "turn":
            return Block(cast(Csr, turns), None, 0)
        assert tokens_TD is not None
        tokens = torch.from_numpy(tokens_TD)
        if self.nested is not None:
            tokens = self.nested.read_by_tokens(tokens, lengths_N, mean_ND)
        codes = self._of_tokens(tokens, keep_T)
        kept_N = np.bincount(np.repeat(np.arange(len(lengths_N)), lengths_N), keep_T, len(lengths_N))
        pooled = pool_tokens(codes, lengths_N, kept_N, self.n_features, pool)
        return Block(pooled if turns is None else beside(turns, pooled), codes, int((~keep_T).sum()))

    def _of_tokens(self, tokens_TD: Tensor, keep_T: NDArray[np.bool_]) -> Csr:
        kept = _csr(self.blocks["token"].encode(tokens_TD[torch.from_numpy(keep_T)]))
        counts = np.zeros(len(keep_T), np.int64)
        counts[keep_T] = kept.counts
        return Csr(counts, kept.features_E + np.int32(self.n_turn_features), kept.values_E)


def _csr(codes: SparseCodes) -> Csr:
    return Csr(codes.l0_N().numpy(), codes.indices_E.numpy(), codes.values_E.numpy())


def pool_tokens(tokens: Csr, lengths_N: Ints, kept_N: NDArray[Any], n_features: int, pool: Pool) -> Csr:
    """A turn's value of a feature: the largest one of its tokens, their sum, or their sum over the tokens kept."""
    turn_of_T = np.repeat(np.arange(len(lengths_N)), lengths_N)
    keys_E = np.repeat(turn_of_T, tokens.counts) * n_features + tokens.features_E
    order_E = np.argsort(keys_E, kind="stable")
    keys_E = keys_E[order_E]
    starts = np.flatnonzero(np.diff(keys_E, prepend=-1))
    meet = np.maximum if pool == "max" else np.add
    values = meet.reduceat(tokens.values_E[order_E], starts) if len(starts) else tokens.values_E[:0]
    turns, features = np.divmod(keys_E[starts], n_features)
    if pool == "mean":
        values = (values / kept_N[turns]).astype(np.float32)
    return Csr(np.bincount(turns, minlength=len(lengths_N)), features.astype(np.int32), values)


def beside(low: Csr, high: Csr) -> Csr:
    """Rows joined; the features of `high` come after those of `low`."""
    rows_E = np.concatenate([np.repeat(np.arange(len(part.counts)), part.counts) for part in (low, high)])
    order_E = np.argsort(rows_E, kind="stable")
    features_E = np.concatenate([low.features_E, high.features_E])[order_E]
    return Csr(low.counts + high.counts, features_E, np.concatenate([low.values_E, high.values_E])[order_E])
