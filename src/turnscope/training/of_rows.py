"""A run on rows (turn means, or single tokens): its start, its figures, its end.

Legend: N rows, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.harvest.source import ActivationSource
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.training.config import ResolvedConfig
from turnscope.training.initial import Statistics, initial_weights, measure
from turnscope.training.metrics import evaluate
from turnscope.training.sources import Once, take
from turnscope.training.threshold import fit_threshold
from turnscope.training.trainer import Trainer

STATISTICS_ROWS = 131_072
WATCHED_ROWS = 2048


class OfRows:
    """What a run does with rows. `sae_config` is that of the finished dictionary."""

    def __init__(self, config: ResolvedConfig, sae_config: SAEConfig) -> None:
        self.config, self.sae_config = config, sae_config

    def held(self, source: ActivationSource) -> Tensor:
        """Rows kept from training, (N, D). DataError when they are not finite."""
        held_ND = take(source, self.config.held_rows)
        if not bool(torch.isfinite(held_ND).all()):
            raise DataError("the held-out activations hold NaN or infinite values", where=f"{held_ND.shape[0]} rows")
        return held_ND

    def saved(self, folder: Path, d_model: int) -> tuple[Trainer, dict[str, Any]] | None:
        """The trainer and the state of a checkpoint, or None where there is none."""
        return Trainer.saved(self.config, folder, d_model)

    def begin(self, source: ActivationSource) -> Trainer:
        """A trainer before its first step."""
        sample_ND, statistics, config = *sampled(source), self.config
        weights = initial_weights(sample_ND, statistics, config.n_features, config.init_data_share, config.seed)
        return Trainer.fresh(config, weights, statistics, sample_ND)

    def dictionary(self, trainer: Trainer) -> SparseAutoencoder:
        """The dictionary as it stands (a copy)."""
        return filled(self.sae_config, trainer.architecture.folded(trainer.weights), trainer.scale)

    def watch(self, trainer: Trainer, held_ND: Tensor) -> dict[str, Any]:
        """Held-out figures for a line of the log."""
        seen = evaluate(self.dictionary(trainer), held_ND[:WATCHED_ROWS])
        return {"held_nmse_raw": seen.nmse_raw, "held_nmse_centred": seen.nmse_centred, "held_l0": seen.l0}

    def finish(self, trainer: Trainer, held_ND: Tensor) -> tuple[SparseAutoencoder, dict[str, Any]]:
        """The finished dictionary: its threshold set on one half of the held rows, its figures from the other."""
        sae = self.dictionary(trainer)
        figures: dict[str, Any] = {"running_threshold": float(sae.threshold_F.mean())}
        if self.sae_config.architecture in ("batchtopk", "matryoshka"):
            sae.threshold_F.fill_(fit_threshold(sae, held_ND[0::2]))
        return sae, {"threshold": float(sae.threshold_F.mean()), **figures, **evaluate(sae, held_ND[1::2]).summary()}


def sampled(source: ActivationSource | Once) -> tuple[Tensor, Statistics]:
    """The rows that a dictionary starts from, and what is measured on them."""
    if isinstance(source, Once):
        return source.remember("sample", lambda: _sampled(cast("ActivationSource", source)))
    return _sampled(source)


def _sampled(source: ActivationSource) -> tuple[Tensor, Statistics]:
    sample_ND = take(source, STATISTICS_ROWS)
    return sample_ND, measure(sample_ND)


def filled(config: SAEConfig, folded: dict[str, Tensor], scale: float) -> SparseAutoencoder:
    """A dictionary of these tensors."""
    sae = SparseAutoencoder(config)
    sae.w_enc_DF.copy_(folded["w_enc_FD"].t())
    sae.b_enc_F.copy_(folded["b_enc_F"])
    sae.w_dec_FD.copy_(folded["w_dec_FD"])
    sae.b_dec_D.copy_(folded["b_dec_D"])
    sae.threshold_F.copy_(folded["threshold_F"])
    sae.scale.fill_(scale)
    return sae
