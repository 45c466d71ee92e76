"""Nested dictionaries: a block of turn features and a block of token features, trained together (METHODS 1.8, form N1).

    z_T = BatchTopK(W_T (mean - b_T) + b_enc,T)         mean_hat = b_T + D_T z_T
    z_t = BatchTopK(W_P (h_t - b_P) + b_enc,P)          h_hat_t  = b_P + D_T z_T + D_P z_t
    L = w sum |mean - mean_hat|^2 / (B V_T) + (1 - w) sum_turns mean_t |h_t - h_hat_t|^2 / (B V_P)
        + alpha (AuxK_T + AuxK_P)

V_T and V_P are the errors of the best constant predictors of turn means and of tokens. The token error reaches the turn
block through D_T z_T unless `detach_turn` is set. Form `decoupled`, for comparison: the token block reads and rebuilds
h_t - mean, and neither block knows of the other. Our reconstruction, not the paper's code (docs/design/nested.md).

Legend: B turns of a batch, T tokens of all, D width, F features of both blocks, E active entries, A dead features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from turnscope.harvest.turn_tokens import TurnTokens
from turnscope.sae.activations import batch_top_k
from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import weighted_row_sum
from turnscope.training.config import ResolvedConfig
from turnscope.training.step import Step, Tensors, add_auxk, entry_gradient, gather, through_input

_HINT_SHARE = 0.9


class Nested:
    """Both blocks. Parameters carry the block's name: `turn.w_enc_FD`, `token.w_enc_FD`, ...; features of the turn
    block are counted first.

    Args:
        config: resolved settings with unit `nested`.
        turn_variance, token_variance: errors of the best constant predictors, in scaled units.
    """

    unit_norm: ClassVar[bool] = True

    def __init__(self, config: ResolvedConfig, turn_variance: float, token_variance: float) -> None:
        self.config, self.turn_variance, self.token_variance = config, turn_variance, token_variance
        self.n_turn = n_turn_features(config)
        self.thresholds: dict[str, float | None] = {"turn": None, "token": None}
        self._hints = {"turn": 0.0, "token": 0.0}  # speed only, so not saved

    def shapes(self, d: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        sizes = {"turn": self.n_turn, "token": self.config.n_features - self.n_turn}
        return {
            f"{block}.{name}": shape
            for block, f in sizes.items()
            for name, shape in {"w_enc_FD": (f, d), "b_enc_F": (f,), "w_dec_FD": (f, d), "b_dec_D": (d,)}.items()
        }

    def scaled(self, raw: TurnTokens, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """(means_BD, tokens_TD, lengths_B) in the dictionary's units."""
        return (
            torch.as_tensor(raw.mean_BD, dtype=torch.float32) * scale,
            torch.as_tensor(raw.tokens_TD, dtype=torch.float32) * scale,
            torch.as_tensor(raw.lengths_B),
        )

    def step(self, weights: Tensors, batch: tuple[Tensor, Tensor, Tensor], dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        del progress
        mean_BD, tokens_TD, lengths_B = batch
        n_turns, config = len(lengths_B), self.config
        turn, token = block_of(weights, "turn"), block_of(weights, "token")
        turn_of_T = torch.repeat_interleave(torch.arange(n_turns), lengths_B)
        decoupled = config.nested_form == "decoupled"
        share_turn, share_token = (1.0, 1.0) if decoupled else (config.turn_weight, 1 - config.turn_weight)

        c_BD = mean_BD - turn["b_dec_D"]
        codes_B = self._select("turn", turn, c_BD, config.turn_k)
        from_turn_BD = weighted_row_sum(codes_B, turn["w_dec_FD"])
        miss_BD = from_turn_BD + turn["b_dec_D"] - mean_BD
        g_BD = miss_BD * (2 * share_turn / (n_turns * self.turn_variance))

        read_TD = tokens_TD - mean_BD[turn_of_T] if decoupled else tokens_TD
        c_TD = read_TD - token["b_dec_D"]
        codes_T = self._select("token", token, c_TD, config.k)
        miss_TD = weighted_row_sum(codes_T, token["w_dec_FD"]) + token["b_dec_D"] - read_TD
        if not decoupled:
            miss_TD += from_turn_BD[turn_of_T]
        weight_T1 = (2 * share_token / (n_turns * self.token_variance * lengths_B))[turn_of_T].unsqueeze(1)
        g_TD = miss_TD * weight_T1

        # What D_T z_T adds to every token of the turn gets the sum of the tokens' gradients.
        reaches = not (decoupled or config.detach_turn)
        g_sum_BD = g_BD + turn_sums(g_TD, lengths_B) if reaches else g_BD
        of_turn = gather(codes_B, entry_gradient(turn, codes_B, g_sum_BD), g_sum_BD, c_BD)
        of_turn["b_dec_D"] = g_BD.sum(0)
        of_token = gather(codes_T, entry_gradient(token, codes_T, g_TD), g_TD, c_TD)

        turn_dead, token_dead = dead_A[dead_A < self.n_turn], dead_A[dead_A >= self.n_turn] - self.n_turn
        alpha, auxk_k = config.auxk_coefficient, config.auxk_k
        auxiliary = add_auxk(turn, of_turn, miss_BD, c_BD, turn_dead, auxk_k, alpha)
        auxiliary += add_auxk(token, of_token, miss_TD, c_TD, token_dead, auxk_k, alpha)
        through_input(turn, of_turn)
        through_input(token, of_token)

        turn_error = float(miss_BD.square().sum())
        error_T = miss_TD.square().sum(1)
        token_loss = float((error_T / lengths_B[turn_of_T]).sum()) / (n_turns * self.token_variance)
        turn_loss = turn_error / (n_turns * self.turn_variance)
        total = share_turn * turn_loss + share_token * token_loss + alpha * auxiliary
        return Step(
            {f"turn.{name}": g for name, g in of_turn.items()} | {f"token.{name}": g for name, g in of_token.items()},
            torch.cat([codes_B.indices_E.long(), codes_T.indices_E.long() + self.n_turn]),
            n_turns,
            turn_error,
            float(mean_BD.square().sum()),
            auxiliary,
            total,
            {
                "turn_l0": codes_B.n_entries / n_turns,
                "token_l0": codes_T.n_entries / len(tokens_TD),
                "token_nmse_raw": float(error_T.sum()) / float(tokens_TD.square().sum()),
                "token_nmse_centred": token_loss,
            },
        )

    def state(self) -> dict[str, Any]:
        """The running thresholds."""
        return dict(self.thresholds)

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.thresholds = dict(state)

    def folded(self, weights: Tensors) -> dict[str, Tensors]:
        """Each block in the canonical form, under its name."""
        return {
            name: {key: tensor.clone() for key, tensor in block_of(weights, name).items()}
            | {"threshold_F": torch.full_like(weights[f"{name}.b_enc_F"], self.thresholds[name] or 0.0)}
            for name in ("turn", "token")
        }

    def _select(self, name: str, block: Tensors, c_ND: Tensor, k: int) -> SparseCodes:
        codes = batch_top_k(c_ND, block["w_enc_FD"].t(), block["b_enc_F"], k, self._hints[name])
        if codes.n_entries:
            smallest, beta, before = float(codes.values_E.min()), self.config.threshold_beta, self.thresholds[name]
            self.thresholds[name] = smallest if before is None else beta * before + (1 - beta) * smallest
            self._hints[name] = _HINT_SHARE * smallest
        return codes


def n_turn_features(config: ResolvedConfig) -> int:
    """Features of the turn block."""
    return max(1, min(config.n_features - 1, round(config.turn_share * config.n_features)))


def block_of(weights: Tensors, name: str) -> Tensors:
    """One block's parameters, under their plain names."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}


def turn_sums(rows_TD: Tensor, lengths_B: Tensor) -> Tensor:
    """Sum of the rows of each turn (B, D)."""
    return torch.segment_reduce(rows_TD, "sum", lengths=lengths_B, axis=0, unsafe=True)
