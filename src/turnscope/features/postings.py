"""From activations to postings in both directions, in bounded memory, going on after a kill.

1. Blocks of turns are encoded; each is written to `.work/pieces/` and is there or not (what a kill costs is one block).
2. Pieces are joined into turn -> features (and token -> features).
3. An external counting sort turns them round into feature -> turns (and feature -> tokens).

Legend: N indexed turns, T their stored tokens, D width, E entries, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import Draft, IntegrityError, atomic_path, progress
from turnscope.features.arrays import Column, gather, map_array, write_arrays
from turnscope.features.config import IndexConfig
from turnscope.features.sorting import Entries, Group, sort_by_feature
from turnscope.harvest.store import ActivationStore
from turnscope.harvest.turn_tokens import spread

if TYPE_CHECKING:
    from turnscope.features.encode import Block, Csr, Dictionary

Ints = NDArray[np.int64]
_NORM_SAMPLE = 4096
_CHUNK = 1 << 20


class Counts(NamedTuple):
    """What the pieces come to."""

    turns_F: Ints
    tokens_F: Ints
    n_tokens: int
    n_sinks: int


class Postings:
    """The making of one index's postings.

    Args:
        draft: the index.
        config: its settings.
        store: the activations.
        dictionary: what encodes them.
        rows_N: rows of the activations that are indexed, ascending.
    """

    def __init__(
        self, draft: Draft, config: IndexConfig, store: ActivationStore, dictionary: Dictionary, rows_N: Ints
    ) -> None:
        self._folder, self._work, self._config = draft.path, draft.work, config
        self._store, self._dictionary, self._rows_N = store, dictionary, rows_N
        self._with_tokens = dictionary.unit == "token"
        if self._with_tokens:
            offsets = store.token_offsets
            self._firsts_N, self._sizes_N = offsets[rows_N], offsets[rows_N + 1] - offsets[rows_N]
        else:
            self._firsts_N = self._sizes_N = np.zeros(len(rows_N), np.int64)

    def make_pieces(self) -> None:
        """Encode what is not encoded yet. Raises DataError for activations that are not finite, StorageError."""
        blocks = list(plan_blocks(self._sizes_N, self._config.block_turns, self._config.block_tokens))
        with progress("indexing", len(self._rows_N), "turns") as bar:
            for number, (start, end) in enumerate(blocks):
                path = self._piece(number)
                if not path.exists():
                    _write_piece(path, self._encode(start, end), *self._token_facts(start, end))
                bar.advance(end - start)
        self._n_pieces = len(blocks)

    def join(self) -> Counts:
        """Write turn -> features, and for token dictionaries token -> features and the table of tokens."""
        n, n_features = len(self._rows_N), self._dictionary.n_features
        entries, token_entries, sinks = 0, 0, 0
        for piece in self._pieces():
            entries += len(piece["turn_values"])
            token_entries += len(piece["token_values"])
            sinks += int(piece["sinks"][0])
        columns = _csr_columns("by_turn", n, entries)
        n_tokens = int(self._sizes_N.sum())
        if self._with_tokens:
            columns |= _csr_columns("tokens.by_token", n_tokens, token_entries)
            columns |= {
                "tokens.ptr": Column(np.int64, n + 1),
                "tokens.ids": Column(np.int32, n_tokens),
                "tokens.positions": Column(np.int32, n_tokens),
            }
        turns_F, tokens_F = np.zeros(n_features, np.int64), np.zeros(n_features, np.int64)
        with write_arrays(self._folder, columns) as files:
            ends = {"by_turn": 0, "tokens.by_token": 0}
            for name in [name for name in columns if name.endswith("ptr")]:
                files[name].append(np.zeros(1, np.int64))
            if self._with_tokens:
                files["tokens.ptr"].append(np.cumsum(self._sizes_N))
            for piece in self._pieces():
                for prefix, kind in (("by_turn", "turn"), ("tokens.by_token", "token")):
                    if kind == "token" and not self._with_tokens:
                        continue
                    files[f"{prefix}.ptr"].append(np.cumsum(piece[f"{kind}_counts"]) + ends[prefix])
                    files[f"{prefix}.features"].append(piece[f"{kind}_features"])
                    files[f"{prefix}.values"].append(piece[f"{kind}_values"])
                    ends[prefix] += len(piece[f"{kind}_values"])
                turns_F += np.bincount(piece["turn_features"], minlength=n_features)
                tokens_F += np.bincount(piece["token_features"], minlength=n_features)
                if self._with_tokens:
                    files["tokens.ids"].append(piece["ids"])
                    files["tokens.positions"].append(piece["positions"])
        return Counts(turns_F, tokens_F, n_tokens, sinks)

    def turn_round(self, counts: Counts) -> Iterator[Group]:
        """Write feature -> turns, and hand on each group of features while it is in memory."""
        yield from self._sort("by_turn", "by_feature", "rows", counts.turns_F, np.int32)

    def turn_tokens_round(self, counts: Counts) -> Iterator[Group]:
        """Write feature -> tokens, and hand on each group of features; none of a turn dictionary."""
        if self._with_tokens:
            place = np.int32 if counts.n_tokens < 1 << 31 else np.int64
            yield from self._sort("tokens.by_token", "tokens.by_feature", "places", counts.tokens_F, place)

    def _sort(self, source: str, target: str, places: str, counts_F: Ints, place: type) -> Iterator[Group]:
        total = int(counts_F.sum())
        columns = {
            f"{target}.ptr": Column(np.int64, len(counts_F) + 1),
            f"{target}.{places}": Column(place, total),
            f"{target}.values": Column(np.float32, total),
        }
        with write_arrays(self._folder, columns) as files:
            files[f"{target}.ptr"].append(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_F)]))
            most = self._config.memory_entries
            entries = _entries(self._folder, source)
            for group in sort_by_feature(entries, counts_F, self._work / "spill", most, place):
                files[f"{target}.{places}"].append(group.places_E)
                files[f"{target}.values"].append(group.values_E)
                yield group

    def _encode(self, start: int, end: int) -> Block:
        mean_ND = self._store.mean_ND(self._rows_N[start:end])
        lengths_N = self._sizes_N[start:end]
        if not self._with_tokens:
            return self._dictionary.encode(mean_ND, None, lengths_N, None)
        rows_T = self._token_rows(start, end)
        tokens_TD = self._store.tokens_TD(rows_T)
        keep_T = np.linalg.norm(tokens_TD, axis=1) <= self.most_norm
        keep_T &= self._store.token_positions_T(rows_T) > 0
        return self._dictionary.encode(mean_ND, tokens_TD, lengths_N, keep_T, self._config.pool)

    def _token_facts(self, start: int, end: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        if not self._with_tokens:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        rows_T = self._token_rows(start, end)
        return self._store.token_ids_T(rows_T), self._store.token_positions_T(rows_T)

    def _token_rows(self, start: int, end: int) -> Ints:
        return spread(self._firsts_N, self._sizes_N, np.arange(start, end))

    @property
    def most_norm(self) -> float:
        """Norm above which a token is an attention sink."""
        if not hasattr(self, "_norm"):
            self._norm = sink_norm(self._store, self._firsts_N, self._sizes_N, self._config.outlier_norm)
        return self._norm

    def _piece(self, number: int) -> Path:
        return self._work / "pieces" / f"{number:06d}.npz"

    def _pieces(self) -> Iterator[dict[str, NDArray[Any]]]:
        for number in range(self._n_pieces):
            path = self._piece(number)
            try:
                with np.load(path, allow_pickle=False) as file:
                    yield dict(file)
            except (OSError, ValueError, KeyError) as error:
                raise IntegrityError(
                    f"a piece of the half-made index is damaged: {error}", where=str(path), fix="delete this file"
                ) from error


class Written:
    """Postings of an index that is still being made, read as those of a finished one."""

    def __init__(self, folder: Path, n_turns: int, n_features: int) -> None:
        self._arrays = {path.name[:-4]: map_array(path) for path in folder.glob("by_*.npy")}
        self.n_turns, self.n_features = n_turns, n_features

    def turn_codes(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """As `FeatureIndex.turn_codes`."""
        return gather(self._arrays, "by_turn", "features", rows)

    def feature_turns(self, feature: int) -> tuple[Ints, NDArray[np.float32]]:
        """As `FeatureIndex.feature_turns`."""
        _, rows, values = gather(self._arrays, "by_feature", "rows", np.array([feature]))
        return rows, values


def sink_norm(store: ActivationStore, firsts_N: Ints, sizes_N: Ints, times: float) -> float:
    """So many times the median norm of tokens spread over the indexed turns; 0 without tokens."""
    n = int(sizes_N.sum())
    ends = np.cumsum(sizes_N)
    picked = np.unique(np.linspace(0, max(0, n - 1), min(n, _NORM_SAMPLE)).astype(np.int64))
    turns = np.searchsorted(ends, picked, side="right")
    norms = np.linalg.norm(store.tokens_TD(firsts_N[turns] + picked - (ends - sizes_N)[turns]), axis=1)
    return float(times * np.median(norms)) if len(norms) else 0.0


def plan_blocks(sizes_N: Ints, most_turns: int, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive turns of at most so many turns and tokens, at least one turn."""
    ends, start = np.concatenate([[0], np.cumsum(sizes_N)]), 0
    while start < len(sizes_N):
        fit = int(np.searchsorted(ends, ends[start] + most_tokens, side="right")) - 1
        end = min(start + most_turns, max(start + 1, fit), len(sizes_N))
        yield start, end
        start = end


def _csr_columns(prefix: str, n_rows: int, n_entries: int) -> dict[str, Column]:
    return {
        f"{prefix}.ptr": Column(np.int64, n_rows + 1),
        f"{prefix}.features": Column(np.int32, n_entries),
        f"{prefix}.values": Column(np.float32, n_entries),
    }


def _entries(folder: Path, prefix: str) -> Iterator[Entries]:
    """(row, feature, value) of postings that lie row after row, a chunk at a time."""
    ptr = map_array(folder / f"{prefix}.ptr.npy")
    n_entries = int(ptr[-1])
    for start in range(0, n_entries, _CHUNK):
        end = min(start + _CHUNK, n_entries)
        # mapped anew for each chunk: pages of a map that stays would count as memory until the system wants them back
        features, values = (map_array(folder / f"{prefix}.{name}.npy") for name in ("features", "values"))
        first = int(np.searchsorted(ptr, start, side="right")) - 1
        last = int(np.searchsorted(ptr, end, side="left"))
        counts = np.diff(np.clip(ptr[first : last + 1], start, end))
        yield np.repeat(np.arange(first, last), counts), np.array(features[start:end]), np.array(values[start:end])


def _write_piece(path: Path, block: Block, ids_T: NDArray[np.int32], positions_T: NDArray[np.int32]) -> None:
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    arrays: dict[str, NDArray[Any]] = {"ids": ids_T, "positions": positions_T, "sinks": np.array([block.n_sinks])}
    for kind, csr in (("turn", block.turns), ("token", block.tokens)):
        parts: tuple[NDArray[Any], ...] = nothing if csr is None else _parts(csr)
        arrays |= dict(zip((f"{kind}_counts", f"{kind}_features", f"{kind}_values"), parts, strict=True))
    with atomic_path(path) as temp, temp.open("wb") as file:
        cast(Any, np).savez(file, **arrays)


def _parts(csr: Csr) -> tuple[NDArray[Any], ...]:
    return csr.counts, csr.features_E, csr.values_E
