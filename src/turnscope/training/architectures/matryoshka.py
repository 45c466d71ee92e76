"""Matryoshka BatchTopK (2503.17547): every prefix of the dictionary must rebuild the input by itself.

    L = sum_g c_g ||x - b - D_{<=g} z_{<=g}||^2 / (B V) + alpha AuxK on the full residual,   sum_g c_g = 1

with one BatchTopK over all features. (dictionary_learning scales the reconstruction by 1/G twice and AuxK never; here
the weights sum to one, so a loss of 1 is again no variance explained.) A prefix's squared error sends gradient to the
entries inside it only, so an entry of group j gets the sum of all prefixes that hold it: one running sum from the last
prefix back, and every product is over the active entries of one group.

Legend: B batch, D width, F features, E active entries of one group, A dead features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import weighted_row_sum
from turnscope.training.architectures.topk import BatchTopK
from turnscope.training.step import Step, Tensors, entry_gradient, gather


class Matryoshka(BatchTopK):
    """BatchTopK whose prefixes, of `config.prefixes` shares of the features, are dictionaries too."""

    def ends(self) -> list[int]:
        """Where each prefix ends, ascending; the last is all features."""
        n = self.config.n_features
        return sorted({max(1, math.ceil(share * n)) for share in self.config.prefixes} | {n})

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        c_BD = x_BD - weights["b_dec_D"]
        codes = self.select(weights, c_BD)
        ends = self.ends()
        groups = [_between(codes, start, end) for start, end in zip([0, *ends], ends, strict=False)]
        share = 1 / len(ends)

        residuals: list[Tensor] = []
        so_far_BD = weights["b_dec_D"] - x_BD
        for group in groups:
            so_far_BD = weighted_row_sum(group, weights["w_dec_FD"]).add_(so_far_BD)
            residuals.append(so_far_BD)
        errors = [float(residual_BD.square().sum()) for residual_BD in residuals]

        scale = 2.0 * share / (x_BD.shape[0] * self.variance)
        g_BD, parts = torch.zeros_like(x_BD), list[Tensors]()
        for residual_BD, group in zip(reversed(residuals), reversed(groups), strict=True):
            g_BD.add_(residual_BD, alpha=scale)
            parts.append(gather(group, entry_gradient(weights, group, g_BD), g_BD, c_BD))
        gradients = parts[0]
        for part in parts[1:]:
            for name in ("w_enc_FD", "b_enc_F", "w_dec_FD"):
                gradients[name].add_(part[name])
        gradients["b_dec_D"] = g_BD.sum(0)  # every prefix holds the bias
        done = self.close(weights, gradients, codes, residuals[-1], errors[-1], x_BD, c_BD, dead_A)
        nested = sum(error * share for error in errors) / (x_BD.shape[0] * self.variance)
        total = nested + self.config.auxk_coefficient * done.auxiliary
        return self.result(gradients, codes, x_BD, errors[-1], done.auxiliary, total)


def _between(codes: SparseCodes, start: int, end: int) -> SparseCodes:
    return codes.keep((codes.indices_E >= start) & (codes.indices_E < end))
