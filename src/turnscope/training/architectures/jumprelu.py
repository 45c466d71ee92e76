"""JumpReLU (2407.14435): each feature learns the threshold above which it is active at all.

    z = pre [pre > theta] ;   L = sum ||x - x_hat||^2 / (B V) + lambda (2 / k) (L0 - k)^2,   L0: mean over the batch

The penalty is Gemma Scope 2's (METHODS 4): it pulls from both sides, so L0 comes to k. A penalty on L0 itself, its
weight steered, cannot raise an L0 that fell below k: at weight 0 only the error opens thresholds, and too slowly.

The step functions of theta have no gradient; a rectangle K of width eps around theta stands for it (the paper's
straight-through estimators): d z / d theta = -(theta / eps) K((pre - theta) / eps), d [pre > theta] / d theta =
-(1 / eps) K(...). Training is of log theta. Pre-activations below theta - eps / 2 have neither value nor gradient, so a
step touches only those above.

eps is `config.bandwidth`. Inputs have mean square norm D, so a pre-activation under a random unit direction is of size
1 whatever the width, and so is the default window. The published 1e-3 (of inputs of norm 1) is a hundred times narrower
at D = 128: too few entries of a short run fall inside for thresholds to move (docs/training.md). Thresholds start where
a few times k features are active, not near 0: a threshold that starts far under all pre-activations has no entries
inside the rectangle, and never learns.

Legend: N rows, B batch, D width, F features, E entries that have value or gradient, A dead features.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from turnscope.sae.activations import above
from turnscope.sae.codes import SparseCodes
from turnscope.training.architectures._flat import Flat
from turnscope.training.architectures._sparsity import starting_cut
from turnscope.training.config import ResolvedConfig
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

WEIGHT = 0.3
"""Of the penalty when none is given. Measured from .03, where L0 stays 4 % short of k, on."""


class JumpReLU(Flat):
    """JumpReLU that is held to k active features a row on average."""

    unit_norm: ClassVar[bool] = True

    def __init__(self, config: ResolvedConfig, variance: float) -> None:
        super().__init__(config, variance)
        self._weight = WEIGHT if config.sparsity is None else config.sparsity

    def shapes(self, d: int) -> dict[str, tuple[int, ...]]:
        """The four, and a threshold's logarithm for each feature."""
        return super().shapes(d) | {"log_threshold_F": (self.config.n_features,)}

    def start(self, weights: Tensors, c_ND: Tensor) -> Tensors:
        """One threshold for all."""
        cut = max(starting_cut(weights, c_ND, self.config.k), 1e-3)
        return weights | {"log_threshold_F": torch.full_like(weights["b_enc_F"], math.log(cut))}

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        n_rows, width = x_BD.shape[0], self.config.bandwidth
        c_BD = x_BD - weights["b_dec_D"]
        theta_F = weights["log_threshold_F"].exp()
        floor_F = (theta_F - width / 2).clamp_min(0)
        near = above(c_BD, weights["w_enc_FD"].t(), weights["b_enc_F"], floor_F, self.low_DF(weights))
        theta_E = theta_F[near.indices_E]
        active_E = near.values_E > theta_E
        codes = SparseCodes(near.row_ptr, near.indices_E, near.values_E * active_E, near.n_features)
        l0 = float(active_E.sum()) / n_rows
        too_many = l0 - self.config.k
        by_l0 = self._weight * 4 / self.config.k * too_many

        made = reconstruct(weights, x_BD, codes, self.variance)
        by_value_E = entry_gradient(weights, codes, made.g_BD)
        gradients = gather(codes, by_value_E * active_E, made.g_BD, c_BD)
        inside_E = ((near.values_E - theta_E).abs() < width / 2) / width
        by_theta_E = -inside_E * (theta_E * by_value_E + by_l0 / n_rows)
        gradients["log_threshold_F"] = sum_by_feature(codes, by_theta_E) * theta_F
        alpha = self.config.auxk_coefficient
        auxiliary = add_auxk(weights, gradients, made.residual_BD, c_BD, dead_A, self.config.auxk_k, alpha)
        through_input(weights, gradients)
        penalty = self._weight * 2 / self.config.k * too_many * too_many
        total = self.reconstruction_loss(made.squared_error, x_BD) + penalty + alpha * auxiliary
        return self.result(gradients, codes, x_BD, made.squared_error, auxiliary, total)

    def folded(self, weights: Tensors) -> Tensors:
        """With the thresholds that were learnt."""
        return super().folded(weights) | {"threshold_F": weights["log_threshold_F"].exp()}
