"""What each feature does on the indexed turns, from its postings, a group of features at a time.

Legend: N turns, E entries, G features of a group, B bins.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.features.sorting import Group

Ints = NDArray[np.int64]
_POSITIONS = (0, 1, 2, 3, 4, 8, 16, 32, 64)
DECILES = tuple(round(i / 10, 1) for i in range(11))


class Category(NamedTuple):
    """A way to part the turns: the value of each (as a number), and the values' names."""

    by: str
    code_N: Ints
    names: list[str]


class Following(NamedTuple):
    """For each turn the row of another one that follows it in some sense, -1 where there is none."""

    next_N: Ints

    def rates(self, group: Group, n_turns: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Ints]:
        """(share of a feature's turns after which it fires again, the share expected by chance, turns that count).

        By chance: the share of all turns that follow a turn on which it fires.
        """
        local_E = group.local_E()
        next_E = self.next_N[group.places_E]
        n = len(group.ptr) - 1
        asked_G = np.bincount(local_E[next_E >= 0], minlength=n)
        keys_E = local_E * n_turns + group.places_E
        sought = (local_E * n_turns + next_E)[next_E >= 0]
        at = np.minimum(np.searchsorted(keys_E, sought), max(0, len(keys_E) - 1))
        again = keys_E[at] == sought if len(keys_E) else np.zeros(0, np.bool_)
        again_G = np.bincount(local_E[next_E >= 0][again], minlength=n)
        is_next_N = np.zeros(n_turns, np.bool_)
        is_next_N[self.next_N[self.next_N >= 0]] = True
        base_G = np.bincount(local_E[is_next_N[group.places_E]], minlength=n)
        return _share(again_G, asked_G), base_G / max(1, int(is_next_N.sum())), asked_G


def _share(some_G: Ints, all_G: Ints) -> NDArray[np.float64]:
    """Shares; NaN where there is nothing to take a share of."""
    return np.divide(some_G, all_G, out=np.full(len(all_G), np.nan), where=all_G > 0)


class Describer:
    """Rows of `features.parquet` and of `groups.parquet` for one group of features after another.

    Args:
        n_turns: indexed turns.
        bins: of the histograms.
        dense: density above which a feature is flagged.
        follow: named ways in which a turn follows another.
        categories: ways to part the turns.
    """

    def __init__(
        self, n_turns: int, bins: int, dense: float, follow: dict[str, Following], categories: list[Category]
    ) -> None:
        self._n, self._bins, self._dense, self.follow, self._categories = n_turns, bins, dense, follow, categories
        self.tables: list[pa.Table] = []
        self.parted: list[pa.Table] = []

    def add(self, group: Group) -> None:
        """Take in the next group."""
        n = len(group.ptr) - 1
        counts_G = np.diff(group.ptr)
        columns: dict[str, Any] = {
            "feature": np.arange(group.first, group.last, dtype=np.int32),
            "n_turns": counts_G,
            "density": counts_G / self._n,
            "dead": counts_G == 0,
            "dense": counts_G / self._n > self._dense,
        }
        columns |= _values(group, self._bins)
        for name, following in self.follow.items():
            rate_G, expected_G, asked_G = following.rates(group, self._n)
            columns |= {name: pa.array(rate_G, from_pandas=True), f"{name}_by_chance": expected_G}
            columns[f"{name}_turns"] = asked_G
        local_E = group.local_E()
        for category in self._categories:
            counts = self._part(group.first, n, local_E, group.places_E, category)
            if category.by == "position":
                information = mutual_information(counts, np.bincount(category.code_N, minlength=len(category.names)))
                columns["position_information"] = information
        self.tables.append(pa.table(columns))

    def features(self) -> pa.Table:
        """One row for each feature."""
        return pa.concat_tables(self.tables).combine_chunks()

    def groups(self) -> pa.Table:
        """Counts by role, split, language and script, where they are not zero."""
        keys = [("feature", "ascending"), ("by", "ascending"), ("value", "ascending")]
        return pa.concat_tables(self.parted).combine_chunks().sort_by(keys)

    def _part(self, first: int, n: int, local_E: Ints, rows_E: NDArray[Any], category: Category) -> Ints:
        width = len(category.names)
        counts = np.bincount(local_E * width + category.code_N[rows_E], minlength=n * width)
        some = np.flatnonzero(counts)
        features, values = np.divmod(some, width)
        totals = np.bincount(category.code_N, minlength=width)
        self.parted.append(
            pa.table(
                {
                    "feature": (features + first).astype(np.int32),
                    "by": pa.array([category.by] * len(some), pa.string()),
                    "value": pa.array([category.names[v] for v in values.tolist()], pa.string()),
                    "n_turns": counts[some],
                    "of": totals[values],
                    "density": counts[some] / totals[values],
                }
            )
        )
        return counts.reshape(n, width)


def mutual_information(fired_GC: Ints, all_C: Ints) -> NDArray[np.float64]:
    """Bits that knowing a turn's category tells of whether each feature fires, less what chance alone would show.

    The plug-in estimate over (fires or not) x (category), less Miller and Madow's bias, (C - 1) / (2 N ln 2).
    """
    n = all_C.sum()
    silent_GC = all_C - fired_GC
    bits = np.zeros(len(fired_GC))
    for part_GC in (fired_GC, silent_GC):
        p_GC = part_GC / n
        expected_GC = p_GC.sum(1, keepdims=True) * (all_C / n)
        ratio = np.divide(p_GC, expected_GC, out=np.ones_like(p_GC), where=p_GC > 0)
        bits += (p_GC * np.log2(ratio)).sum(1)
    bias = (np.count_nonzero(all_C) - 1) / (2 * n * np.log(2))
    return np.maximum(bits - bias, 0.0)


def _values(group: Group, bins: int) -> dict[str, Any]:
    """Exact quantiles of the values of each feature, and their histogram."""
    n = len(group.ptr) - 1
    local_E = group.local_E()
    sorted_E = _sorted_within(local_E, group.values_E)
    counts_G = np.diff(group.ptr)
    alive = np.flatnonzero(counts_G)
    last_G = np.zeros(n, np.float32)
    last_G[alive] = sorted_E[group.ptr[1:][alive] - 1]
    quantiles = {q: _quantile(sorted_E, group.ptr, alive, q) for q in sorted({*DECILES, 0.99})}
    slot_E = np.minimum((group.values_E / last_G[local_E] * bins).astype(np.int64), bins - 1)
    histogram = np.bincount(local_E * bins + slot_E, minlength=n * bins).reshape(n, bins)
    # summed in ascending order, so that the order of turns does not show in the last digit
    sums, squares = np.zeros(n), np.zeros(n)
    if len(alive):
        values = sorted_E.astype(np.float64)
        sums[alive] = np.add.reduceat(values, group.ptr[alive])
        squares[alive] = np.add.reduceat(values * values, group.ptr[alive])
    deciles = np.stack([quantiles[q] for q in DECILES], axis=1)
    return {
        "max": last_G,
        "mean": sums / np.maximum(counts_G, 1),
        "power": squares,
        "q50": quantiles[0.5],
        "q90": quantiles[0.9],
        "q99": quantiles[0.99],
        "deciles": pa.FixedSizeListArray.from_arrays(deciles.ravel(), len(DECILES)).cast(pa.list_(pa.float32())),
        "histogram": pa.FixedSizeListArray.from_arrays(histogram.ravel(), bins).cast(pa.list_(pa.int64())),
    }


def _sorted_within(local_E: Ints, values_E: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values in ascending order within each feature, features ascending.

    One sort of whole numbers, feature above, value below: several times as fast as sorting by two keys. The bits of
    floats are ordered as whole numbers once those of negative ones are turned over.
    """
    bits_E = (values_E + np.float32(0)).view(np.uint32)
    ordered_E = np.where(bits_E >> 31, ~bits_E, bits_E | np.uint32(1 << 31))
    low_E = np.sort((local_E << 32) | ordered_E).astype(np.uint32)  # the upper half is cut off
    return np.where(low_E >> 31, low_E & np.uint32((1 << 31) - 1), ~low_E).astype(np.uint32).view(np.float32)


def _quantile(sorted_E: NDArray[np.float32], ptr: Ints, alive: Ints, q: float) -> NDArray[np.float32]:
    """Linear between neighbours, as numpy's default; 0 for a feature that never fires."""
    out = np.zeros(len(ptr) - 1, np.float32)
    place = q * (ptr[alive + 1] - ptr[alive] - 1)  # within the feature: the same whatever lies before it
    part = place - np.floor(place)
    low = ptr[alive] + np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, ptr[alive + 1] - 1)
    out[alive] = sorted_E[low] * (1 - part) + sorted_E[high] * part
    return out


def categories(table: pa.Table, most: int = 50) -> list[Category]:
    """Roles, splits, languages, scripts, places in the conversation; beyond the `most` frequent values, "(other)"."""
    found: list[Category] = []
    for by in ("role", "split", "language", "script"):
        encoded = table[by].combine_chunks().dictionary_encode()
        order = np.argsort(np.asarray(encoded.dictionary.to_pylist(), str), kind="stable")
        names = np.asarray(encoded.dictionary.to_pylist(), str)[order]
        codes = np.argsort(order)[encoded.indices.to_numpy()]
        counts = np.bincount(codes)
        kept = np.sort(np.argsort(-counts, kind="stable")[:most])
        new = np.full(len(names), len(kept))
        new[kept] = np.arange(len(kept))
        rest = ["(other)"] if len(kept) < len(names) else []
        found.append(Category(by, new[codes], [*names[kept].tolist(), *rest]))
    turn_N = np.asarray(table["turn"].to_numpy(), np.int64)
    bucket_N = np.searchsorted(_POSITIONS, turn_N, side="right") - 1
    ends = [*(str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(_POSITIONS)), "64-"]
    return [*found, Category("position", bucket_N, ends)]
