"""Where training's rows come from: a harvested store, or a source object handed over.

Legend: N rows, B batch, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import Config, DataError, IntegrityError, fingerprint
from turnscope.harvest.source import ActivationSource, Split, StoreSource, permuted
from turnscope.harvest.store import open_activations
from turnscope.harvest.turn_tokens import TurnTokenSource
from turnscope.training.config import TrainConfig
from turnscope.training.defaults import MIN_ROWS, resolve_defaults


class Origin(Config):
    """Where activations were read; goes into `sae.json` so that a dictionary is not applied elsewhere unawares."""

    site: str = ""
    roles: tuple[str, ...] = ()
    span_policy: str = ""
    token_set: str = ""
    subject: str = ""
    subject_fingerprint: str = ""


class ArraySource:
    """Rows of an array in memory, as an ActivationSource: shuffled anew each epoch by (seed, epoch), every batch full.

    Args:
        x_ND: rows of any float dtype; kept as float32.
        batch_size: rows in a batch.
        seed: of the shuffle.
    """

    def __init__(self, x_ND: NDArray[np.floating[Any]], batch_size: int = 256, seed: int = 0) -> None:
        self._x_ND = np.ascontiguousarray(x_ND, dtype=np.float32)
        self.n_rows, self.d_model = self._x_ND.shape
        self._batch_size, self._seed, self._position = batch_size, seed, 0
        self.fingerprint = fingerprint(
            {"rows": sha256(self._x_ND.data).hexdigest(), "shape": list(self._x_ND.shape)},
        )

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Endless batches (B, D), from the current position on."""
        for position, rows in permuted(self.n_rows, self._batch_size, self._seed, self._position):
            self._position = position
            yield self._x_ND[rows]

    def state_dict(self) -> dict[str, Any]:
        """Rows given out so far, and of which source."""
        return {"source": self.fingerprint, "seed": self._seed, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved state. IntegrityError when it is of other rows or another seed."""
        if (state["source"], state["seed"]) != (self.fingerprint, self._seed):
            raise IntegrityError("the saved state is of another source", fix="resume with the rows of the first run")
        self._position = int(state["position"])


Source = ActivationSource | TurnTokenSource


def open_source(path: Path, config: TrainConfig) -> tuple[Source, Source | None, Origin]:
    """Training rows (split `train`) and held rows (split `explain`) of a store, and what its manifest says of them.

    Errors of the store pass through: StorageError, IntegrityError, DataError when there are no rows of the unit.
    """
    store = open_activations(path)
    seed = config.seed if config.shuffle_seed is None else config.shuffle_seed

    def rows(split: Split, batch_size: int) -> Source:
        if config.unit == "nested":
            return TurnTokenSource(store, split, batch_size, seed)
        return StoreSource(
            store, unit=config.unit, split=split, batch_size=batch_size, seed=seed, memory=config.shuffle_memory
        )

    n_rows = rows("train", 1).n_rows
    source = rows("train", resolve_defaults(config, n_rows, store.d_model).batch_size)
    try:
        held = rows("explain", 64 if config.unit == "nested" else 4096)
    except DataError:
        held = None
    recorded, inputs = store.artifact.manifest.config, store.artifact.manifest.inputs
    return (
        source,
        held,
        Origin(
            site=recorded.get("site", ""),
            roles=tuple(recorded.get("roles", ())),
            span_policy=recorded.get("span_policy", ""),
            token_set=recorded.get("token_set", ""),
            subject=recorded.get("model", ""),
            subject_fingerprint=inputs.get("model", ""),
        ),
    )


class Once:
    """A source while several jobs start: what one has read, or worked out of it, the next ones get from memory."""

    def __init__(self, source: Source) -> None:
        self._read, self._more = list[Any](), iter(cast("Any", source.batches()))
        self._known = dict[str, Any]()
        self.n_rows, self.d_model = source.n_rows, source.d_model

    def batches(self) -> Iterator[Any]:
        """From the first batch on, whoever asks."""
        for number in itertools.count():
            if number == len(self._read):
                self._read.append(next(self._more))
            yield self._read[number]

    def remember(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gave the first time."""
        if name not in self._known:
            self._known[name] = work()
        return self._known[name]

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember: every reader starts at the beginning."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go back to."""


def held_source(held: Source | None) -> tuple[Source | None, list[str]]:
    """The held rows if there are enough of them to set a threshold on, and a note when there are not."""
    if held is not None and held.n_rows >= MIN_ROWS:
        return held, []
    count = held.n_rows if held is not None else 0
    return None, [f"{count} held-out rows are too few: threshold and final figures come from training rows"]


def take(source: ActivationSource, n_rows: int) -> Tensor:
    """Up to `n_rows` of the source's rows (N, D), none twice, leaving the source where it was."""
    state, wanted = source.state_dict(), min(n_rows, source.n_rows)
    parts, taken = list[Tensor](), 0
    for batch_BD in source.batches():
        parts.append(torch.tensor(batch_BD[: wanted - taken], dtype=torch.float32))
        taken += len(parts[-1])
        if taken >= wanted:
            break
    source.load_state_dict(state)
    return torch.cat(parts)
