"""How features relate: decoder neighbours, who fires with whom (in a turn, and from turn to turn), duplicates.

Legend: N turns, S sampled turns, F features, B features of a block, D width, M partners kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_BLOCK = 512
LEAST_TOGETHER = 5
"""A pair that fires together on fewer turns gets no PMI: of so few turns it says nothing."""


class Codes(Protocol):
    """What of an index is read here."""

    n_turns: int
    n_features: int

    def turn_codes(self, rows: Ints) -> tuple[Ints, Ints, Floats]: ...
    def feature_turns(self, feature: int) -> tuple[Ints, Floats]: ...


class Pair(NamedTuple):
    """Two features whose decoder directions are near one another."""

    low: int
    high: int
    cosine: float


def neighbours(w_FD: Floats, most: int, near: float) -> tuple[pa.Table, list[Pair]]:
    """Each feature's nearest others by decoder cosine, exactly, a block of rows at a time; and the pairs at `near`.

    Rows of zeros have no neighbours and are nobody's.
    """
    n = len(w_FD)
    alive = np.abs(w_FD).sum(1) > 0
    found: list[tuple[NDArray[Any], ...]] = []
    pairs: list[Pair] = []
    for start in range(0, n, _BLOCK):
        cosine_BF = w_FD[start : start + _BLOCK] @ w_FD.T
        size = len(cosine_BF)
        cosine_BF[:, ~alive] = -2
        cosine_BF[np.arange(size), np.arange(start, start + size)] = -2
        cosine_BF[~alive[start : start + size]] = -2
        rows, others = np.nonzero(cosine_BF >= near)
        pairs += [
            Pair(low, high, float(cosine_BF[low - start, high]))
            for low, high in zip((rows + start).tolist(), others.tolist(), strict=True)
            if low < high
        ]
        found.append(_largest(cosine_BF, min(most, n), start, least=-1.5))
    features, ranks, others, values = (np.concatenate(column) for column in zip(*found, strict=True))
    table = pa.table(
        {
            "feature": features.astype(np.int32),
            "rank": ranks.astype(np.int16),
            "other": others.astype(np.int32),
            "cosine": values.astype(np.float32),
        }
    )
    return table, pairs


def _largest(values_BF: NDArray[Any], most: int, start: int, least: float) -> tuple[NDArray[Any], ...]:
    """(feature, rank from 0, other, value) of the largest values of each row that are above `least`; ties by number."""
    part = np.argpartition(-values_BF, most - 1, axis=1)[:, :most]
    cut_B = np.take_along_axis(values_BF, part, 1).min(1)
    rows, others = np.nonzero((values_BF >= cut_B[:, None]) & (values_BF > least))
    values = values_BF[rows, others]
    order = np.lexsort((others, -values, rows))
    rows, others, values = rows[order], others[order], values[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    keep = ranks < most
    return rows[keep] + start, ranks[keep], others[keep], values[keep]


def duplicates(index: Codes, pairs: list[Pair], jaccard: float) -> dict[int, int]:
    """For each duplicate the lowest-numbered feature that it repeats: near by decoder and firing on the same turns.

    Firing is compared on all indexed turns. A feature that never fires is nobody's duplicate.
    """
    found: dict[int, int] = {}
    for pair in sorted(pairs):
        if pair.high in found:
            continue
        low, high = (index.feature_turns(feature)[0] for feature in (pair.low, pair.high))
        both = len(np.intersect1d(low, high, assume_unique=True))
        either = len(low) + len(high) - both
        if either and both / either >= jaccard:
            found[pair.high] = found.get(pair.low, pair.low)
    return found


def cofiring(index: Codes, next_N: Ints, sample: int, most: int, seed: int) -> tuple[pa.Table, dict[str, int]]:
    """Who fires with whom on the same turn (`same`), and on the turn that follows (`next`), on a sample of turns.

    For each feature the `most` largest partners by Jaccard index and the `most` largest by PMI (in bits, of pairs that
    meet on `LEAST_TOGETHER` turns or more), with the rank in each. A feature is not its own partner; how it follows
    itself is its persistence. Also gives the number of turns, and of pairs of turns, that were counted.
    """
    rows_S = np.arange(index.n_turns)
    if len(rows_S) > sample:
        rows_S = np.sort(np.random.default_rng(seed).choice(rows_S, sample, replace=False))
    first_SF = _matrix(index, rows_S)
    tables = [_partners(first_SF, first_SF, "same", most)]
    followed_S = next_N[rows_S] >= 0
    if followed_S.any():
        second_SF = _matrix(index, next_N[rows_S][followed_S])
        tables.append(_partners(first_SF[np.flatnonzero(followed_S)], second_SF, "next", most))
    return pa.concat_tables(tables).combine_chunks(), {
        "cofiring_turns": len(rows_S),
        "cofiring_pairs_of_turns": int(followed_S.sum()),
    }


def _matrix(index: Codes, rows_S: Ints) -> Any:
    ptr, features_E, _ = index.turn_codes(rows_S)
    ones_E = np.ones(len(features_E), np.float32)
    return sparse.csr_array((ones_E, features_E, ptr), shape=(len(rows_S), index.n_features))


def _partners(first_SF: Any, second_SF: Any, kind: str, most: int) -> pa.Table:
    """Partners in `second` of the features of `first`, block by block: never more than B x F counts at a time."""
    n_turns, n_features = first_SF.shape
    first_FS = first_SF.T.tocsr()
    fired_F, followed_F = np.asarray(first_SF.sum(0)), np.asarray(second_SF.sum(0))
    parts = [_EMPTY]
    for start in range(0, n_features, _BLOCK):
        together_BF = (first_FS[start : start + _BLOCK] @ second_SF).toarray()
        size = len(together_BF)
        together_BF[np.arange(size), np.arange(start, start + size)] = 0
        fired_B = fired_F[start : start + size]
        with np.errstate(divide="ignore", invalid="ignore"):
            jaccard_BF = together_BF / (fired_B[:, None] + followed_F - together_BF)
            pmi_BF = np.log2(together_BF * n_turns / (fired_B[:, None] * followed_F))
        jaccard_BF[together_BF == 0] = 0
        pmi_BF[together_BF < LEAST_TOGETHER] = -np.inf
        parts += list(_rows(kind, start, together_BF, jaccard_BF, pmi_BF, most))
    return pa.concat_tables(parts)


_EMPTY = pa.table(
    {
        "feature": pa.array([], pa.int32()), "kind": pa.array([], pa.string()), "other": pa.array([], pa.int32()),
        "turns": pa.array([], pa.int64()), "jaccard": pa.array([], pa.float32()), "pmi": pa.array([], pa.float32()),
        "rank_jaccard": pa.array([], pa.int16()), "rank_pmi": pa.array([], pa.int16()),
    }
)  # fmt: skip


def _rows(
    kind: str, start: int, together_BF: Floats, jaccard_BF: Floats, pmi_BF: Floats, most: int
) -> Iterator[pa.Table]:
    n_features = together_BF.shape[1]
    ranks: dict[str, dict[int, int]] = {}
    for name, values_BF in (("jaccard", jaccard_BF), ("pmi", pmi_BF)):
        rows, rank, others, _ = _largest(values_BF, min(most, n_features), 0, least=0.0)
        ranks[name] = dict(zip((rows * n_features + others).tolist(), rank.tolist(), strict=True))
    keys = np.asarray(sorted({*ranks["jaccard"], *ranks["pmi"]}), np.int64)
    rows, others = np.divmod(keys, n_features)
    pmi = pmi_BF[rows, others]
    columns = {
        "feature": pa.array((rows + start).astype(np.int32)),
        "kind": pa.array([kind] * len(keys), pa.string()),
        "other": pa.array(others.astype(np.int32)),
        "turns": pa.array(together_BF[rows, others].astype(np.int64)),
        "jaccard": pa.array(jaccard_BF[rows, others].astype(np.float32)),
        "pmi": pa.array(pmi.astype(np.float32), mask=np.isinf(pmi)),
        "rank_jaccard": pa.array([ranks["jaccard"].get(key) for key in keys.tolist()], pa.int16()),
        "rank_pmi": pa.array([ranks["pmi"].get(key) for key in keys.tolist()], pa.int16()),
    }
    yield pa.table(columns)
