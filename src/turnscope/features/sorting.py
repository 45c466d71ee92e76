"""External counting sort: entries that come row by row leave feature by feature, a group of features at a time.

Two passes over the disk and no more in memory than one group: entries are dealt into one file for each group of
features (the counts, known beforehand, say which groups fit), then each file is read and sorted, stably, by feature.
Inside a feature, rows stay ascending because they came so.

Legend: F features, E entries, G features of a group.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts.atomic import storage_error

Ints = NDArray[np.int64]
Entries = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.float32]]
_MOST_FILES = 200


class Group(NamedTuple):
    """All entries of the features `first` to `first + len(ptr) - 2`: those of the i-th are `ptr[i]:ptr[i + 1]`."""

    first: int
    ptr: Ints
    places_E: NDArray[np.integer[Any]]
    values_E: NDArray[np.float32]

    @property
    def last(self) -> int:
        """One past its last feature."""
        return self.first + len(self.ptr) - 1

    def local_E(self) -> Ints:
        """The feature of each entry, counted from `first`."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))


def plan_groups(counts_F: Ints, most: int) -> Ints:
    """First features of groups of consecutive features, and F: each of at most so many entries, or a single feature."""
    most = max(most, int(counts_F.sum()) // _MOST_FILES)
    ends, firsts, start = np.concatenate([[0], np.cumsum(counts_F)]), [0], 0
    while start < len(counts_F):
        start = max(start + 1, int(np.searchsorted(ends, ends[start] + most, side="right")) - 1)
        firsts.append(start)
    return np.asarray(firsts, np.int64)


def sort_by_feature(
    entries: Iterable[Entries], counts_F: Ints, scratch: Path, most: int, place: type = np.int32
) -> Iterator[Group]:
    """Groups in order of feature.

    Args:
        entries: chunks of (place, feature, value), places ascending within each feature.
        counts_F: how many entries each feature has in all.
        scratch: a folder for the files; emptied first, removed at the end.
        most: entries of a group.
        place: type of the places.

    Raises StorageError.
    """
    record = np.dtype([("place", place), ("feature", np.int32), ("value", np.float32)])
    firsts = plan_groups(counts_F, most)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        _deal(entries, firsts, len(counts_F), scratch, record)
        for number, (first, last) in enumerate(zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)):
            counts_G = counts_F[first:last]
            yield _sorted(scratch / str(number), first, counts_G, record)
            (scratch / str(number)).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, error.errno or 0, scratch, int(counts_F.sum()) * record.itemsize) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _deal(entries: Iterable[Entries], firsts: Ints, n_features: int, scratch: Path, record: np.dtype[Any]) -> None:
    group_of_F = np.repeat(np.arange(len(firsts) - 1, dtype=np.uint16), np.diff(firsts))
    assert len(group_of_F) == n_features
    with ExitStack() as stack:
        files = [stack.enter_context((scratch / str(i)).open("wb")) for i in range(len(firsts) - 1)]
        for places_E, features_E, values_E in entries:
            groups_E = group_of_F[features_E]
            order_E = np.argsort(groups_E, kind="stable")  # of 16 bits: numpy counts instead of comparing
            chunk = np.empty(len(order_E), record)
            chunk["place"], chunk["feature"] = places_E[order_E], features_E[order_E]
            chunk["value"] = values_E[order_E]
            cuts = np.searchsorted(groups_E[order_E], np.arange(len(files) + 1))
            for number in np.flatnonzero(np.diff(cuts)).tolist():
                files[number].write(chunk[cuts[number] : cuts[number + 1]].data)


def _sorted(path: Path, first: int, counts_G: Ints, record: np.dtype[Any]) -> Group:
    chunk = np.fromfile(path, record)
    ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_G)])
    if len(chunk) != ptr[-1]:
        raise ValueError(f"{len(chunk)} entries where {ptr[-1]} were counted")
    if len(counts_G) > 1:
        local_E = chunk["feature"] - first
        if len(counts_G) <= 1 << 16:
            local_E = local_E.astype(np.uint16)
        chunk = chunk[np.argsort(local_E, kind="stable")]
    return Group(first, ptr, np.ascontiguousarray(chunk["place"]), np.ascontiguousarray(chunk["value"]))
