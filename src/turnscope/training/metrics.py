"""Figures of a dictionary on rows that it was not trained on.

Both normalisations of the squared error are given, since published figures mix them (METHODS 1.2):
raw nMSE = sum ||x - x_hat||^2 / sum ||x||^2 ; centred nMSE = sum ||x - x_hat||^2 / sum ||x - mean||^2 = 1 - FVE,
with the mean of the evaluated rows themselves.

Legend: N rows, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.sae import SparseAutoencoder

_BLOCK = 4096


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
        quantiles = torch.quantile(self.density_F, torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)).tolist()
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
    if not spread > 0:
        raise DataError("the rows to evaluate on are all equal", where=f"{x_ND.shape[0]} rows")
    n_rows = x_ND.shape[0]
    return HeldMetrics(
        n_rows=n_rows,
        nmse_raw=error / power,
        nmse_centred=error / spread,
        l0=int(counts_F.sum()) / n_rows,
        silent=int((counts_F == 0).sum()),
        density_F=counts_F.double() / n_rows,
    )
