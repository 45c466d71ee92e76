"""The training loss and its gradient, touching only active entries.

    L = ||x - x_hat||^2 / V  +  alpha * AuxK ,   AuxK = ||e - e_hat||^2 / ||e - mean(e)||^2 ,   e = x - x_hat (constant)

V is the error of the best constant predictor on the training data, so the first term is one minus the variance
explained, whatever the width or the data. AuxK (2406.04093): the dead features with the largest activations on each row
rebuild what the live ones left over; they get gradient, the live ones none of it. A residual without variance gives a
ratio 0/0, counted as 0.

The gradients are written out rather than left to autograd: the code is sparse, and autograd would form the B x F
matrix of gradients that is zero in all but k of F places. `tests/training/test_losses.py` holds them against autograd
of the dense formula.

Legend: B batch, D width, F features, E active entries, A auxiliary (dead) features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import entry_dot, feature_order, feature_sum, weighted_row_sum


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters in scaled units. Encoder rows are features here: its gradient is a sum over a feature's rows."""

    w_enc_FD: Tensor
    b_enc_F: Tensor
    w_dec_FD: Tensor
    b_dec_D: Tensor

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.w_enc_FD, self.b_enc_F, self.w_dec_FD, self.b_dec_D


@dataclass(frozen=True, slots=True)
class Losses:
    """Gradients (in the order of `Weights`) and the plain numbers of one batch."""

    gradients: Weights
    squared_error: float
    """Sum of ||x - x_hat||^2 over the batch."""
    auxiliary: float
    """AuxK before its coefficient; 0 without dead features."""
    total: float


def loss_and_gradients(
    weights: Weights,
    x_BD: Tensor,
    c_BD: Tensor,
    codes: SparseCodes,
    *,
    variance: float,
    dead_A: Tensor,
    auxk_k: int,
    auxk_coefficient: float,
) -> Losses:
    """Loss of one batch and its gradient.

    x_BD: scaled inputs; c_BD: x - b_dec, the encoder's input; codes: the active features of c_BD; variance: V per row;
    dead_A: int64 indices of dead features. Auxiliary activations go through ReLU, so a dead feature that is negative on
    every row gets no gradient.
    """
    n_rows = x_BD.shape[0]
    residual_BD = weighted_row_sum(codes, weights.w_dec_FD).add_(weights.b_dec_D).sub_(x_BD)  # x_hat - x
    squared_error = float(residual_BD.square().sum())
    g_BD = residual_BD * (2.0 / (n_rows * variance))

    order = feature_order(codes)
    entry_gradient_E = entry_dot(codes, g_BD, weights.w_dec_FD)
    gradients = Weights(
        feature_sum(order, entry_gradient_E, c_BD),
        _sum_by_feature(codes, entry_gradient_E),
        feature_sum(order, codes.values_E, g_BD),
        g_BD.sum(0),
    )
    auxiliary = 0.0
    if dead_A.numel() and auxk_coefficient > 0:
        auxiliary = _add_auxk(weights, gradients, residual_BD, c_BD, dead_A, auxk_k, auxk_coefficient)
    # b_dec is also taken from the encoder's input, so it gets minus what the encoder's input gets.
    gradients.b_dec_D.sub_(gradients.b_enc_F @ weights.w_enc_FD)
    total = squared_error / (n_rows * variance) + auxk_coefficient * auxiliary
    return Losses(gradients, squared_error, auxiliary, total)


def _add_auxk(
    weights: Weights,
    gradients: Weights,
    residual_BD: Tensor,
    c_BD: Tensor,
    dead_A: Tensor,
    auxk_k: int,
    coefficient: float,
) -> float:
    """Add AuxK's gradient in place; returns its value. Products are dense, over the dead features only."""
    left_over_BD = residual_BD.neg()  # e = x - x_hat
    spread = float((left_over_BD - left_over_BD.mean(0)).square().sum())
    if not spread > 0:
        return 0.0
    w_enc_AD, w_dec_AD = weights.w_enc_FD[dead_A], weights.w_dec_FD[dead_A]
    acts_BA = torch.addmm(weights.b_enc_F[dead_A], c_BD, w_enc_AD.t()).relu_()
    if auxk_k < dead_A.numel():
        kept = torch.topk(acts_BA, auxk_k, dim=1, sorted=False)
        acts_BA = torch.zeros_like(acts_BA).scatter_(1, kept.indices, kept.values)
    miss_BD = (acts_BA @ w_dec_AD).sub_(left_over_BD)  # e_hat - e
    g_BD = miss_BD * (2.0 * coefficient / spread)
    g_acts_BA = (g_BD @ w_dec_AD.t()).mul_(acts_BA > 0)
    gradients.w_dec_FD.index_add_(0, dead_A, acts_BA.t() @ g_BD)
    gradients.w_enc_FD.index_add_(0, dead_A, g_acts_BA.t() @ c_BD)
    gradients.b_enc_F.index_add_(0, dead_A, g_acts_BA.sum(0))
    return float(miss_BD.square().sum()) / spread


def _sum_by_feature(codes: SparseCodes, values_E: Tensor) -> Tensor:
    # bincount adds in entry order on one thread: the same bits on every run. It returns float64 for weights of float64.
    return torch.bincount(codes.indices_E, weights=values_E, minlength=codes.n_features).to(values_E.dtype)


def remove_parallel(g_dec_FD: Tensor, w_dec_FD: Tensor) -> None:
    """Take from each decoder gradient its part along the (unit) decoder row, in place.

    Without it Adam's moments fill with a component that the renormalisation after the step undoes.
    """
    along_F1 = (g_dec_FD * w_dec_FD).sum(1, keepdim=True)
    g_dec_FD.addcmul_(along_F1, w_dec_FD, value=-1.0)


def clip_(gradients: Weights, max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before."""
    norm = float(torch.stack([torch.linalg.vector_norm(g) for g in gradients.all()]).norm())
    if norm > max_norm:
        for gradient in gradients.all():
            gradient.mul_(max_norm / norm)
    return norm
