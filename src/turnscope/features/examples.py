"""Turns that show what a feature does: its strongest, some of every tenth, some at random, and turns it just missed.

A feature shown by its strongest turns alone flatters itself: the random ones say what it usually means, the near misses
where it stops. Whole turns; no text stands twice; turns of outlying norm are left out; attention sinks have no codes.

Legend: N turns, E turns on which the feature fires.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from turnscope.features.store import FeatureIndex

Ints = NDArray[np.int64]
Kind = Literal["top", "decile", "random", "near_miss"]


class Example(NamedTuple):
    """One turn. `percentile` is the share of the feature's turns that are no stronger; `decile` 0 is the weakest.

    Of a near miss both are 0, and `partners` are the features near to this one that fire on it.
    """

    row: int
    kind: Kind
    value: float
    percentile: float
    decile: int
    partners: tuple[int, ...] = ()


def examples(
    index: FeatureIndex, feature: int, *, top: int = 10, per_decile: int = 2, random: int = 10, near_misses: int = 10,
    splits: tuple[str, ...] | None = None, seed: int = 0,
) -> list[Example]:  # fmt: skip
    """Examples of one feature; no turn comes under two kinds.

    Args:
        index: the index.
        feature: which.
        top: strongest turns.
        per_decile: turns of each tenth of its turns, in order of strength, drawn at random.
        random: of all its turns that are not shown yet, drawn at random.
        near_misses: turns on which it is silent and the features that usually fire with it, or whose direction is near
            to its own, are strongest.
        splits: only turns of these (an explainer is shown `explain`, a scorer `eval`); None for all that are indexed.
        seed: of the draws; the same seed gives the same examples.
    """
    rows_E, values_E = index.feature_turns(feature)
    usable_N = _usable(index, splits)
    kept = usable_N[rows_E]
    rows_E, values_E = rows_E[kept], values_E[kept]
    hashes_N = _column(index, "text_hash")
    order = np.lexsort((rows_E, -values_E))  # strongest first
    rows_E, values_E = rows_E[order], values_E[order]
    percentiles = (len(rows_E) - np.searchsorted(-values_E, -values_E, side="left")) / max(1, len(rows_E))
    deciles = (len(rows_E) - 1 - np.arange(len(rows_E))) * 10 // max(1, len(rows_E))
    rng = np.random.default_rng([seed, feature])
    seen: set[int] = set()
    found: list[Example] = []

    def take(kind: Kind, places: Any, most: int) -> None:
        taken = 0
        for place in places:
            row = int(rows_E[place])
            if taken == most:
                break
            if int(hashes_N[row]) not in seen:
                seen.add(int(hashes_N[row]))
                value, percentile = float(values_E[place]), float(percentiles[place])
                found.append(Example(row, kind, value, percentile, int(deciles[place])))
                taken += 1

    take("top", range(len(rows_E)), top)
    for decile in range(9, -1, -1):
        take("decile", rng.permutation(np.flatnonzero(deciles == decile)), per_decile)
    take("random", rng.permutation(len(rows_E)), random)
    return [*found, *_near_misses(index, feature, usable_N, hashes_N, near_misses)]


def _near_misses(
    index: FeatureIndex, feature: int, usable_N: NDArray[np.bool_], hashes_N: Ints, most: int
) -> list[Example]:
    if not most:
        return []
    weights = relatives(index, feature)
    score_N = np.zeros(index.n_turns)
    for other, weight in weights.items():
        rows, values = index.feature_turns(other)
        if len(rows):
            score_N[rows] += weight * values / values.max()
    firing, _ = index.feature_turns(feature)
    score_N[firing] = 0
    score_N[~usable_N] = 0
    # a text on which the feature fires somewhere is no near miss, even where it is silent
    seen = set(hashes_N[firing].tolist())
    found: list[Example] = []
    for row in _strongest_first(score_N, 8 * most):
        if len(found) == most:
            break
        if int(hashes_N[row]) not in seen:
            seen.add(int(hashes_N[row]))
            partners = tuple(other for other in index.turn_features(row)[0].tolist() if other in weights)
            found.append(Example(row, "near_miss", 0.0, 0.0, 0, partners))
    return found


def _strongest_first(score_N: NDArray[np.float64], first: int) -> Iterator[int]:
    """Rows with a score above 0, the largest first, ties by row; the first few without sorting all of them."""
    rows = np.flatnonzero(score_N)
    scores = score_N[rows]
    if len(rows) > first:
        cut = np.partition(scores, len(rows) - first)[len(rows) - first]
        ahead = scores >= cut
        yield from rows[ahead][np.argsort(-scores[ahead], kind="stable")].tolist()
        rows, scores = rows[~ahead], scores[~ahead]
    yield from rows[np.argsort(-scores, kind="stable")].tolist()


def relatives(index: FeatureIndex, feature: int) -> dict[int, float]:
    """Features that fire with this one more than by chance, or lie near it, with weights.

    Weights are the Jaccard index times the share of the meetings that chance does not give (1 - 1/lift), or the cosine.
    """
    weights: dict[int, float] = {}
    partners, near = index.partners(feature).to_pydict(), index.neighbours(feature)
    for other, jaccard, pmi in zip(partners["other"], partners["jaccard"], partners["pmi"], strict=True):
        if pmi is not None and pmi > 0:
            weights[other] = jaccard * (1 - 2.0**-pmi)
    for other, cosine in zip(near["other"].to_pylist(), near["cosine"].to_pylist(), strict=True):
        if cosine > 0:
            weights[other] = max(weights.get(other, 0.0), cosine)
    dense = set(np.flatnonzero(index.features["dense"].to_numpy()).tolist())
    return {other: weight for other, weight in weights.items() if other not in dense}


def _usable(index: FeatureIndex, splits: tuple[str, ...] | None) -> NDArray[np.bool_]:
    usable = ~_column(index, "outlier")
    if splits is not None:
        usable &= np.asarray(pc.call_function("is_in", [index.turns["split"]], pc.SetLookupOptions(pa.array(splits))))
    return usable


def _column(index: FeatureIndex, name: str) -> NDArray[Any]:
    return index.turns[name].to_numpy()
