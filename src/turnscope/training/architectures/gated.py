"""Gated SAE (2404.16014): one affine map decides whether a feature is active, a rescaled one how strongly.

    u = c @ w_enc ;  pi = u + b_enc (the gate) ;  z = [pi > 0] relu(exp(r) u + b_mag)
    L = ( sum ||x - x_hat(z)||^2 + sum ||x - x_hat'(relu(pi))||^2 ) / (B V) + lambda sum relu(pi) / B

x_hat' is the decoder taken as constant, so the second term trains gates alone. Folds into the canonical form exactly:
with pre = exp(r) u + b_mag the gate is open where pre > b_mag - exp(r) b_enc.

Legend: N rows, B batch, D width, F features, E entries with an open gate, A dead features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from turnscope.sae.activations import above
from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import feature_order, feature_sum, weighted_row_sum
from turnscope.training.architectures._sparsity import Steered, starting_cut
from turnscope.training.step import Step, Tensors, add_auxk, entry_gradient, reconstruct, sum_by_feature, through_input


class Gated(Steered):
    """Gated, with its auxiliary reconstruction."""

    unit_norm: ClassVar[bool] = True

    def shapes(self, d: int) -> dict[str, tuple[int, ...]]:
        """The four (b_enc_F is the gate's bias), and the magnitude's scale and bias."""
        f = self.config.n_features
        return super().shapes(d) | {"r_mag_F": (f,), "b_mag_F": (f,)}

    def start(self, weights: Tensors, c_ND: Tensor) -> Tensors:
        """Gates that leave a few times k features open; magnitudes as the pre-activations are."""
        weights["b_enc_F"].sub_(starting_cut(weights, c_ND, self.config.k))
        zeros = torch.zeros_like(weights["b_enc_F"])
        return weights | {"r_mag_F": zeros, "b_mag_F": zeros.clone()}

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        n_rows = x_BD.shape[0]
        c_BD = x_BD - weights["b_dec_D"]
        gates = above(c_BD, weights["w_enc_FD"].t(), weights["b_enc_F"], 0.0, self.low_DF(weights))
        features_E = gates.indices_E.long()
        u_E = gates.values_E - weights["b_enc_F"][features_E]
        gain_E = weights["r_mag_F"].exp()[features_E]
        value_E = (gain_E * u_E + weights["b_mag_F"][features_E]).relu_()
        codes = SparseCodes(gates.row_ptr, gates.indices_E, value_E, gates.n_features)
        coefficient = self._coefficient.next(float((value_E > 0).sum()) / n_rows, progress)

        made = reconstruct(weights, x_BD, codes, self.variance)
        by_value_E = entry_gradient(weights, codes, made.g_BD) * (value_E > 0)
        frozen_BD = weighted_row_sum(gates, weights["w_dec_FD"]).add_(weights["b_dec_D"]).sub_(x_BD)
        gate_error = float(frozen_BD.square().sum())
        by_gate_E = entry_gradient(weights, gates, frozen_BD.mul_(2.0 / (n_rows * self.variance)))
        by_gate_E += coefficient / n_rows

        order = feature_order(codes)
        by_u_E = by_value_E * gain_E + by_gate_E
        gradients = {
            "w_enc_FD": feature_sum(order, by_u_E, c_BD),
            "b_enc_F": sum_by_feature(codes, by_u_E),  # as if b_enc were in u, which the input's share needs
            "w_dec_FD": feature_sum(order, value_E, made.g_BD),
            "b_dec_D": made.g_BD.sum(0),
            "r_mag_F": sum_by_feature(codes, by_value_E * gain_E * u_E),
            "b_mag_F": sum_by_feature(codes, by_value_E),
        }
        alpha = self.config.auxk_coefficient
        auxiliary = add_auxk(weights, gradients, made.residual_BD, c_BD, dead_A, self.config.auxk_k, alpha)
        through_input(weights, gradients)
        gradients["b_enc_F"].sub_(sum_by_feature(codes, by_value_E * gain_E))
        penalty = coefficient * float(gates.values_E.sum()) / n_rows
        loss = self.reconstruction_loss(made.squared_error + gate_error, x_BD)
        total = loss + penalty + alpha * auxiliary
        return self.result(gradients, codes, x_BD, made.squared_error, auxiliary, total)

    def folded(self, weights: Tensors) -> Tensors:
        """As one affine map with a threshold for each feature."""
        folded, gain_F = super().folded(weights), weights["r_mag_F"].exp()
        folded["w_enc_FD"].mul_(gain_F.unsqueeze(1))
        folded["b_enc_F"] = weights["b_mag_F"].clone()
        folded["threshold_F"] = weights["b_mag_F"] - gain_F * weights["b_enc_F"]
        return folded
