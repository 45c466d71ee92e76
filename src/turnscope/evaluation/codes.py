"""A dictionary's activations as one vector a turn.

N rows (turns), T tokens, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from turnscope.artifacts import Artifact, ConfigError, IntegrityError
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.harvest.turn_tokens import TurnTokens
from turnscope.sae import SparseAutoencoder
from turnscope.sae.nested import NestedSAE, is_nested
from turnscope.training.metrics import evaluate, evaluate_nested
from turnscope.training.probe import doubt

Floats = NDArray[np.float32]
_TURNS_AT_ONCE = 512


class DictionaryReader:
    """A dictionary together with the activations it reads.

    Args:
        activations: a store of one site.
        sae: the dictionary.
        pool: how codes of tokens become one vector a turn.
        block: of a nested dictionary, the block that is read; the turn block when not given.
    """

    def __init__(
        self,
        activations: Path,
        sae: Path,
        pool: Literal["max", "mean", "sum"] = "max",
        block: Literal["turn", "token"] | None = None,
    ) -> None:
        self.store: ActivationStore = open_activations(activations)
        self.sae_artifact = Artifact.open(sae, "sae")
        self._nested = NestedSAE.load(sae) if is_nested(sae) else None
        if self._nested is None and block is not None:
            raise ConfigError(f"no {block} block: this dictionary is not nested", where=str(sae), fix="leave out block")
        if self._nested is None:
            self.sae = SparseAutoencoder.load(sae)
        else:
            self.sae = self._nested.token if block == "token" else self._nested.turn
        self.unit, self._pool = self.sae.config.unit, pool
        self._require_same_reading(activations)

    def _require_same_reading(self, activations: Path) -> None:
        """A dictionary says where and how its rows were read; activations read otherwise are refused."""
        manifest, sae = self.store.artifact.manifest, self.sae.config
        read = {**manifest.config, "model": manifest.inputs.get("model", "")}
        for name, wanted in (
            ("site", sae.site), ("token_set", sae.token_set), ("span_policy", sae.span_policy),
            ("roles", list(sae.roles)), ("model", sae.subject_fingerprint),
        ):  # fmt: skip
            if wanted and wanted != read[name]:
                raise IntegrityError(
                    f"the dictionary was trained on other activations: {name} {wanted}, these have {read[name]}",
                    where=str(activations),
                    fix="name the activations that the dictionary was trained on, or ones harvested alike",
                )

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of both."""
        return {"activations": self.store.fingerprint, "sae": self.sae_artifact.fingerprint}

    def codes_NF(self, rows_N: NDArray[np.int64]) -> Floats:
        """Dense activations of these turns: of their means, or of their tokens pooled over the turn."""
        parts = [self._block(rows_N[at : at + _TURNS_AT_ONCE]) for at in range(0, len(rows_N), _TURNS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.sae.config.n_features), np.float32)

    def _block(self, rows_N: NDArray[np.int64]) -> Floats:
        if self.unit == "turn":
            return self.sae.encode(self.store.mean_ND(rows_N)).to_dense().numpy()
        offsets = self.store.token_offsets
        sizes = offsets[rows_N + 1] - offsets[rows_N]
        read_TD = torch.from_numpy(self.store.tokens_TD(self._token_rows(rows_N)))
        if self._nested is not None:
            read_TD = self._nested.read_by_tokens(read_TD, sizes, self.store.mean_ND(rows_N))
        codes = self.sae.encode(read_TD)
        turn_of_T = torch.from_numpy(np.repeat(np.arange(len(rows_N)), sizes))
        n_features = self.sae.config.n_features
        where_E = turn_of_T[codes.rows_E()] * n_features + codes.indices_E
        dense = torch.zeros(len(rows_N) * n_features)
        if self._pool == "max":
            dense.scatter_reduce_(0, where_E, codes.values_E, "amax")
        else:
            dense.index_add_(0, where_E, codes.values_E)
        dense = dense.view(len(rows_N), n_features)
        if self._pool == "mean":
            dense = dense / torch.from_numpy(np.maximum(sizes, 1)).float()[:, None]
        return dense.numpy()

    def _token_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored token rows of these turns, turn after turn."""
        offsets = self.store.token_offsets
        ends = zip(offsets[rows_N].tolist(), offsets[rows_N + 1].tolist(), strict=True)
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(a, b, dtype=np.int64) for a, b in ends)])

    def sample(self, rows_N: NDArray[np.int64], most: int, seed: int) -> torch.Tensor:
        """At most so many raw rows of the dictionary's own unit out of these turns, at random."""
        if self.unit == "token":
            rows_N = self._token_rows(rows_N)
        if len(rows_N) > most:
            rows_N = np.sort(np.random.default_rng(seed).choice(rows_N, most, replace=False))
        read = self.store.mean_ND if self.unit == "turn" else self.store.tokens_TD
        return torch.from_numpy(read(rows_N))

    def fit(self, rows_N: NDArray[np.int64], most: int, seed: int) -> dict[str, Any]:
        """How well the dictionary rebuilds these turns, on at most so many rows of its own unit.

        The token block of a nested dictionary rebuilds tokens together with the turn block.
        """
        about = {"features": self.sae.config.n_features, "k": self.sae.config.k, "unit": self.unit}
        if self._nested is not None and self.unit == "token":
            return about | self._fit_of_tokens(self._nested, rows_N, most, seed)
        x_ND = self.sample(rows_N, most, seed)
        held, said = evaluate(self.sae, x_ND), doubt(self.sae, x_ND)
        return {
            "nmse_raw": held.nmse_raw, "nmse_centred": held.nmse_centred, "l0": held.l0, "dead": held.silent,
            **about, "rows": held.n_rows, **({"doubt": said} if said else {}),
        }  # fmt: skip

    def _fit_of_tokens(self, nested: NestedSAE, rows_N: NDArray[np.int64], most: int, seed: int) -> dict[str, Any]:
        """Of whole turns, drawn at random until the next one would exceed `most` tokens."""
        offsets = self.store.token_offsets
        drawn = np.random.default_rng(seed).permutation(rows_N)
        drawn = drawn[offsets[drawn + 1] > offsets[drawn]]
        fits = np.cumsum(offsets[drawn + 1] - offsets[drawn]) <= most
        rows_N = np.sort(drawn[fits] if fits.any() else drawn[:1])
        sizes = offsets[rows_N + 1] - offsets[rows_N]
        tokens_TD = self.store.tokens_TD(self._token_rows(rows_N))
        held = evaluate_nested(nested, TurnTokens(self.store.mean_ND(rows_N), tokens_TD, sizes))
        return {
            "nmse_raw": held["held_token_nmse_raw"], "nmse_centred": held["held_token_nmse_centred"],
            "l0": held["held_token_l0"], "dead": held["held_token_silent"], "rows": len(tokens_TD),
        }  # fmt: skip
