"""Turns of two indexes under one dictionary as if they were one: those of the file first. No torch.

Legend: N turns of both, E entries, F features.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from turnscope.features.store import FeatureIndex

Ints = NDArray[np.int64]
_COLUMNS = (
    "conversation_id", "turn", "role", "group", "n_tokens", "language", "script", "source", "text_hash", "labels",
)  # fmt: skip


class Together:
    """Answers what `separation.separate` asks of an index; held in memory, so give it a drawn part of a large one.

    Args:
        file: the index of the turns that are audited; all of them.
        baseline: the index that they are held against.
        rows: rows of the baseline that count.
    """

    def __init__(self, file: FeatureIndex, baseline: FeatureIndex, rows: Ints) -> None:
        self.file, self.baseline, self.rows = file, baseline, rows
        self.n_file, self.n_features = file.n_turns, file.n_features
        self.n_turns = file.n_turns + len(rows)
        parts = [file.turn_codes(np.arange(file.n_turns)), baseline.turn_codes(rows)]
        ptr = np.concatenate([parts[0][0], parts[1][0][1:] + parts[0][0][-1]])
        features_E = np.concatenate([part[1] for part in parts]).astype(np.int32)
        values_E = np.concatenate([part[2] for part in parts])
        self.codes_NF: Any = sparse.csr_array((values_E, features_E, ptr), shape=(self.n_turns, self.n_features))
        names = [n for n in _COLUMNS if n in file.turns.column_names and n in baseline.turns.column_names]
        kept = baseline.turns.select(names).take(pa.array(rows))
        self.turns = pa.concat_tables([file.turns.select(names), kept], promote_options="permissive")

    @cached_property
    def _by_feature(self) -> Any:
        return self.codes_NF.tocsc()

    def array(self, name: str) -> NDArray[Any]:
        """Postings by the names that they have in an index."""
        direction, _, part = name.partition(".")
        codes = self.codes_NF if direction == "by_turn" else self._by_feature
        return {"ptr": codes.indptr, "values": codes.data}.get(part, codes.indices)

    def turn_codes(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """Features of many turns as (ptr, features, values)."""
        picked = self.codes_NF[rows]
        return picked.indptr.astype(np.int64), picked.indices.astype(np.int64), picked.data

    def values(self, feature: int) -> NDArray[np.float32]:
        """(N,) of one feature, 0 where it is silent."""
        start, end = self._by_feature.indptr[feature : feature + 2]
        out = np.zeros(self.n_turns, np.float32)
        out[self._by_feature.indices[start:end]] = self._by_feature.data[start:end]
        return out

    @cached_property
    def roles(self) -> NDArray[Any]:
        """Role of each turn."""
        return np.asarray(self.turns["role"].to_pylist(), object)

    @cached_property
    def is_file_N(self) -> NDArray[np.bool_]:
        """Turns of the file."""
        return np.arange(self.n_turns) < self.n_file


def drawn(index: FeatureIndex, rows: Ints, most: int, seed: int) -> Ints:
    """Of these rows whole conversations, drawn at random, of at most so many turns together; one at least."""
    if len(rows) <= most:
        return rows
    names = index.turns["group" if "group" in index.turns.column_names else "conversation_id"].take(pa.array(rows))
    number_N = np.unique(np.asarray(names.to_pylist(), str), return_inverse=True)[1]
    sizes = np.bincount(number_N)
    order = np.random.default_rng(seed).permutation(len(sizes))
    fit = max(1, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))
    kept = np.zeros(len(sizes), np.bool_)
    kept[order[:fit]] = True
    return rows[kept[number_N]]
