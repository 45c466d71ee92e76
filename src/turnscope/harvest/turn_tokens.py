"""Turns with their tokens, as a trainer of nested dictionaries sees them.

Shapes: B turns of a batch, T tokens of all of them, D model width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError, IntegrityError, fingerprint
from turnscope.harvest.ahead import ahead
from turnscope.harvest.source import permuted
from turnscope.harvest.store import ActivationStore


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """Some turns: the mean of each over all its tokens, and its stored tokens, turn after turn. Its length is B."""

    mean_BD: NDArray[np.float32]
    tokens_TD: NDArray[np.float32]
    lengths_B: NDArray[np.int64]
    """Stored tokens of each turn, one or more."""

    def __len__(self) -> int:
        return len(self.lengths_B)

    def __getitem__(self, turns: slice) -> TurnTokens:
        """Some turns; with a step of 1 nothing is copied."""
        ends = np.cumsum(self.lengths_B)
        firsts, picked = ends - self.lengths_B, np.arange(len(self))[turns]
        if turns.step in (None, 1):
            first, last = (int(firsts[picked[0]]), int(ends[picked[-1]])) if len(picked) else (0, 0)
            tokens_TD = self.tokens_TD[first:last]
        else:
            tokens_TD = self.tokens_TD[spread(firsts, self.lengths_B, picked)]
        return TurnTokens(self.mean_BD[turns], tokens_TD, self.lengths_B[turns])


def spread(firsts: NDArray[np.int64], lengths: NDArray[np.int64], picked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the picked runs, run after run."""
    sizes = lengths[picked]
    shift = firsts[picked] - (np.cumsum(sizes) - sizes)
    return np.arange(int(sizes.sum())) + np.repeat(shift, sizes)


class TurnTokenSource:
    """The turns of one split that have stored tokens, shuffled anew each epoch by (seed, epoch); every batch is full.

    Args:
        store: activations of one site, harvested with tokens.
        split: `train`, `explain` or `eval`.
        batch_size: turns in a batch.
        seed: of the shuffle.

    Raises DataError when no turn of the split has stored tokens.
    """

    def __init__(self, store: ActivationStore, split: str = "train", batch_size: int = 64, seed: int = 0) -> None:
        if split not in ("train", "explain", "eval"):
            raise ConfigError(f"split {split!r} may not be trained on", fix="use train, explain or eval")
        self._store, self._batch_size, self._seed, self._position = store, batch_size, seed, 0
        offsets = store.token_offsets
        in_split = np.asarray(store.table(["split"])["split"].to_pandas() == split)
        self._firsts, self._lengths = offsets[:-1], np.diff(offsets)
        self._turns = np.flatnonzero(in_split & (self._lengths > 0))
        self.n_rows, self.d_model = len(self._turns), store.d_model
        if not self.n_rows:
            raise DataError(
                f"no turns of split {split!r} with stored tokens",
                where=str(store.artifact.path),
                fix="harvest with --tokens all, or with a number",
            )
        self.fingerprint = fingerprint({"activations": store.fingerprint, "unit": "nested", "split": split})

    def batches(self) -> Iterator[TurnTokens]:
        """Endless batches from the current position on; the next one is read in a thread."""
        for end, batch in ahead(self._reads()):
            self._position = end
            yield batch

    def _reads(self) -> Iterator[functools.partial[tuple[int, TurnTokens]]]:
        for position, picked in permuted(self.n_rows, self._batch_size, self._seed, self._position):
            yield functools.partial(self._read, position, self._turns[picked])

    def _read(self, position: int, turns: NDArray[np.int64]) -> tuple[int, TurnTokens]:
        rows = spread(self._firsts, self._lengths, turns)
        return position, TurnTokens(self._store.mean_ND(turns), self._store.tokens_TD(rows), self._lengths[turns])

    def state_dict(self) -> dict[str, Any]:
        """Turns given out so far, and of which source."""
        return {
            "source": self.fingerprint,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved state. IntegrityError when it is of other rows, another seed or batch size."""
        mine = self.state_dict()
        for name in ("source", "seed", "batch_size"):
            if state[name] != mine[name]:
                raise IntegrityError(
                    f"the saved state is of another source: {name} was {state[name]}, is {mine[name]}",
                    fix="resume with the settings of the first run",
                )
        self._position = int(state["position"])
