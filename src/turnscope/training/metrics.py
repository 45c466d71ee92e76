"""Figures of a dictionary on rows that it was not trained on.

Both normalisations of the squared error are given, since published figures mix them (METHODS 1.2):
raw nMSE = sum ||x - x_hat||^2 / sum ||x||^2 ; centred nMSE = sum ||x - x_hat||^2 / sum ||x - mean||^2 = 1 - FVE,
with the mean of the evaluated rows themselves.

Legend: N rows, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.harvest.turn_tokens import TurnTokens
from turnscope.sae import SparseAutoencoder
from turnscope.sae.nested import NestedSAE

_BLOCK = 4096
_BLOCK_TURNS = 128


@dataclass(frozen=True, slots=True)
class HeldMetrics:
    """Measured on `n_rows` rows. `silent` counts features that fire on none of them."""

    n_rows: int
    nmse_raw: float
    nmse_centred: float
    l0: float
    silent: int
    density_F: Tensor
    """Share of rows on which each feature fires, float64 (F,)."""

    def summary(self) -> dict[str, float | int]:
        """The plain numbers, with the quantiles of density, for a line of metrics.jsonl."""
        quantiles = np.quantile(self.density_F.numpy(), [0.1, 0.5, 0.9, 1.0]).tolist()  # torch's takes 16M at most
        return {
            "held_rows": self.n_rows,
            "held_nmse_raw": self.nmse_raw,
            "held_nmse_centred": self.nmse_centred,
            "held_l0": self.l0,
            "held_silent": self.silent,
            **{f"density_{name}": value for name, value in zip(("p10", "p50", "p90", "max"), quantiles, strict=True)},
        }


def evaluate(sae: SparseAutoencoder, x_ND: Tensor) -> HeldMetrics:
    """Metrics on raw activations. Sums in float64, so they do not depend on the number of rows.

    Raises DataError when the rows are all equal: a share of no variance is not a number.
    """
    mean_D = x_ND.double().mean(0)
    error = power = spread = 0.0
    counts_F = torch.zeros(sae.config.n_features, dtype=torch.int64)
    for block_ND in x_ND.split(_BLOCK):
        codes = sae.encode(block_ND)
        raw_ND = block_ND.double()
        error += float((raw_ND - sae.decode(codes).double()).square().sum())
        power += float(raw_ND.square().sum())
        spread += float((raw_ND - mean_D).square().sum())
        counts_F += codes.counts_F()
    return held_metrics(x_ND.shape[0], error, power, spread, counts_F)


def held_metrics(n_rows: int, error: float, power: float, spread: float, counts_F: Tensor) -> HeldMetrics:
    """Figures from the sums over all rows. DataError when the rows are all equal."""
    if not spread > 0:
        raise DataError("the rows to evaluate on are all equal", where=f"{n_rows} rows")
    return HeldMetrics(
        n_rows=n_rows,
        nmse_raw=error / power,
        nmse_centred=error / spread,
        l0=int(counts_F.sum()) / n_rows,
        silent=int((counts_F == 0).sum()),
        density_F=counts_F.double() / n_rows,
    )


def evaluate_nested(sae: NestedSAE, held: TurnTokens) -> dict[str, float | int]:
    """Figures of both targets: turn means under the names of a turn dictionary, tokens with `token_` in theirs.

    Every token counts once. Raises DataError when the means or the tokens are all equal.
    """
    turns = evaluate(sae.turn, torch.from_numpy(held.mean_BD)).summary()
    mean_D = torch.from_numpy(held.tokens_TD.mean(0, dtype=np.float64))  # numpy adds without a copy in that precision
    error = power = spread = 0.0
    entries, fired_F = 0, torch.zeros(sae.token.config.n_features, dtype=torch.int64)
    for start in range(0, len(held), _BLOCK_TURNS):
        part = held[start : start + _BLOCK_TURNS]
        codes = sae.encode(part.tokens_TD, part.lengths_B, part.mean_BD)
        raw_TD = torch.from_numpy(part.tokens_TD).double()
        error += float((raw_TD - sae.decode_tokens(codes).double()).square().sum())
        power += float(raw_TD.square().sum())
        spread += float((raw_TD - mean_D).square().sum())
        entries += codes.token.n_entries
        fired_F += codes.token.counts_F()
    if not spread > 0:
        raise DataError("the tokens to evaluate on are all equal", where=f"{len(held.tokens_TD)} tokens")
    return {
        **turns,
        "held_token_nmse_raw": error / power,
        "held_token_nmse_centred": error / spread,
        "held_token_l0": entries / len(held.tokens_TD),
        "held_token_silent": int((fired_F == 0).sum()),
    }
