"""A run on turns with their tokens: start, figures and end of a nested dictionary.

Legend: N turns, T tokens of all of them, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from turnscope.artifacts import DataError
from turnscope.harvest.turn_tokens import TurnTokens, TurnTokenSource
from turnscope.sae import SAEConfig
from turnscope.sae.nested import NestedSAE
from turnscope.training.architectures.nested import Nested, n_turn_features
from turnscope.training.config import ResolvedConfig
from turnscope.training.initial import initial_weights, measure
from turnscope.training.metrics import evaluate_nested
from turnscope.training.of_rows import filled
from turnscope.training.step import Tensors
from turnscope.training.threshold import fit_threshold
from turnscope.training.trainer import Trainer

STATISTICS_TURNS = 4096
WATCHED_TURNS = 256
MOST_TOKENS = 1 << 17  # held in memory at the start, and again of the turns kept from training


class OfTurns:
    """What a run does with turns and their tokens. `sae_config` is that of the finished dictionary, blocks apart."""

    def __init__(self, config: ResolvedConfig, sae_config: SAEConfig) -> None:
        self.config, self.sae_config = config, sae_config

    def held(self, source: TurnTokenSource) -> TurnTokens:
        """Turns kept from training. DataError when they are not finite."""
        held = take_turns(source, max(4, self.config.held_rows // 8))
        if not (np.isfinite(held.mean_BD).all() and np.isfinite(held.tokens_TD).all()):
            raise DataError("the held-out activations hold NaN or infinite values", where=f"{len(held)} turns")
        return held

    def saved(self, folder: Path, d_model: int) -> tuple[Trainer, dict[str, Any]] | None:
        """The trainer and the state of a checkpoint, or None where there is none."""
        return Trainer.saved(self.config, folder, d_model)

    def begin(self, source: TurnTokenSource) -> Trainer:
        """A trainer before its first step. Token features start in the directions in which tokens leave their turn's
        mean; the scale is that of turn means, as for a turn dictionary.
        """
        config, sample = self.config, take_turns(source, STATISTICS_TURNS)
        means_ND, tokens_TD = torch.from_numpy(sample.mean_BD), torch.from_numpy(sample.tokens_TD)
        of_means, of_tokens = measure(means_ND), measure(tokens_TD)
        within_TD = tokens_TD - means_ND.repeat_interleave(torch.from_numpy(sample.lengths_B), dim=0)
        of_within = measure(within_TD)
        n_turn, scale = n_turn_features(config), of_means.scale
        blocks = {
            "turn": initial_weights(means_ND, of_means, n_turn, config.init_data_share, config.seed),
            "token": initial_weights(
                within_TD, of_within, config.n_features - n_turn, config.init_data_share, config.seed + 1
            ),
        }
        centre = of_within if config.nested_form == "decoupled" else of_tokens
        blocks["token"]["b_dec_D"] = (centre.mean_D * scale).float()
        weights: Tensors = {f"{b}.{name}": tensor for b, block in blocks.items() for name, tensor in block.items()}
        # Each measure is in units of its own scale: variances are brought to the one scale of the dictionary.
        token_variance = centre.variance * (scale / centre.scale) ** 2
        return Trainer(config, weights, scale, of_means.variance, token_variance)

    def dictionary(self, trainer: Trainer) -> NestedSAE:
        """The dictionary as it stands (a copy)."""
        assert isinstance(trainer.architecture, Nested)
        blocks = trainer.architecture.folded(trainer.weights)
        turn, token = (filled(self._block_config(name), blocks[name], trainer.scale) for name in blocks)
        return NestedSAE(turn, token, self.config.nested_form)

    def watch(self, trainer: Trainer, held: TurnTokens) -> dict[str, Any]:
        """Held-out figures for a line of the log."""
        figures = evaluate_nested(self.dictionary(trainer), held[:WATCHED_TURNS])
        return {name: figures[name] for name in ("held_nmse_raw", "held_nmse_centred", "held_token_nmse_centred")}

    def finish(self, trainer: Trainer, held: TurnTokens) -> tuple[NestedSAE, dict[str, Any]]:
        """The finished dictionary: thresholds set on one half of the held turns, figures from the other."""
        sae, fitting = self.dictionary(trainer), held[0::2]
        sae.turn.threshold_F.fill_(fit_threshold(sae.turn, torch.from_numpy(fitting.mean_BD)))
        read_TD = sae.read_by_tokens(fitting.tokens_TD, fitting.lengths_B, fitting.mean_BD)
        sae.token.threshold_F.fill_(fit_threshold(sae.token, read_TD))
        thresholds = {"threshold": float(sae.turn.threshold_F[0]), "token_threshold": float(sae.token.threshold_F[0])}
        return sae, {**thresholds, **evaluate_nested(sae, held[1::2])}

    def _block_config(self, name: str) -> SAEConfig:
        n_turn = n_turn_features(self.config)
        size = n_turn if name == "turn" else self.config.n_features - n_turn
        k = self.config.turn_k if name == "turn" else self.config.k
        return self.sae_config.model_copy(update={"unit": name, "n_features": size, "k": min(k, size)})


def take_turns(source: TurnTokenSource, n_turns: int) -> TurnTokens:
    """Up to so many of the source's turns, none twice, leaving the source where it was; fewer where they are long."""
    state, wanted, parts, taken, n_tokens = source.state_dict(), min(n_turns, source.n_rows), list[TurnTokens](), 0, 0
    for batch in source.batches():
        parts.append(batch[: wanted - taken])
        taken, n_tokens = taken + len(parts[-1]), n_tokens + len(parts[-1].tokens_TD)
        if taken >= wanted or n_tokens >= MOST_TOKENS:
            break
    source.load_state_dict(state)
    return TurnTokens(
        np.concatenate([part.mean_BD for part in parts]),
        np.concatenate([part.tokens_TD for part in parts]),
        np.concatenate([part.lengths_B for part in parts]),
    )
