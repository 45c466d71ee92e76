"""Activations as a trainer sees them: endless shuffled batches of rows that can stop and go on at any batch.

Shapes: B batch, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError, IntegrityError, fingerprint
from turnscope.harvest.store import ActivationStore

Split = Literal["train", "explain", "eval"]


class ActivationSource(Protocol):
    """What a trainer takes: rows of one width, in batches, from wherever they come."""

    @property
    def d_model(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def batches(self) -> Iterator[NDArray[np.float32]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class StoreSource:
    """The rows of one split of a store: turn means, or single tokens.

    Each epoch is a permutation of all rows drawn from (seed, epoch). Every batch is full: the one that meets the end
    of an epoch is filled from the next. Two sources with the same arguments and state give the same batches, bit for
    bit.

    Args:
        store: activations of one site.
        unit: a row is a ``turn`` (its mean) or a stored ``token``.
        split: ``train``, ``explain`` or ``eval``; ``locked`` turns are kept for audits and refused.
        batch_size: rows in a batch.
        seed: of the shuffle.

    Raises:
        ConfigError: a locked or unknown split, or an empty batch.
        DataError: no rows of that unit and split.
    """

    def __init__(
        self,
        store: ActivationStore,
        unit: Literal["turn", "token"] = "turn",
        split: Split = "train",
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if split not in ("train", "explain", "eval"):
            raise ConfigError(
                f"split {split!r} may not be trained on",
                fix="use train, explain or eval",
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", fix="use 1 or more")
        self._store, self._unit, self._batch_size, self._seed = (
            store,
            unit,
            batch_size,
            seed,
        )
        splits = np.asarray(store.turns.column("split").to_pylist(), dtype=object)
        turns = np.flatnonzero(splits == split)
        if unit == "turn":
            self._first, sizes = turns, np.ones(len(turns), np.int64)
        else:
            self._first = store.token_offsets[turns]
            sizes = store.token_offsets[turns + 1] - self._first
        # Rows of the split are numbered 0 to n_rows; a run of them starts at each turn. Runs, because a list of all
        # token rows would be as long as the store.
        self._ends = np.cumsum(sizes)
        self._sizes = sizes
        self.n_rows = int(self._ends[-1]) if len(sizes) else 0
        if not self.n_rows:
            fix = (
                "harvest with tokens=all or a number"
                if unit == "token" and not store.n_tokens_stored
                else "import more data"
            )
            raise DataError(
                f"no {unit}s of split {split!r} in the store",
                where=str(store.artifact.path),
                fix=fix,
            )
        self.d_model = store.d_model
        self.fingerprint = fingerprint({"activations": store.fingerprint, "unit": unit, "split": split})
        self._epoch, self._position = 0, 0

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self.n_rows)

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        run = np.searchsorted(self._ends, numbers, side="right")
        rows = self._first[run] + numbers - (self._ends[run] - self._sizes[run])
        return self._store.mean_ND(rows) if self._unit == "turn" else self._store.tokens_TD(rows)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Batches without end, from the current state on; each (B, D) float32 and owned by the caller."""
        epoch, order = self._epoch, self._permutation(self._epoch)
        while True:
            if epoch != self._epoch:
                epoch, order = self._epoch, self._permutation(self._epoch)
            picked = order[self._position : self._position + self._batch_size]
            self._position += len(picked)
            while len(picked) < self._batch_size:
                self._epoch, self._position = (
                    self._epoch + 1,
                    self._batch_size - len(picked),
                )
                epoch, order = self._epoch, self._permutation(self._epoch)
                picked = np.concatenate([picked, order[: self._position]])
                self._position = min(self._position, self.n_rows)
            yield self._read(picked)

    def state_dict(self) -> dict[str, Any]:
        """Where the source stands, as plain JSON values: after the last batch that was taken."""
        return {
            "source": self.fingerprint,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "epoch": self._epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved state; batches taken from now on follow it.

        Raises IntegrityError if the state belongs to other rows, another seed or another batch size.
        """
        mine = self.state_dict()
        for name in ("source", "seed", "batch_size"):
            if state[name] != mine[name]:
                raise IntegrityError(
                    f"the saved state is of another source: {name} was {state[name]}, is {mine[name]}",
                    fix="resume with the settings of the first run",
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
