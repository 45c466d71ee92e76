"""Activations as a trainer sees them: endless shuffled batches of rows that can stop and go on at any batch.

Shapes: B batch, D model width, M rows of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError, IntegrityError, fingerprint
from turnscope.harvest.ahead import ahead
from turnscope.harvest.shards import Ints
from turnscope.harvest.shuffle import Chunk, Shuffle
from turnscope.harvest.store import ActivationStore, Unit

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


def permuted(n_rows: int, batch_size: int, seed: int, position: int) -> Iterator[tuple[int, Ints]]:
    """Endless full batches of row numbers from a position on, each epoch permuted by (seed, epoch); with each batch the
    position after it. A position counts rows served.
    """
    epoch, order = -1, np.zeros(0, np.int64)
    while True:
        start, position = position, position + batch_size
        picked = list[Ints]()
        while start < position:
            if start // n_rows != epoch:
                epoch = start // n_rows
                order = np.random.default_rng([seed, epoch]).permutation(n_rows)
            offset = start - epoch * n_rows
            picked.append(order[offset : offset + position - start])
            start += len(picked[-1])
        yield position, np.concatenate(picked)


class _Loaded(NamedTuple):
    """A chunk in memory: ``order`` says in which order its rows are still to be served, ``start`` how many rows the
    epoch served before the first of them.
    """

    epoch: int
    start: int
    rows_MD: NDArray[Any]
    order: Ints


class _Batch(NamedTuple):
    """A batch, and where its source stands once it is taken."""

    epoch: int
    position: int
    rows_BD: NDArray[np.float32]


_Part = tuple[NDArray[Any], Ints]
"""Rows in memory, and those of them that a batch takes, in order."""


class StoreSource:
    """The rows of one split of a store: turn means, or single tokens.

    Each epoch is an order of all rows drawn from (seed, epoch): a permutation where the rows fit into memory, else
    blocks of them mixed (see :mod:`turnscope.harvest.shuffle`). Every batch is full: the one that meets the end of an
    epoch is filled from the next. Two sources with the same arguments and state give the same batches, bit for bit.

    Args:
        store: activations of one site.
        unit: a row is a ``turn`` (its mean) or a stored ``token``.
        split: ``train``, ``explain`` or ``eval``; ``locked`` turns are kept for audits and refused.
        batch_size: rows in a batch.
        seed: of the shuffle.
        memory: bytes that rows are held in while batches are drawn, in the type in which they are stored.

    Raises:
        ConfigError: a locked or unknown split, or an empty batch.
        DataError: no rows of that unit and split.
    """

    def __init__(
        self,
        store: ActivationStore,
        unit: Unit = "turn",
        split: Split = "train",
        batch_size: int = 256,
        seed: int = 0,
        memory: int = 1 << 30,
    ) -> None:
        if split not in ("train", "explain", "eval"):
            raise ConfigError(f"split {split!r} may not be trained on", fix="use train, explain or eval")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", fix="use 1 or more")
        self._batch_size, self._seed = batch_size, seed
        # Rows of the split are numbered 0 to n_rows, run after run; a list of them would be as long as the store.
        self._firsts, sizes = store.runs(unit, split)
        self._ends = np.cumsum(sizes)
        self.n_rows = int(sizes.sum())
        if not self.n_rows:
            no_tokens = unit == "token" and not store.n_tokens_stored
            raise DataError(
                f"no {unit}s of split {split!r} in the store",
                where=str(store.artifact.path),
                fix="harvest with tokens=all or a number" if no_tokens else "import more data",
            )
        self._raw = store.raw(unit)
        self._shuffle = Shuffle.within(memory, self.n_rows, self._raw.row_bytes)
        self.d_model = store.d_model
        self.fingerprint = fingerprint({"activations": store.fingerprint, "unit": unit, "split": split})
        self._epoch, self._position = 0, 0

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Batches without end, from the current state on; each (B, D) float32 and owned by the caller.

        The next batch is gathered in a thread while the present one is used, the next chunk of rows read in another.
        """
        for batch in ahead(self._gathers()):
            self._epoch, self._position = batch.epoch, batch.position
            yield batch.rows_BD

    def _gathers(self) -> Iterator[Callable[[], _Batch]]:
        """One job for each batch, from the current state on."""
        parts, wanted = list[_Part](), self._batch_size
        for chunk in ahead(self._loads()):
            served = 0
            while served < len(chunk.order):
                picked = chunk.order[served : served + wanted]
                served, wanted = served + len(picked), wanted - len(picked)
                parts.append((chunk.rows_MD, picked))
                if not wanted:
                    yield functools.partial(self._gather, parts, chunk.epoch, chunk.start + served)
                    parts, wanted = list[_Part](), self._batch_size

    def _gather(self, parts: list[_Part], epoch: int, position: int) -> _Batch:
        rows_BD, filled = np.empty((self._batch_size, self.d_model), np.float32), 0
        for rows_MD, picked in parts:
            self._raw.pick(rows_MD, picked, rows_BD[filled : filled + len(picked)])
            filled += len(picked)
        return _Batch(epoch, position, rows_BD)

    def _loads(self) -> Iterator[Callable[[], _Loaded]]:
        """One job for each chunk, from the current state on."""
        everything = functools.cache(lambda: self._read(np.arange(self.n_rows)))
        epoch, position = self._epoch, self._position
        while True:
            for chunk in self._shuffle.chunks(self._seed, epoch, position):
                read = everything if self._shuffle.n_chunks == 1 else functools.partial(self._read, chunk.rows_M)
                yield functools.partial(self._load, epoch, chunk, max(0, position - chunk.start), read)
            epoch, position = epoch + 1, 0

    def _load(self, epoch: int, chunk: Chunk, skip: int, read: Callable[[], NDArray[Any]]) -> _Loaded:
        order = self._shuffle.order(self._seed, epoch, chunk)
        return _Loaded(epoch, chunk.start + skip, read(), order[skip:])

    def _read(self, numbers: Ints) -> NDArray[Any]:
        run = np.searchsorted(self._ends, numbers, side="right")
        begins = np.append(0, self._ends[:-1])
        return self._raw.read(self._firsts[run] + numbers - begins[run])

    def state_dict(self) -> dict[str, Any]:
        """Where the source stands, as plain JSON values: after the last batch that was taken."""
        return {
            "source": self.fingerprint,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "shuffle": str(self._shuffle),
            "epoch": self._epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved state; the next call of :meth:`batches` follows it.

        Raises IntegrityError if the state belongs to other rows, another seed, batch size or way of shuffling.
        """
        mine = self.state_dict()
        for name in ("source", "seed", "batch_size", "shuffle"):
            if state[name] != mine[name]:
                raise IntegrityError(
                    f"the saved state is of another source: {name} was {state[name]}, is {mine[name]}",
                    fix="resume with the settings of the first run",
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
