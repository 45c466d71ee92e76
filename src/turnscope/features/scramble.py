"""Does a feature need the order of words? Turns read again with their tokens in random order, what precedes unchanged.

A feature that fires on a scrambled turn as before is one of words; one that falls silent reads what the order says.
Beside it, how often scrambling makes features fire on turns where they did not.

Legend: P picked turns, E entries, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import progress
from turnscope.features.again import Rereader, altered
from turnscope.harvest.pool import Row

if TYPE_CHECKING:
    from turnscope.features.encode import Csr, Dictionary, Pool
    from turnscope.features.relations import Codes

Ints = NDArray[np.int64]
LEAST_TOKENS = 4
EACH = 8
"""Turns asked for on which each feature fires; there may be more of frequent features, and fewer of rare ones."""


def pick_rows(index: Codes, usable_N: NDArray[np.bool_], most: int, seed: int) -> Ints:
    """At most so many turns on which as many features as possible fire `EACH` times, ascending.

    Turn after turn in a random order is taken when some feature on it still lacks turns, rare features first.
    """
    rng = np.random.default_rng(seed)

    def usable(feature: int) -> Ints:  # read twice: the turns of all features are too many to hold
        rows = index.feature_turns(feature)[0]
        return rows[usable_N[rows]]

    had_F = np.zeros(index.n_features, np.int64)
    taken = np.zeros(len(usable_N), np.bool_)
    for feature in np.argsort([len(usable(f)) for f in range(index.n_features)], kind="stable").tolist():
        rows = usable(feature)
        wanted = min(EACH, len(rows)) - int(had_F[feature])
        if wanted <= 0:
            continue
        free = rows[~taken[rows]]
        for row in np.sort(rng.permutation(free)[:wanted]).tolist():
            taken[row] = True
            had_F[index.turn_codes(np.array([row]))[1]] += 1
        if int(taken.sum()) >= most:
            break
    return np.flatnonzero(taken)[:most]


def scramble_table(
    rereader: Rereader, dictionary: Dictionary, index: Codes, turns: pa.Table, rows: Ints, most_norm: float,
    pool: Pool, seed: int,
) -> pa.Table:  # fmt: skip
    """What scrambling does to each feature: (feature, turns, kept, value_kept, gained, other_turns).

    `turns` are those read on which it fires as they are; `kept` the share of these on which it still fires;
    `value_kept` the sum of its values there over the sum as they are; `gained` the share of the `other_turns` on which
    it fires once they are scrambled. Features that fire on none of the turns have no shares.
    """
    n = index.n_features
    counts = {name: np.zeros(n) for name in ("turns", "kept", "gained", "before", "after")}
    n_read = 0
    with progress("scrambling", len(rows), "turns") as bar:
        for reading in rereader.readings(turns, rows):
            bar.advance(0)
            if not len(reading.rows):
                continue
            mean_PD, plain = rereader.encode(reading, dictionary, most_norm, pool)
            rereader.require_same(mean_PD, turns["activation_row"].to_numpy()[reading.rows])
            other = altered(reading, lambda row, sequence: scrambled(sequence, seed, row))
            _, mixed = rereader.encode(other, dictionary, most_norm, pool)
            _count(counts, plain.turns, mixed.turns, n)
            n_read += len(reading.rows)
            bar.advance(len(reading.rows))
    fired_F = counts["turns"]
    some_F = fired_F > 0

    def share(of: str, by: NDArray[np.float64], where: NDArray[np.bool_]) -> pa.Array:
        return pa.array(counts[of] / np.where(where, by, 1), pa.float32(), mask=~where)

    rest_F = n_read - fired_F
    return pa.table(
        {
            "feature": pa.array(np.arange(n), pa.int32()),
            "turns": pa.array(fired_F.astype(np.int64)),
            "kept": share("kept", fired_F, some_F),
            "value_kept": share("after", counts["before"], some_F & (counts["before"] > 0)),
            "gained": share("gained", rest_F, rest_F > 0),
            "other_turns": pa.array(rest_F.astype(np.int64)),
        }
    )


def scrambled(row: Row, seed: int, key: int) -> Row:
    """The sequence with the tokens of its turn in another order; the same for a turn whatever it is batched with."""
    ids = np.asarray(row.ids)
    ids[row.places_P] = np.random.default_rng([seed, key]).permutation(ids[row.places_P])
    return Row(ids.tolist(), row.places_P, row.lengths_S, row.rows_S, row.token_places, row.token_slots)


def _count(counts: dict[str, NDArray[np.float64]], plain: Csr, mixed: Csr, n: int) -> None:
    keys = [np.repeat(np.arange(len(codes.counts)), codes.counts) * n + codes.features_E for codes in (plain, mixed)]
    both_E = np.isin(keys[1], keys[0])
    counts["turns"] += np.bincount(plain.features_E, minlength=n)
    counts["before"] += np.bincount(plain.features_E, plain.values_E, n)
    counts["kept"] += np.bincount(mixed.features_E[both_E], minlength=n)
    counts["after"] += np.bincount(mixed.features_E[both_E], mixed.values_E[both_E], n)
    counts["gained"] += np.bincount(mixed.features_E[~both_E], minlength=n)
