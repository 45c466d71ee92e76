"""TopK (2406.04093) and BatchTopK (2412.06410): the largest pre-activations are kept, of each row or of the batch.

    L = sum ||x - x_hat||^2 / (B V) + alpha AuxK,   V: error per row of the best constant predictor

so a loss of 1 is no variance explained, whatever the width or the data. A residual without variance counts as 0.

Legend: B batch, D width, F features, E active entries, A dead features.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from turnscope.sae.activations import batch_top_k, least_of_rows, top_k
from turnscope.sae.codes import SparseCodes
from turnscope.training.architectures._flat import Flat
from turnscope.training.step import Step, Tensors, add_auxk, entry_gradient, gather, reconstruct, through_input


class TopK(Flat):
    """Exactly k features in every row (fewer where fewer are positive)."""

    unit_norm: ClassVar[bool] = True

    # What one batch selected tells where to look in the next. The same entries are found without it, but rows that are
    # searched again are multiplied again, and their last bits may differ: hence it is saved. From one batch to the next
    # the cut seldom falls by more than this.
    HINT_SHARE: ClassVar[float] = 0.9
    _hint = 0.0

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        c_BD = x_BD - weights["b_dec_D"]
        codes = self.select(weights, c_BD)
        made = reconstruct(weights, x_BD, codes, self.variance)
        gradients = gather(codes, entry_gradient(weights, codes, made.g_BD), made.g_BD, c_BD)
        return self.close(weights, gradients, codes, made.residual_BD, made.squared_error, x_BD, c_BD, dead_A)

    def select(self, weights: Tensors, c_BD: Tensor) -> SparseCodes:
        """The active entries of a batch."""
        k, encoder = self.config.k, (weights["w_enc_FD"].t(), weights["b_enc_F"])
        codes = top_k(c_BD, *encoder, k, self._hint, self.low_DF(weights))
        self._hint = self.HINT_SHARE * least_of_rows(codes, c_BD, k)
        return codes

    def close(
        self, weights: Tensors, gradients: Tensors, codes: SparseCodes, residual_BD: Tensor, squared_error: float,
        x_BD: Tensor, c_BD: Tensor, dead_A: Tensor,
    ) -> Step:  # fmt: skip
        """Add AuxK and what b_dec gets through the encoder's input."""
        alpha = self.config.auxk_coefficient
        auxiliary = add_auxk(weights, gradients, residual_BD, c_BD, dead_A, self.config.auxk_k, alpha)
        through_input(weights, gradients)
        total = self.reconstruction_loss(squared_error, x_BD) + alpha * auxiliary
        return self.result(gradients, codes, x_BD, squared_error, auxiliary, total)

    def figures(self) -> dict[str, float]:
        """Nothing: where to look is no figure of the dictionary."""
        return {}

    def state(self) -> dict[str, Any]:
        """Where to look in the next batch."""
        return {"hint": self._hint}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self._hint = state.get("hint", 0.0)


class BatchTopK(TopK):
    """k features a row on average over the batch; when it reads, one threshold for all rows.

    The threshold here is a running mean of the smallest kept value; training ends by setting it anew on held-out rows.
    """

    threshold: float | None = None

    def select(self, weights: Tensors, c_BD: Tensor) -> SparseCodes:
        """The active entries of a batch."""
        encoder = weights["w_enc_FD"].t(), weights["b_enc_F"]
        codes = batch_top_k(c_BD, *encoder, self.config.k, self._hint, self.low_DF(weights))
        if codes.n_entries:
            self.follow(float(codes.values_E.min()))
        return codes

    def follow(self, smallest: float) -> None:
        """Move the threshold's running mean by a batch's smallest kept value."""
        beta = self.config.threshold_beta
        self.threshold = smallest if self.threshold is None else beta * self.threshold + (1 - beta) * smallest
        self._hint = self.HINT_SHARE * smallest

    def folded(self, weights: Tensors) -> Tensors:
        """With the running threshold for all features."""
        folded = super().folded(weights)
        folded["threshold_F"].fill_(self.threshold or 0.0)
        return folded

    def figures(self) -> dict[str, float]:
        """The running threshold, once there is one."""
        return {} if self.threshold is None else {"threshold": self.threshold}

    def state(self) -> dict[str, Any]:
        """The running threshold, and where to look in the next batch."""
        return super().state() | {"threshold": self.threshold}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        super().restore(state)
        self.threshold = state["threshold"]
