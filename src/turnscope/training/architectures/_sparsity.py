"""The weight of an L1 penalty.

Given, it rises over the first part of the run and then stays. Not given, it is steered so that the mean number of
active features comes to k: its logarithm moves by the logarithm of L0 / k. So every architecture can be asked for the
same k, and no penalty has to be tuned by hand.

Steering starts near where it ends. An L1 penalty of weight lambda lowers activations by lambda V / 2 at the optimum,
and k features that together carry an error of V have activations of about sqrt(V / k); so 0.5 / sqrt(V k) lowers them
by a quarter. From a weight a hundred times smaller, a short run spends its first half with far too many features.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from turnscope.sae.activations import batch_top_k
from turnscope.training.architectures._flat import Flat
from turnscope.training.config import ResolvedConfig
from turnscope.training.step import Tensors

_RATE = 0.02
_START = 0.5
START_SHARE = 4  # active features at the start, in units of k: there is room to choose from
_LARGEST_PULL = math.log(4.0)


class Coefficient:
    """A penalty's weight; `value` is state.

    Args:
        given: the weight after warm-up, or None to steer by L0.
        k: wanted mean number of active features.
        variance: error per row of the best constant predictor.
        warmup_share: part of the run over which a given weight rises.
    """

    def __init__(self, given: float | None, k: int, variance: float, warmup_share: float) -> None:
        self._given, self._k, self._warmup_share = given, k, warmup_share
        self.value = _START / math.sqrt(variance * k)

    def next(self, l0: float, progress: float) -> float:
        """The weight for a batch with this mean number of active features."""
        if self._given is not None:
            rise = progress / self._warmup_share if self._warmup_share > 0 else 1.0
            self.value = self._given * min(1.0, rise)
        else:
            pull = math.log(max(l0, 0.01) / self._k)
            self.value *= math.exp(_RATE * max(-_LARGEST_PULL, min(_LARGEST_PULL, pull)))
        return self.value


class Steered(Flat):
    """An architecture whose penalty has such a weight."""

    def __init__(self, config: ResolvedConfig, variance: float) -> None:
        super().__init__(config, variance)
        self._coefficient = Coefficient(config.sparsity, config.k, variance, config.sparsity_warmup)

    def state(self) -> dict[str, Any]:
        """The penalty's weight."""
        return {"sparsity": self._coefficient.value}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self._coefficient.value = state["sparsity"]


def starting_cut(weights: Tensors, c_ND: Tensor, k: int) -> float:
    """The pre-activation that `START_SHARE` k features of a row exceed on average; 0 where fewer are positive."""
    wanted = min(START_SHARE * k, weights["b_enc_F"].numel())
    kept = batch_top_k(c_ND, weights["w_enc_FD"].t(), weights["b_enc_F"], wanted)
    return float(kept.values_E.min()) if kept.n_entries == c_ND.shape[0] * wanted else 0.0
