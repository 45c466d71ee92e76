"""The weight of a sparsity penalty.

Given, it rises over the first part of the run and then stays. Not given, it is steered so that the mean number of
active features comes to k: its logarithm moves by the logarithm of L0 / k. So every architecture can be asked for the
same k, and no penalty has to be tuned by hand.
"""

from __future__ import annotations

import math

_RATE = 0.01
_LARGEST_PULL = math.log(4.0)


class Coefficient:
    """A penalty's weight; `value` is state.

    Args:
        given: the weight after warm-up, or None to steer by L0.
        k: wanted mean number of active features.
        start: where steering begins.
        warmup_share: part of the run over which a given weight rises.
    """

    def __init__(self, given: float | None, k: int, start: float, warmup_share: float) -> None:
        self._given, self._k, self._warmup_share = given, k, warmup_share
        self.value = start

    def next(self, l0: float, progress: float) -> float:
        """The weight for a batch with this mean number of active features."""
        if self._given is not None:
            rise = progress / self._warmup_share if self._warmup_share > 0 else 1.0
            self.value = self._given * min(1.0, rise)
        else:
            pull = math.log(max(l0, 0.01) / self._k)
            self.value *= math.exp(_RATE * max(-_LARGEST_PULL, min(_LARGEST_PULL, pull)))
        return self.value
