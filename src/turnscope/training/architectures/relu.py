"""ReLU with an L1 penalty weighted by decoder norms (Anthropic, April 2024 update; Scaling Monosemanticity, methods).

    L = sum ||x - x_hat||^2 / (B V) + lambda sum_f z_f ||d_f|| / B

Decoder norms are free: what counts as a feature's activation is z_f ||d_f||, and folding makes that literal (unit rows,
encoder and bias scaled up). Encoder biases start where k features a row are active, which keeps every step sparse; the
published start of all zeros has half of all features active.

Legend: N rows, B batch, D width, F features, E active entries, A dead features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from turnscope.sae.activations import above
from turnscope.training.architectures._sparsity import Steered, starting_cut
from turnscope.training.step import (
    Step,
    Tensors,
    add_auxk,
    entry_gradient,
    gather,
    reconstruct,
    sum_by_feature,
    through_input,
)


class ReLU(Steered):
    """ReLU-L1."""

    unit_norm: ClassVar[bool] = False

    def start(self, weights: Tensors, c_ND: Tensor) -> Tensors:
        """Biases that leave a few times k features active."""
        weights["b_enc_F"].sub_(starting_cut(weights, c_ND, self.config.k))
        return weights

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        n_rows = x_BD.shape[0]
        c_BD = x_BD - weights["b_dec_D"]
        codes = above(c_BD, weights["w_enc_FD"].t(), weights["b_enc_F"], 0.0, self.low_DF(weights))
        coefficient = self._coefficient.next(codes.n_entries / n_rows, progress)
        norms_F = weights["w_dec_FD"].norm(dim=1)
        made = reconstruct(weights, x_BD, codes, self.variance)
        by_pre_E = entry_gradient(weights, codes, made.g_BD)
        by_pre_E += (coefficient / n_rows) * norms_F[codes.indices_E]
        gradients = gather(codes, by_pre_E, made.g_BD, c_BD)
        mass_F = sum_by_feature(codes, codes.values_E)
        pull_F1 = (coefficient / n_rows) * (mass_F / norms_F.clamp_min(1e-12)).unsqueeze(1)
        gradients["w_dec_FD"].addcmul_(weights["w_dec_FD"], pull_F1)
        alpha = self.config.auxk_coefficient
        auxiliary = add_auxk(weights, gradients, made.residual_BD, c_BD, dead_A, self.config.auxk_k, alpha)
        through_input(weights, gradients)
        penalty = coefficient * float(mass_F @ norms_F) / n_rows
        total = self.reconstruction_loss(made.squared_error, x_BD) + penalty + alpha * auxiliary
        return self.result(gradients, codes, x_BD, made.squared_error, auxiliary, total)

    def folded(self, weights: Tensors) -> Tensors:
        """Unit decoder rows; the norms go to the encoder. A row without length has a feature that does nothing."""
        folded = super().folded(weights)
        norms_F = folded["w_dec_FD"].norm(dim=1)
        used_F = norms_F > 1e-12
        folded["w_dec_FD"].div_(norms_F.clamp_min(1e-12).unsqueeze(1))
        folded["w_enc_FD"].mul_(norms_F.unsqueeze(1))
        folded["b_enc_F"] = torch.where(used_F, folded["b_enc_F"] * norms_F, torch.zeros_like(norms_F))
        return folded
