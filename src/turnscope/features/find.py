"""Find by example: the features of some turns that stand out against the corpus, or tell two sets of turns apart.

Surprise is TF-IDF with a feature's value for the count of a word: value x -log2 of the share of indexed turns on which
the feature fires. `rarity` is the share of indexed turns on which it is at least so strong. A filter over a positive
and a negative set (Scaling Monosemanticity, 2024) keeps what fires on enough of the one and on few of the other.

Legend: N turns of the index, M examples, F features, E entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.features.query.errors import did_you_mean
from turnscope.features.store import FeatureIndex

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
By = Literal["surprise", "value", "rarity"]
_NAMES = 20_000  # conversations whose ids are searched for a near one


class Codes(NamedTuple):
    """Features of M examples: the i-th has `ptr[i]:ptr[i + 1]`, ascending, each at most once."""

    ptr: Ints
    features_E: Ints
    values_E: Floats

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - of examples, not of fields
        return len(self.ptr) - 1


def codes_of(index: FeatureIndex, rows: Sequence[int] | Ints) -> Codes:
    """Indexed turns as examples."""
    return Codes(*index.turn_codes(rows))


def picked(codes: Codes, which: Sequence[int] | Ints) -> Codes:
    """Some of the examples, in the order asked for."""
    which = np.asarray(which, np.int64)
    sizes = np.diff(codes.ptr)[which]
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    at_E = np.arange(ptr[-1]) + np.repeat(codes.ptr[which] - ptr[:-1], sizes)
    return Codes(ptr, codes.features_E[at_E], codes.values_E[at_E])


def joined(parts: Sequence[Codes]) -> Codes:
    """The examples of several sets, one after another."""
    sizes = np.concatenate([np.diff(part.ptr) for part in parts])
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    features_E = np.concatenate([part.features_E for part in parts])
    return Codes(ptr, features_E, np.concatenate([part.values_E for part in parts]))


def strongest(codes: Codes, group_M: Sequence[int] | Ints) -> Codes:
    """Examples of the same group as one, each feature at its largest value; groups in ascending order."""
    groups, group_M = np.unique(np.asarray(group_M, np.int64), return_inverse=True)
    group_E = np.repeat(group_M, np.diff(codes.ptr))
    order_E = np.lexsort((-codes.values_E, codes.features_E, group_E))
    group_E, features_E, values_E = group_E[order_E], codes.features_E[order_E], codes.values_E[order_E]
    first_E = np.ones(len(order_E), np.bool_)
    first_E[1:] = (np.diff(group_E) != 0) | (np.diff(features_E) != 0)
    ptr = np.searchsorted(group_E[first_E], np.arange(len(groups) + 1))
    return Codes(ptr.astype(np.int64), features_E[first_E], values_E[first_E])


def find_active(
    index: FeatureIndex, examples: Codes | Sequence[int] | Ints, *, by: By = "surprise", limit: int | None = 20
) -> pa.Table:
    """The features that fire on any of the examples, the most surprising first.

    Args:
        index: the corpus.
        examples: rows of the index, or codes of other turns under the same dictionary.
        by: order by surprise, by value, or by rarity.
        limit: at most so many.

    Columns: feature; value, its largest; example, where it has it (number of the first); surprise; rarity; percentile,
    the share of its own values that are not above; n_turns, density and max in the index. Raises ConfigError.
    """
    codes = _examples(index, examples, "examples")
    joined = strongest(codes, np.zeros(len(codes), np.int64))
    features, values = joined.features_E, joined.values_E
    where = _first_with(codes, features, values)
    n_turns_F, density_F, max_F = _known(index)
    surprise = _surprise(values, features, n_turns_F, index.n_turns)
    rarity, percentile = _against_corpus(index, features, values)
    keys = {"surprise": -surprise, "value": -values, "rarity": rarity}
    order = np.lexsort((features, -surprise, keys[by]))[:limit]
    columns = {
        "feature": features, "value": values, "example": where, "surprise": surprise, "rarity": rarity,
        "percentile": percentile, "n_turns": n_turns_F[features], "density": density_F[features],
        "max": max_F[features],
    }  # fmt: skip
    return pa.table({name: pa.array(values[order]) for name, values in columns.items()})


def find_shared(
    index: FeatureIndex, positives: Codes | Sequence[int] | Ints, negatives: Codes | Sequence[int] | Ints | None = None,
    *, least: float = 0.8, most: float = 0.2, limit: int | None = 20,
) -> pa.Table:  # fmt: skip
    """The features that fire on at least `least` of the positives and at most `most` of the negatives.

    Ordered by AUROC, positives over negatives, then by mean surprise on the positives; without negatives by the latter
    alone. Columns: feature, share_positive, share_negative, auroc (null without negatives), surprise, n_turns, density,
    max. With few examples many features pass by chance: how many examples there are decides what is worth reading.

    Raises ConfigError for an empty set, or shares that are none.
    """
    for name, share in (("least", least), ("most", most)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is a share, from 0 to 1, not {share}")
    ups = _examples(index, positives, "positive examples")
    downs = None if negatives is None else _examples(index, negatives, "negative examples")
    n_ups, n_downs = len(ups), 0 if downs is None else len(downs)
    share_up_F = np.bincount(ups.features_E, minlength=index.n_features) / n_ups
    share_down_F = np.zeros(index.n_features)
    if downs is not None:
        share_down_F = np.bincount(downs.features_E, minlength=index.n_features) / n_downs
    kept = np.flatnonzero((share_up_F >= max(least, 1e-9)) & (share_down_F <= most))
    n_turns_F, density_F, max_F = _known(index)
    surprise_E = _surprise(ups.values_E, ups.features_E, n_turns_F, index.n_turns)
    surprise = np.bincount(ups.features_E, surprise_E, minlength=index.n_features)[kept] / n_ups
    auroc = _auroc(ups, downs, kept) if downs is not None else np.full(len(kept), np.nan)
    order = np.lexsort((kept, -surprise, -np.nan_to_num(auroc)))[:limit]
    columns = {
        "feature": kept, "share_positive": share_up_F[kept], "share_negative": share_down_F[kept], "auroc": auroc,
        "surprise": surprise, "n_turns": n_turns_F[kept], "density": density_F[kept], "max": max_F[kept],
    }  # fmt: skip
    table = {name: pa.array(values[order], from_pandas=True) for name, values in columns.items()}
    return pa.table(table)


def row_of_turn(index: FeatureIndex, conversation: str, turn: int) -> int:
    """The row of a turn. Raises ConfigError, with near ids or the turns that are there."""
    ids = index.turns["conversation_id"].to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(ids == conversation)
    where = str(index.artifact.path)
    if not len(rows):
        near = did_you_mean(conversation, set(ids[:_NAMES].tolist()))
        fix = near or "query conversations with turnscope query; those of the split locked are not indexed"
        raise ConfigError(f"no turn of a conversation {conversation!r} is indexed", where=where, fix=fix)
    turns = index.turns["turn"].to_numpy()[rows]
    if turn not in turns:
        there = ", ".join(map(str, turns.tolist()[:20]))
        raise ConfigError(
            f"turn {turn} of {conversation!r} is not indexed", where=where, fix=f"indexed are {there}; the first is 0"
        )
    return int(rows[np.flatnonzero(turns == turn)[0]])


def _examples(index: FeatureIndex, examples: Codes | Sequence[int] | Ints, what: str) -> Codes:
    codes = examples if isinstance(examples, Codes) else codes_of(index, examples)
    if not len(codes):
        raise ConfigError(f"there are no {what}", fix="give one or more")
    if len(codes.features_E) and not 0 <= codes.features_E.min() <= codes.features_E.max() < index.n_features:
        raise ConfigError(f"codes of another dictionary: the index has {index.n_features} features")
    if not np.isfinite(codes.values_E).all():
        raise DataError(f"{what} have values that are not finite")
    return codes


def _known(index: FeatureIndex) -> tuple[Ints, NDArray[np.float64], Floats]:
    table = index.features.select(["n_turns", "density", "max"])
    n_turns, density, most = (table[name].to_numpy() for name in table.column_names)
    return n_turns.astype(np.int64), density.astype(np.float64), np.nan_to_num(most).astype(np.float32)


def _surprise(values: Floats, features: Ints, n_turns_F: Ints, n: int) -> NDArray[np.float64]:
    # one more turn of each keeps a feature that never fired in the corpus finite
    return values.astype(np.float64) * np.log2((n + 1) / (n_turns_F[features] + 1.0))


def _against_corpus(index: FeatureIndex, features: Ints, values: Floats) -> tuple[NDArray[np.float64], Floats]:
    """(share of indexed turns with at least the value, share of the feature's own values that are not above it)."""
    rarity, percentile = np.zeros(len(features)), np.zeros(len(features), np.float32)
    for i, (feature, value) in enumerate(zip(features.tolist(), values.tolist(), strict=True)):
        own = index.feature_turns(feature)[1]  # one feature at a time: those of all may be the whole index
        rarity[i] = np.count_nonzero(own >= value) / max(1, index.n_turns)
        percentile[i] = np.count_nonzero(own <= value) / max(1, len(own))
    return rarity, percentile


def _first_with(codes: Codes, features: Ints, values: Floats) -> Ints:
    """The first example in which each feature has its value."""
    example_E = np.repeat(np.arange(len(codes)), np.diff(codes.ptr))
    at_E = np.searchsorted(features, codes.features_E)
    hit_E = codes.values_E == values[at_E]
    first = np.full(len(features), len(codes), np.int64)
    np.minimum.at(first, at_E[hit_E], example_E[hit_E])
    return first


def _auroc(ups: Codes, downs: Codes, features: Ints) -> NDArray[np.float64]:
    """Share of pairs in which the positive is stronger, ties for half; a feature that is silent has the value 0."""
    highs, lows = _by_feature(ups, features), _by_feature(downs, features)
    out = np.zeros(len(features))
    for i, (high, low) in enumerate(zip(highs, lows, strict=True)):
        # among the ones that fire by search; silent ones lose to them and tie with each other
        low.sort()
        won = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
        silent_up, silent_down = len(ups) - len(high), len(downs) - len(low)
        out[i] = (won / 2 + len(high) * silent_down + silent_up * silent_down / 2) / len(ups) / len(downs)
    return out


def _by_feature(codes: Codes, features: Ints) -> list[Floats]:
    """The values of each feature, where it fires. `features` ascend."""
    at_E = np.flatnonzero(np.isin(codes.features_E, features))
    order = at_E[np.argsort(codes.features_E[at_E], kind="stable")]
    ends = np.searchsorted(codes.features_E[order], features, side="right")
    return np.split(codes.values_E[order], ends[:-1]) if len(features) else []
