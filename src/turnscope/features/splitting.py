"""Two dictionaries held side by side: which features of one are in the other, which split, were born, died.

Matched by decoder cosine and by firing on the same turns, both, because a direction may stay while what reads it
changes, and because two features may fire together without meaning the same.

Legend: A, B features of the first and the second dictionary, S sampled turns, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from turnscope.artifacts import IntegrityError
from turnscope.features.store import FeatureIndex

Floats = NDArray[np.float32]
_BLOCK = 512
_KEYS = ("conversation_id", "turn")


class Limits(NamedTuple):
    """When two features are one (`same`), and when one is a part of the other.

    The larger half of a clean split fires on half of the whole's turns: `jaccard` has to be well above that.

    A part lies near in direction and fires, on `inside` of its turns, where the whole fires.
    """

    cosine: float = 0.7
    jaccard: float = 0.65
    part_cosine: float = 0.4
    inside: float = 0.7


def compare(
    a: FeatureIndex, b: FeatureIndex, decoder_AD: Floats, decoder_BD: Floats, limits: Limits = Limits(),  # noqa: B008
    sample: int = 100_000, seed: int = 0,
) -> pa.Table:  # fmt: skip
    """What became of the features of `a` in `b`, a row for each feature that is alive in either.

    Columns: `fate` (`same`, `split`, `merged`, `died`, `born`), `a` and `b` (features), `parts` (the features of the
    other side that it split into, or that merged in it), `cosine`, `jaccard` (of the best match, also of what died or
    was born). A feature that has a match of its own (`same`) is no part of anything.

    Raises IntegrityError when the two were made from other turns (activations of other transcripts).
    """
    rows_a, rows_b = shared_turns(a, b, sample, seed)
    codes_a, codes_b = _fires(a, rows_a), _fires(b, rows_b)
    alive_a, alive_b = (np.asarray(codes.sum(0)) > 0 for codes in (codes_a, codes_b))
    pairs = _pairs(codes_a, codes_b, decoder_AD, decoder_BD, limits)
    same = _one_to_one(pairs, limits)
    matched_b = {b: a for a, b in same.items()}
    fates: list[dict[str, Any]] = []
    into: dict[int, list[int]] = {}
    of: dict[int, list[int]] = {}
    for pair in pairs.candidates:
        if pair.inside_b >= limits.inside and pair.b not in matched_b:
            into.setdefault(pair.a, []).append(pair.b)
        if pair.inside_a >= limits.inside and pair.a not in same:
            of.setdefault(pair.b, []).append(pair.a)
    split = {f: parts for f, parts in into.items() if f not in same and len(parts) > 1}
    merged = {f: parts for f, parts in of.items() if f not in matched_b and len(parts) > 1}
    in_split = {p for parts in split.values() for p in parts}
    in_merged = {p for parts in merged.values() for p in parts}
    for f in np.flatnonzero(alive_a).tolist():
        best = pairs.best_a[f]
        if f in same:
            fates.append(_fate("same", f, same[f], [], pairs.between(f, same[f])))
        elif f in split:
            fates.append(_fate("split", f, None, sorted(split[f]), best))
        elif f not in in_merged:
            fates.append(_fate("died", f, None, [], best))
    for f in np.flatnonzero(alive_b).tolist():
        if f in merged:
            fates.append(_fate("merged", None, f, sorted(merged[f]), pairs.best_b[f]))
        elif f not in matched_b and f not in in_split:
            fates.append(_fate("born", None, f, [], pairs.best_b[f]))
    return pa.Table.from_pylist(fates, SCHEMA)


SCHEMA = pa.schema(
    [
        ("fate", pa.string()), ("a", pa.int32()), ("b", pa.int32()), ("parts", pa.list_(pa.int32())),
        ("cosine", pa.float32()), ("jaccard", pa.float32()),
    ]
)  # fmt: skip


class Candidate(NamedTuple):
    """A pair that is near in direction; `inside_b` is the share of b's turns on which a fires, `inside_a` of a's."""

    a: int
    b: int
    cosine: float
    jaccard: float
    inside_a: float
    inside_b: float


class _Pairs(NamedTuple):
    candidates: list[Candidate]
    best_a: list[tuple[float, float]]
    best_b: list[tuple[float, float]]

    def between(self, a: int, b: int) -> tuple[float, float]:
        return next((p.cosine, p.jaccard) for p in self.candidates if (p.a, p.b) == (a, b))


def shared_turns(a: FeatureIndex, b: FeatureIndex, sample: int, seed: int) -> tuple[Any, Any]:
    """Rows in each index of turns that both hold, at most so many, drawn at random."""
    if a.artifact.manifest.inputs["transcripts"] != b.artifact.manifest.inputs["transcripts"]:
        raise IntegrityError(
            "the two indexes are of other transcripts", fix="index both dictionaries over activations of the same chats"
        )
    keys = [dict.fromkeys(zip(*(index.turns[name].to_pylist() for name in _KEYS), strict=True)) for index in (a, b)]
    place_b = {key: row for row, key in enumerate(keys[1])}
    rows = np.array([(row, place_b[key]) for row, key in enumerate(keys[0]) if key in place_b]).reshape(-1, 2)
    if len(rows) > sample:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), sample, replace=False))]
    return rows[:, 0], rows[:, 1]


def _fires(index: FeatureIndex, rows: Any) -> Any:
    ptr, features, _ = index.turn_codes(rows)
    return sparse.csr_array((np.ones(len(features), np.float32), features, ptr), (len(rows), index.n_features))


def _pairs(codes_a: Any, codes_b: Any, decoder_AD: Floats, decoder_BD: Floats, limits: Limits) -> _Pairs:
    fired_a, fired_b = np.asarray(codes_a.sum(0)), np.asarray(codes_b.sum(0))
    rows_AS = codes_a.T.tocsr()
    candidates: list[Candidate] = []
    best_a: list[tuple[float, float]] = []
    best_b = np.full((3, len(fired_b)), -2.0)
    for start in range(0, len(fired_a), _BLOCK):
        cosine = decoder_AD[start : start + _BLOCK] @ decoder_BD.T
        both = (rows_AS[start : start + _BLOCK] @ codes_b).toarray()
        mine = fired_a[start : start + _BLOCK, None]
        jaccard = both / np.maximum(mine + fired_b - both, 1)
        score = cosine + jaccard
        top = score.argmax(1)
        rows = np.arange(len(top))
        best_a += list(zip(cosine[rows, top].tolist(), jaccard[rows, top].tolist(), strict=True))
        rise = score.max(0) > best_b[0]
        high = score.argmax(0)[rise]
        best_b[:, rise] = score.max(0)[rise], cosine[high, np.flatnonzero(rise)], jaccard[high, np.flatnonzero(rise)]
        for i, j in np.argwhere((cosine >= limits.part_cosine) & (both > 0)).tolist():
            together = float(both[i, j])
            inside = together / float(mine[i, 0]), together / float(fired_b[j])
            candidates.append(Candidate(start + i, j, float(cosine[i, j]), float(jaccard[i, j]), *inside))
    return _Pairs(candidates, best_a, list(zip(best_b[1].tolist(), best_b[2].tolist(), strict=True)))


def _one_to_one(pairs: _Pairs, limits: Limits) -> dict[int, int]:
    """Matches, the best pair first, each feature once."""
    good = [p for p in pairs.candidates if p.cosine >= limits.cosine and p.jaccard >= limits.jaccard]
    same: dict[int, int] = {}
    taken: set[int] = set()
    for pair in sorted(good, key=lambda p: (-(p.cosine + p.jaccard), p.a, p.b)):
        if pair.a not in same and pair.b not in taken:
            same[pair.a] = pair.b
            taken.add(pair.b)
    return same


def _fate(fate: str, a: int | None, b: int | None, parts: list[int], near: tuple[float, float]) -> dict[str, Any]:
    return {"fate": fate, "a": a, "b": b, "parts": parts, "cosine": near[0], "jaccard": near[1]}
