"""What one batch gives a trainer, and the sparse products that all architectures share.

The gradients are written out rather than left to autograd: the code is sparse, and autograd would form the B x F
matrix of gradients that is zero in all but k of F places. `tests/training/` holds each architecture against autograd
of its dense formula.

Legend: B batch, D width, F features, E active entries, A auxiliary (dead) features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import FeatureOrder, entry_dot, feature_order, feature_sum, weighted_row_sum

Tensors = dict[str, Tensor]
"""Parameters, or their gradients, by name. Every architecture has w_enc_FD, b_enc_F, w_dec_FD and b_dec_D, in scaled
units. Encoder rows are features here: its gradient is a sum over a feature's rows."""


_CACHED_ROWS = 256  # of a matrix of features, small enough to stay in cache between two passes over them


@dataclass(frozen=True, slots=True)
class Step:
    """Gradients and plain numbers of one batch."""

    gradients: Tensors
    fired_E: Tensor
    """Features of the active entries, each as often as it fired."""
    n_rows: int
    squared_error: float
    """Sum of ||x - x_hat||^2 over the batch."""
    power: float
    """Sum of ||x||^2 over the batch."""
    auxiliary: float
    """AuxK before its coefficient; 0 without dead features."""
    total: float
    figures: dict[str, float] = field(default_factory=dict[str, float])
    """More for the log: a penalty's coefficient, a second target's error."""

    @property
    def n_entries(self) -> int:
        """Active entries of the batch."""
        return self.fired_E.numel()


class Architecture(Protocol):
    """Activation rule and loss of one kind of dictionary; each is one file. Between batches it remembers only what
    `state` gives.
    """

    unit_norm: ClassVar[bool]
    """Whether decoder rows are held at norm 1."""

    def shapes(self, d: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        ...

    def start(self, weights: Tensors, c_ND: Tensor) -> Tensors:
        """Parameters before the first step, from the usual four, with a sample of the encoder's inputs at hand."""
        ...

    def scaled(self, raw: Any, scale: float) -> Any:
        """A batch as `step` takes it, in the dictionary's units."""
        ...

    def step(self, weights: Tensors, batch: Any, dead_A: Tensor, progress: float) -> Step:
        """Loss and gradients of one batch. `progress`: share of the run that is done."""
        ...

    def folded(self, weights: Tensors) -> Any:
        """The same function in the canonical form: the four, and `threshold_F`; of each block where there are two."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values that the next step depends on."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """x_hat - x, and what the loss sends back from it."""

    residual_BD: Tensor
    squared_error: float
    g_BD: Tensor
    """Gradient of the loss by x_hat."""


def reconstruct(weights: Tensors, x_BD: Tensor, codes: SparseCodes, variance: float) -> Reconstruction:
    """x_hat - x under the loss sum ||x - x_hat||^2 / (B variance)."""
    residual_BD = weighted_row_sum(codes, weights["w_dec_FD"]).add_(weights["b_dec_D"]).sub_(x_BD)
    squared_error = float(torch.dot(residual_BD.view(-1), residual_BD.view(-1)))
    return Reconstruction(residual_BD, squared_error, residual_BD * (2.0 / (x_BD.shape[0] * variance)))


def entry_gradient(weights: Tensors, codes: SparseCodes, g_BD: Tensor) -> Tensor:
    """Gradient by the value of each active entry, (E,)."""
    return entry_dot(codes, g_BD, weights["w_dec_FD"])


def gather(
    codes: SparseCodes, by_pre_E: Tensor, g_BD: Tensor, c_BD: Tensor, order: FeatureOrder | None = None
) -> Tensors:
    """Gradients of the four from those of the entries: by the pre-activations, and by x_hat (for the decoder).

    b_dec is here only as what is added to x_hat; `through_input` adds what it gets as what is taken from the input.
    """
    order = order or feature_order(codes)
    return {
        "w_enc_FD": feature_sum(order, by_pre_E, c_BD),
        "b_enc_F": sum_by_feature(codes, by_pre_E),
        "w_dec_FD": feature_sum(order, codes.values_E, g_BD),
        "b_dec_D": g_BD.sum(0),
    }


def through_input(weights: Tensors, gradients: Tensors) -> None:
    """b_dec is also taken from the encoder's input, so it gets minus what the encoder's input gets."""
    gradients["b_dec_D"].sub_(gradients["b_enc_F"] @ weights["w_enc_FD"])


def add_auxk(
    weights: Tensors, gradients: Tensors, residual_BD: Tensor, c_BD: Tensor, dead_A: Tensor, k: int, coefficient: float
) -> float:
    """AuxK (2406.04093): the dead features with the largest activations on each row rebuild what the live ones left
    over; they get gradient, the live ones none of it.

    Adds its gradient in place and returns its value, the squared error over the residual's own spread (0 where it has
    none). Activations go through ReLU, so a dead feature that is negative on every row gets no gradient. Products are
    dense, over the dead features only.
    """
    if not dead_A.numel() or not coefficient:
        return 0.0
    left_over_BD = residual_BD.neg()  # e = x - x_hat
    spread = float((left_over_BD - left_over_BD.mean(0)).square().sum())
    if not spread > 0:
        return 0.0
    w_enc_AD, w_dec_AD = weights["w_enc_FD"][dead_A], weights["w_dec_FD"][dead_A]
    acts_BA = torch.addmm(weights["b_enc_F"][dead_A], c_BD, w_enc_AD.t()).relu_()
    if k < dead_A.numel():
        kept = torch.topk(acts_BA, k, dim=1, sorted=False)
        acts_BA = torch.zeros_like(acts_BA).scatter_(1, kept.indices, kept.values)
    miss_BD = (acts_BA @ w_dec_AD).sub_(left_over_BD)  # e_hat - e
    g_BD = miss_BD * (2.0 * coefficient / spread)
    g_acts_BA = (g_BD @ w_dec_AD.t()).mul_(acts_BA > 0)
    gradients["w_dec_FD"].index_add_(0, dead_A, acts_BA.t() @ g_BD)
    gradients["w_enc_FD"].index_add_(0, dead_A, g_acts_BA.t() @ c_BD)
    gradients["b_enc_F"].index_add_(0, dead_A, g_acts_BA.sum(0))
    return float(miss_BD.square().sum()) / spread


def sum_by_feature(codes: SparseCodes, values_E: Tensor) -> Tensor:
    """Sum of the entries' values for each feature, (F,)."""
    # bincount adds in entry order on one thread: the same bits on every run. It returns float64 for weights of float64.
    return torch.bincount(codes.indices_E, weights=values_E, minlength=codes.n_features).to(values_E.dtype)


def remove_parallel(g_dec_FD: Tensor, w_dec_FD: Tensor) -> None:
    """Take from each decoder gradient its part along the (unit) decoder row, in place.

    Without it Adam's moments fill with a component that the renormalisation after the step undoes.
    """
    for g_BD, w_BD in zip(g_dec_FD.split(_CACHED_ROWS), w_dec_FD.split(_CACHED_ROWS), strict=True):
        g_BD.addcmul_((g_BD * w_BD).sum(1, keepdim=True), w_BD, value=-1.0)


def clip_(gradients: Tensors, max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before, finite or not."""
    norm = float(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()]).norm())
    if norm > max_norm:
        for gradient in gradients.values():
            gradient.mul_(max_norm / norm)
    return norm
