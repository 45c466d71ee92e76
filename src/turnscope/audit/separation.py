"""Which features tell two sets of turns apart: every feature in one pass of the postings. No torch.

Turns of one conversation are alike, so that a test over turns finds differences between two random halves of the
conversations. Here the conversation is what varies. docs/design/contrast.md says which test this is, and why.

Legend: N turns of both sets, F features, E entries of a block, G groups of equal value of one feature, K conversations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.stats import norm

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.stats.multiple import benjamini_hochberg

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_CLUSTERS = 5
"""Fewest conversations of each set, and fewest turns, for which there are p values."""
MIN_FIRING = 10
"""A feature that fires in fewer conversations (of both sets together) is not tested: it could not be found."""
_BLOCK = 6_000_000  # entries held at a time


class Postings(Protocol):
    """What is needed of a feature index."""

    @property
    def n_turns(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def turns(self) -> pa.Table: ...
    def array(self, name: str) -> NDArray[Any]: ...
    def turn_codes(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Separation:
    """Figures of every feature, in order of its number; positive means more in A.

    auroc_F: chance that a turn of A has a larger value than one of B, ties counting one half; .5 for a silent feature.
    share_a_F, share_b_F: share of the turns on which it fires.
    effect_F: difference of the mean values over their pooled standard deviation (Cohen's d); infinite where a feature
        is constant in both sets and differs.
    p_F: two-sided, by conversation; q_F: Benjamini-Hochberg over the features tested. NaN where not tested: because it
        fires in too few conversations or, when `withheld` says why, everywhere.
    """

    auroc_F: Floats
    share_a_F: Floats
    share_b_F: Floats
    mean_a_F: Floats
    mean_b_F: Floats
    effect_F: Floats
    z_F: Floats
    p_F: Floats
    q_F: Floats
    conversations_F: Ints
    """Conversations, of both sets together, in which it fires."""
    n_a: int
    n_b: int
    clusters_a: int
    clusters_b: int
    withheld: str = ""

    @property
    def n_tested(self) -> int:
        """Features with a p value."""
        return int(np.isfinite(self.p_F).sum())

    def discoveries(self, fdr: float = 0.05) -> Ints:
        """Features whose q is at most `fdr`, the smallest p first."""
        found = np.flatnonzero(self.q_F <= fdr)
        return found[np.lexsort((found, -np.abs(self.auroc_F[found] - 0.5), self.p_F[found]))]

    def ranked(self, most: int | None = None) -> Ints:
        """Features by distance of the AUROC from one half, farthest first, ties by number; silent ones left out."""
        away_F = np.abs(self.auroc_F - 0.5)
        order = np.argsort(-away_F, kind="stable")
        return order[self.conversations_F[order] > 0][:most]

    def table(self) -> pa.Table:
        """One row for each feature."""
        names = [field.name for field in fields(self) if field.name.endswith("_F")]
        columns = {name[:-2]: pa.array(getattr(self, name), from_pandas=True) for name in names}
        return pa.table({"feature": pa.array(np.arange(len(self.auroc_F)), pa.int32()), **columns})


def clusters_of(index: Postings, rows: Ints) -> Ints:
    """A number for each turn's conversation; duplicates of a conversation count as one."""
    turns = index.turns
    column = turns["group" if "group" in turns.column_names else "conversation_id"].take(pa.array(rows))
    encoded = cast("Any", pc.call_function("dictionary_encode", [column])).combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def whole_clusters(clusters_N: Ints, most: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which turns stay when whole conversations are drawn, of at most so many turns together; one at least."""
    number_N = np.unique(clusters_N, return_inverse=True)[1]
    size_K = np.bincount(number_N)
    order = rng.permutation(len(size_K))
    fit = max(1, int(np.searchsorted(np.cumsum(size_K[order]), most, side="right")))
    return np.isin(number_N, order[:fit])


def separate(
    index: Postings, rows_a: ArrayLike, rows_b: ArrayLike, *, clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
) -> Separation:  # fmt: skip
    """Hold the turns of A against those of B, on every feature.

    Args:
        index: a feature index. A turn's value of a token feature is the largest of its tokens.
        rows_a: rows of the index, in any order, none twice.
        rows_b: the same; none that is in A.
        clusters_a: numbers of what varies together, for each of `rows_a`; conversations when not given.
        clusters_b: for each of `rows_b`; both or neither.

    Raises:
        DataError: a set is empty, has a row twice, or a row that is none of the index; a turn is in both.
    """
    a, b = _checked(index, rows_a, "A"), _checked(index, rows_b, "B")
    both = len(np.intersect1d(a, b, assume_unique=True))
    if both:
        raise DataError(f"{both:,} turns are in both A and B", fix="ask for sets that exclude each other")
    rows_N = np.concatenate([a, b])
    if (clusters_a is None) != (clusters_b is None):
        raise ConfigError("clusters must be given for both sets, or for neither")
    if clusters_a is None or clusters_b is None:
        cluster_N = clusters_of(index, rows_N)
    else:
        cluster_N = np.unique(np.concatenate([np.asarray(clusters_a), np.asarray(clusters_b)]), return_inverse=True)[1]
        if len(cluster_N) != len(rows_N):
            raise DataError(f"{len(cluster_N)} cluster numbers for {len(rows_N)} turns")
    is_a_N = np.arange(len(rows_N)) < len(a)
    order = np.lexsort((rows_N, cluster_N))
    sets = _Sets.of(rows_N[order], cluster_N[order].astype(np.int64), is_a_N[order])
    parts = [_figures(sets, block) for block in _blocks(index, sets)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _judged(whole, sets)


class _Sets(NamedTuple):
    """The turns of both sets, conversation after conversation."""

    rows_N: Ints
    cluster_N: Ints
    is_a_N: NDArray[np.bool_]
    a_K: Floats  # turns of A in each conversation
    b_K: Floats

    @staticmethod
    def of(rows_N: Ints, cluster_N: Ints, is_a_N: NDArray[np.bool_]) -> _Sets:
        n_clusters = int(cluster_N.max()) + 1
        a_K = np.bincount(cluster_N[is_a_N], minlength=n_clusters).astype(np.float64)
        b_K = np.bincount(cluster_N[~is_a_N], minlength=n_clusters).astype(np.float64)
        return _Sets(rows_N, cluster_N, is_a_N, a_K, b_K)

    @property
    def n_a(self) -> int:
        return int(self.a_K.sum())

    @property
    def n_b(self) -> int:
        return int(self.b_K.sum())


class _Block(NamedTuple):
    """Entries of some neighbouring features: feature after feature, within one conversation after conversation."""

    n_features: int
    feature_E: Ints  # from 0
    place_E: Ints  # place in `_Sets`
    value_E: NDArray[np.float32]


def _checked(index: Postings, rows: ArrayLike, name: str) -> Ints:
    found = np.asarray(rows)
    if found.ndim != 1 or not len(found):
        raise DataError(f"set {name} is empty" if found.size == 0 else f"set {name} is no list of rows")
    found = found.astype(np.int64)
    if found.min() < 0 or found.max() >= index.n_turns:
        raise DataError(f"set {name} names turns that are none of the {index.n_turns:,} of the index")
    if len(np.unique(found)) < len(found):
        raise DataError(f"set {name} names a turn twice")
    return found


def _blocks(index: Postings, sets: _Sets) -> Iterator[_Block]:
    """By turns while all entries fit in memory at once, else by features, so many entries at a time."""
    ptr = index.array("by_turn.ptr")
    if int((ptr[sets.rows_N + 1] - ptr[sets.rows_N]).sum()) <= _BLOCK:
        yield _by_turn(index, sets)
    else:
        yield from _by_feature(index, sets)


def _by_turn(index: Postings, sets: _Sets) -> _Block:
    ptr, features_E, values_E = index.turn_codes(sets.rows_N)
    shape = (len(sets.rows_N), index.n_features)
    columns: Any = sparse.csr_array((values_E, features_E.astype(np.int32), ptr), shape=shape).tocsc()
    feature_E = np.repeat(np.arange(index.n_features), np.diff(columns.indptr))
    return _Block(index.n_features, feature_E, columns.indices.astype(np.int64), columns.data)


def _by_feature(index: Postings, sets: _Sets) -> Iterator[_Block]:
    place_of = np.full(index.n_turns, -1, np.int64)
    place_of[sets.rows_N] = np.arange(len(sets.rows_N))
    ptr = np.asarray(index.array("by_feature.ptr"), np.int64)
    first = 0
    while first < index.n_features:
        fit = int(np.searchsorted(ptr, ptr[first] + _BLOCK, side="right")) - 1
        last = min(index.n_features, max(first + 1, fit))
        places = place_of[index.array("by_feature.rows")[ptr[first] : ptr[last]]]
        feature_E = np.repeat(np.arange(last - first), np.diff(ptr[first : last + 1]))
        values_E = np.asarray(index.array("by_feature.values")[ptr[first] : ptr[last]])
        kept = np.flatnonzero(places >= 0)
        # timsort: rows ascend and conversations are mostly whole, so there is little left to sort
        order = kept[np.argsort(feature_E[kept] * len(sets.rows_N) + places[kept], kind="stable")]
        yield _Block(last - first, feature_E[order], places[order], values_E[order])
        first = last


def _figures(sets: _Sets, block: _Block) -> dict[str, NDArray[Any]]:
    """AUROC, its null variance, shares and moments. The turns on which a feature is silent are one group of ties."""
    f, n_a, n_b = block.n_features, sets.n_a, sets.n_b
    n = n_a + n_b
    feature_E, value_E = block.feature_E, block.value_E.astype(np.float64)
    if not np.isfinite(value_E).all():
        raise DataError("the index holds values that are not finite")
    is_a_E, cluster_E = sets.is_a_N[block.place_E], sets.cluster_N[block.place_E]

    def per_feature(weights_E: NDArray[Any]) -> Floats:
        return np.bincount(feature_E, weights_E, minlength=f).astype(np.float64)

    rank_E, rank_0F = _doubled_midranks(block, n)
    fires_a_F = per_feature(is_a_E)
    fires_F = np.bincount(feature_E, minlength=f).astype(np.float64)
    wins_F = per_feature(rank_E * is_a_E) + rank_0F * (n_a - fires_a_F) - n_a * (n_a + 1)
    auroc_F = wins_F / (2 * n_a * n_b)

    score_E, score_0F = (rank_E - (n + 1)) / (2 * n), (rank_0F - (n + 1)) / (2 * n)
    above_E = score_E - score_0F[feature_E]  # what firing adds to a turn's score
    own_F, pooled_F = _variances(sets, block, above_E, score_0F, is_a_E, cluster_E)
    mean_a_F, mean_b_F = per_feature(value_E * is_a_E) / n_a, per_feature(value_E * ~is_a_E) / n_b
    rest_F = per_feature(value_E**2) - n_a * mean_a_F**2 - n_b * mean_b_F**2
    starts = _starts(feature_E, cluster_E)
    return {
        "auroc": auroc_F,
        "variance": np.maximum(own_F, pooled_F),
        "share_a": fires_a_F / n_a,
        "share_b": (fires_F - fires_a_F) / n_b,
        "mean_a": mean_a_F,
        "mean_b": mean_b_F,
        "spread": np.sqrt(np.maximum(rest_F, 0) / max(1, n - 2)),
        "conversations": np.bincount(feature_E[starts], minlength=f),
    }


def _doubled_midranks(block: _Block, n: int) -> tuple[Floats, Floats]:
    """Twice the midrank of each entry among all n turns, and of the silent turns: whole numbers, exact as floats."""
    f, feature_E = block.n_features, block.feature_E
    bits_E = (block.value_E + np.float32(0)).view(np.int32).astype(np.int64)
    bits_E = np.where(bits_E < 0, -(bits_E & 0x7FFFFFFF), bits_E)  # whole numbers in the order of the values
    key_E = (feature_E << 33) + bits_E
    order = np.argsort(key_E)
    sorted_E = key_E[order]
    start_G = np.flatnonzero(np.concatenate([[True], sorted_E[1:] != sorted_E[:-1]])) if len(order) else order
    size_G = np.diff(np.append(start_G, len(order)))
    fires_F = np.bincount(feature_E, minlength=f)
    first_F = np.cumsum(fires_F) - fires_F
    silent_F = n - fires_F
    below_F = np.bincount(feature_E[bits_E < 0], minlength=f)
    stored_zeros_F = np.bincount(feature_E[bits_E == 0], minlength=f)
    head_G = order[start_G]
    feature_G, bits_G = feature_E[head_G], bits_E[head_G]
    rank_G = 2 * (start_G - first_F[feature_G]) + size_G + 1
    rank_G += np.where(bits_G > 0, 2, np.where(bits_G == 0, 1, 0)) * silent_F[feature_G]
    rank_E = np.empty(len(order))
    rank_E[order] = np.repeat(rank_G, size_G)
    return rank_E, (2 * below_F + stored_zeros_F + silent_F + 1).astype(np.float64)


def _variances(
    sets: _Sets, block: _Block, above_E: Floats, score_0F: Floats, is_a_E: NDArray[np.bool_], cluster_E: Ints
) -> tuple[Floats, Floats]:
    """Two variances of the AUROC where A and B do not differ, with scores (rank - mean rank) / n.

    The first squares what each conversation adds to the AUROC. The second takes variance and covariance within
    conversations from both sets together: where one set is small and the feature by chance silent in it, the first
    is far too small. A silent turn's score is the same everywhere, so only entries are summed one by one.
    """
    n_a, n_b, f = sets.n_a, sets.n_b, block.n_features
    n = n_a + n_b
    starts = _starts(block.feature_E, cluster_E)
    feature_C, cluster_C = block.feature_E[starts], cluster_E[starts]  # each conversation in which a feature fires

    def summed(values_E: Floats) -> Floats:
        return cast("Floats", np.add.reduceat(values_E, starts)) if len(starts) else np.zeros(0)

    def per_feature(values_C: Floats) -> Floats:
        return np.bincount(feature_C, values_C, minlength=f).astype(np.float64)

    weight_K, size_K = sets.a_K / n_a - sets.b_K / n_b, sets.a_K + sets.b_K
    added_C = summed(above_E * np.where(is_a_E, 1 / n_a, -1 / n_b))
    n_clusters = len(size_K)
    own_F = score_0F**2 * (weight_K**2).sum()
    own_F += per_feature(added_C * (2 * score_0F[feature_C] * weight_K[cluster_C] + added_C))

    total_C = summed(above_E)
    squares_F = score_0F**2 * (size_K**2).sum()
    squares_F += per_feature(total_C * (2 * score_0F[feature_C] * size_K[cluster_C] + total_C))
    silent_E = score_0F[block.feature_E]
    sum_of_squares_F = n * score_0F**2
    sum_of_squares_F += np.bincount(block.feature_E, above_E * (2 * silent_E + above_E), minlength=f)
    pairs = float((size_K * (size_K - 1)).sum())
    covariance_F = (squares_F - sum_of_squares_F) / pairs if pairs else np.zeros(f)
    alone = 1 / n_a + 1 / n_b
    pooled_F = sum_of_squares_F / (n - 1) * alone + covariance_F * ((weight_K**2).sum() - alone)
    return own_F * n_clusters / max(1, n_clusters - 1), pooled_F


def _starts(feature_E: Ints, cluster_E: Ints) -> Ints:
    """Where in a block the entries of another feature or conversation begin."""
    if not len(feature_E):
        return np.zeros(0, np.int64)
    new = (feature_E[1:] != feature_E[:-1]) | (cluster_E[1:] != cluster_E[:-1])
    return np.flatnonzero(np.concatenate([[True], new]))


def _judged(whole: dict[str, NDArray[Any]], sets: _Sets) -> Separation:
    away_F, variance_F = whole["auroc"] - 0.5, whole["variance"]
    variance_F = np.where(variance_F > 1e-15, variance_F, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z_F = np.where(variance_F > 0, away_F / np.sqrt(variance_F), 0.0)
        gap_F = whole["mean_a"] - whole["mean_b"]
        effect_F = np.where(gap_F == 0, 0.0, gap_F / whole["spread"])
    withheld = _too_few(sets)
    tested_F = (whole["conversations"] >= MIN_FIRING) & (variance_F > 0) & (withheld == "")
    p_F, q_F = np.full(len(z_F), np.nan), np.full(len(z_F), np.nan)
    p_F[tested_F] = np.minimum(1, 2 * norm.sf(np.abs(z_F[tested_F])))
    q_F[tested_F] = benjamini_hochberg(p_F[tested_F])
    return Separation(
        whole["auroc"], whole["share_a"], whole["share_b"], whole["mean_a"], whole["mean_b"], effect_F, z_F, p_F, q_F,
        whole["conversations"], sets.n_a, sets.n_b, int((sets.a_K > 0).sum()), int((sets.b_K > 0).sum()), withheld,
    )  # fmt: skip


def _too_few(sets: _Sets) -> str:
    for name, each_K in (("A", sets.a_K), ("B", sets.b_K)):
        for n, what in ((int(each_K.sum()), "turns"), (int((each_K > 0).sum()), "conversations")):
            if n < MIN_CLUSTERS:
                return f"set {name} has only {n} {what}, {MIN_CLUSTERS} needed"
    return ""
