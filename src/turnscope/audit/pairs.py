"""The same turns read by two models under one dictionary: block after block into `.work/pairs/`, gone on after a kill.

Legend: N turns of a block, D width, E entries, P pairs of turns in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from turnscope.artifacts import DataError, IntegrityError, atomic_path, progress
from turnscope.audit.changes import Pairs
from turnscope.harvest.store import ActivationStore

if TYPE_CHECKING:
    from turnscope.sae import SparseAutoencoder

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Matched(NamedTuple):
    """The turns that both stores have, conversation after conversation: their rows, the number of their conversation
    (duplicates of a conversation have one number), and how many have no partner.
    """

    before_P: Ints
    after_P: Ints
    conversation_P: Ints
    alone_before: int
    alone_after: int


def match(before: ActivationStore, after: ActivationStore, splits: tuple[str, ...]) -> Matched:
    """Pair the turns of some splits. DataError when there are none, IntegrityError when a turn has other tokens."""
    tables = [store.table(["conversation_id", "turn", "split", "group", "n_tokens"]) for store in (before, after)]
    rows = [_of_splits(table, splits) for table in tables]
    tables = [table.take(pa.array(own)) for table, own in zip(tables, rows, strict=True)]
    ids = pa.chunked_array([c for table in tables for c in table["conversation_id"].chunks], pa.string())
    number = ids.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    turn = np.concatenate([table["turn"].to_numpy() for table in tables]).astype(np.int64)
    keys = number * (int(turn.max(initial=0)) + 1) + turn
    cut = len(rows[0])
    _, at_before, at_after = np.intersect1d(keys[:cut], keys[cut:], assume_unique=True, return_indices=True)
    if not len(at_before):
        raise DataError(f"the two have no turns of the splits {', '.join(splits)} in common")
    lengths = [table["n_tokens"].to_numpy() for table in tables]
    other = int((lengths[0][at_before] != lengths[1][at_after]).sum())
    if other:
        raise IntegrityError(f"{other:,} turns have other tokens in the second: the two were not rendered alike")
    group = tables[0]["group"].combine_chunks().dictionary_encode().indices.to_numpy()[at_before]
    order = np.argsort(group, kind="stable")
    return Matched(
        rows[0][at_before[order]], rows[1][at_after[order]], np.unique(group[order], return_inverse=True)[1],
        cut - len(at_before), len(rows[1]) - len(at_after),
    )  # fmt: skip


def _of_splits(table: pa.Table, splits: tuple[str, ...]) -> Ints:
    mask = pc.call_function("is_in", [table["split"]], pc.SetLookupOptions(pa.array(splits)))
    return np.flatnonzero(mask.to_numpy()).astype(np.int64)


class Fit(NamedTuple):
    """How well the dictionary rebuilds each turn of a block (N,), and the sums behind the figures over all turns."""

    before_N: Floats
    after_N: Floats
    error_before: float
    error_after: float
    total_before: float
    total_after: float


class Reading:
    """Both stores read through a dictionary, in blocks of whole conversations; what was read lies in a folder."""

    def __init__(
        self, before: ActivationStore, after: ActivationStore, sae: SparseAutoencoder, matched: Matched, work: Path,
        block_turns: int,
    ) -> None:  # fmt: skip
        self._stores, self._sae, self._matched = (before, after), sae, matched
        self._work, self._blocks = work, _blocks(matched.conversation_P, block_turns)

    def make(self) -> None:
        """Read what is not read yet. Raises DataError for activations that are not finite, StorageError."""
        self._work.mkdir(parents=True, exist_ok=True)
        missing = [(i, *block) for i, block in enumerate(self._blocks) if not self._piece(i).exists()]
        if not missing:
            return
        centres = self._centres()
        with progress("comparing", len(self._matched.before_P), "turns") as bar:
            for number, start, end in missing:
                arrays = self._read(start, end, centres)
                with atomic_path(self._piece(number)) as temp, temp.open("wb") as file:
                    np.savez(file, **cast(Any, arrays))
                bar.advance(end - start)

    def blocks(self) -> Iterator[tuple[Pairs, Fit]]:
        """What was read, in order."""
        for number, (start, end) in enumerate(self._blocks):
            with np.load(self._piece(number), allow_pickle=False) as piece:
                pairs = Pairs(
                    np.arange(start, end), self._matched.conversation_P[start:end],
                    piece["rows"].astype(np.int64), piece["features"].astype(np.int64),
                    piece["before"].astype(np.float64), piece["after"].astype(np.float64),
                )  # fmt: skip
                sums = [float(value) for value in piece["sums"]]
                yield pairs, Fit(piece["fit_before"], piece["fit_after"], *sums)

    def _piece(self, number: int) -> Path:
        return self._work / f"{number:06d}.npz"

    def _rows(self, start: int, end: int) -> tuple[Ints, Ints]:
        return self._matched.before_P[start:end], self._matched.after_P[start:end]

    def _centres(self) -> list[Floats]:
        """Mean turn of each model over the pairs: the variance is about it."""
        sums = [np.zeros(store.d_model) for store in self._stores]
        for start, end in self._blocks:
            for total, store, rows in zip(sums, self._stores, self._rows(start, end), strict=True):
                total += store.mean_ND(rows).sum(axis=0, dtype=np.float64)
        return [total / len(self._matched.before_P) for total in sums]

    def _read(self, start: int, end: int, centres: list[Floats]) -> dict[str, NDArray[Any]]:
        codes: list[tuple[Ints, NDArray[np.float32]]] = []
        fits, errors, totals = list[Floats](), list[float](), list[float]()
        for store, rows, centre_D in zip(self._stores, self._rows(start, end), centres, strict=True):
            x_ND = store.mean_ND(rows)
            own = self._sae.encode(x_ND)
            off_N = ((x_ND - self._sae.decode(own).numpy()).astype(np.float64) ** 2).sum(axis=1)
            all_N = ((x_ND - centre_D) ** 2).sum(axis=1)
            fits.append(1 - off_N / np.maximum(all_N, np.finfo(np.float64).tiny))
            errors.append(float(off_N.sum()))
            totals.append(float(all_N.sum()))
            keys_E = own.rows_E().numpy() * self._sae.config.n_features + own.indices_E.numpy().astype(np.int64)
            codes.append((keys_E, own.values_E.numpy()))
        keys = np.unique(np.concatenate([codes[0][0], codes[1][0]]))
        values = np.zeros((2, len(keys)), np.float32)
        for side, (own_keys, own_values) in enumerate(codes):
            values[side, np.searchsorted(keys, own_keys)] = own_values
        rows, features = np.divmod(keys, self._sae.config.n_features)
        return {
            "rows": rows.astype(np.int32), "features": features.astype(np.int32),
            "before": values[0], "after": values[1], "fit_before": fits[0], "fit_after": fits[1],
            "sums": np.array([*errors, *totals]),
        }  # fmt: skip


def _blocks(conversation_P: Ints, size: int) -> list[tuple[int, int]]:
    """Cuts at beginnings of conversations, so many turns or more apart."""
    firsts = np.flatnonzero(np.diff(conversation_P, prepend=-1))
    out, start = list[tuple[int, int]](), 0
    for first in firsts.tolist():
        if first - start >= size:
            out.append((start, first))
            start = first
    return [*out, (start, len(conversation_P))]
