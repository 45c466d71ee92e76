"""The two sets of a contrast: found by queries, kept apart, divided into turns to choose on and turns to judge on.

Legend: N rows of the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.audit.config import ContrastConfig
from turnscope.audit.separation import MIN_CLUSTERS, clusters_of, whole_clusters
from turnscope.features.query.result import Querier, QueryResult
from turnscope.features.store import FeatureIndex

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sides:
    """Rows of A and B; `queries` as they were understood, `features` and `fields` that these name."""

    a: Ints
    b: Ints
    queries: tuple[str, str]
    features: frozenset[int]
    fields: frozenset[str]
    in_both: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Division:
    """Rows of A and B to choose features on and, of other conversations, to judge them on."""

    choose: tuple[Ints, Ints]
    judge: tuple[Ints, Ints]
    chosen_on: str
    judged_on: str
    notices: tuple[str, ...]
    withheld: str = ""
    unused: tuple[int, int] = field(default=(0, 0))


def find_sides(index: FeatureIndex, querier: Querier, config: ContrastConfig) -> Sides:
    """Ask for both sets. Turns in both are taken out of both and counted.

    Raises:
        QueryError: a query is wrong.
        ConfigError: both queries give the same turns; one set lies wholly within the other.
        DataError: no turn satisfies a query.
    """
    found_a = _found(querier, config.a, "a")
    found = [found_a]
    if config.b:
        found_b = _found(querier, config.b, "b")
        found.append(found_b)
        a, b, query_b = found_a.rows, found_b.rows, found_b.query
    else:
        a, b = found_a.rows, _others(index, found_a.rows)
        query_b = "everything else of the same roles and splits"
        if not len(b):
            raise DataError("every turn of these roles and splits is in A, so that nothing is left for B",
                            where=f"--a {config.a}", fix="ask for fewer turns, or give --b")  # fmt: skip
    notices = [notice for each in found for notice in each.notices]
    both = np.intersect1d(a, b, assume_unique=True)
    if len(both):
        if len(both) == len(a) == len(b):
            raise ConfigError("A and B are the same turns", where=f"--a {config.a} --b {config.b}")
        if len(both) in (len(a), len(b)):
            inner, outer = ("A", "B") if len(both) == len(a) else ("B", "A")
            raise ConfigError(
                f"all {len(both):,} turns of {inner} are in {outer} too", where=f"--a {config.a} --b {config.b}",
                fix="leave out --b" if inner == "A" else "exclude them: --a 'Q & !(...)'",
            )  # fmt: skip
        a, b = (np.setdiff1d(rows, both, assume_unique=True) for rows in (a, b))
        notices.append(f"{len(both):,} turns are in both A and B and were taken out of both")
    if not config.b:
        notices += _without_labels(found_a, b)
    names = frozenset(name for each in found for name, _ in each.fields)
    features = frozenset(feature for each in found for feature in each.features)
    return Sides(a, b, (found_a.query, query_b), features, names, len(both), tuple(notices))


def _found(querier: Querier, query: str, name: str) -> QueryResult:
    result = querier.find(query)
    if not len(result):
        note = f" ({result.notices[0]})" if result.notices else ""
        raise DataError(f"no turn satisfies the query for {name.upper()}{note}", where=f"--{name} {query}")
    return result


def _others(index: FeatureIndex, rows: Ints) -> Ints:
    """Turns of the roles and splits of these, but these."""
    kept_N = np.ones(index.n_turns, np.bool_)
    for name in ("role", "split"):
        column = index.turns[name]
        values = pc.call_function("unique", [column.take(rows)])
        kept_N &= np.asarray(pc.call_function("is_in", [column], pc.SetLookupOptions(values)))
    kept_N[rows] = False
    return np.flatnonzero(kept_N)


def _without_labels(found: QueryResult, b: Ints) -> list[str]:
    """Turns that nobody labelled are no counter-examples."""
    columns, notices = found.querier.names.columns, list[str]()
    for name, is_label in found.fields:
        if is_label:
            lacking = int((columns.label(name).code_N[b] < 0).sum())
            if lacking:
                fix = f"--b 'has({name}) & !({found.query})' leaves them out"
                notices.append(f"{lacking:,} of {len(b):,} turns of B have no label {name}; {fix}")
    return notices


def divide(index: FeatureIndex, sides: Sides, config: ContrastConfig) -> Division:
    """By split, or where a split has too few conversations of either set, by halves of the conversations."""
    split_N = np.asarray(index.turns["split"].to_pylist())
    rng = np.random.default_rng(config.seed)
    both = (sides.a, sides.b)
    if config.divide != "halves":
        choose, judge = (
            tuple(rows[np.isin(split_N[rows], splits)] for rows in both)
            for splits in (config.choose_on, config.judge_on)
        )
        lack = _lack(index, choose, judge)
        if config.divide == "splits" or not lack:
            names = [f"split {' and '.join(splits)}" for splits in (config.choose_on, config.judge_on)]
            return _drawn(index, sides, (choose, judge), names, (), lack, config, rng)
        wanted = {*config.choose_on, *config.judge_on}
        notices = [f"{lack}: conversations are divided at random instead"]
    else:
        wanted, lack, notices = {*config.choose_on, *config.judge_on}, "", list[str]()
    pool = tuple(rows[np.isin(split_N[rows], sorted(wanted))] for rows in both)
    choose, judge = _halves(index, pool, rng)
    if _lack(index, choose, judge) and "train" not in wanted:
        pool = tuple(rows[np.isin(split_N[rows], sorted({*wanted, "train"}))] for rows in both)
        choose, judge = _halves(index, pool, rng)
        notices.append("turns of the split train are among them: the dictionary was trained on these")
    names = ["one half of the conversations", "the other half of the conversations"]
    return _drawn(index, sides, (choose, judge), names, notices, _lack(index, choose, judge), config, rng)


def _lack(index: FeatureIndex, choose: Sequence[Ints], judge: Sequence[Ints]) -> str:
    """Why the turns do not suffice, or an empty string."""
    for rows, what in ((choose, "choose on"), (judge, "judge on")):
        for each, name in zip(rows, "AB", strict=True):
            n = len(np.unique(clusters_of(index, each))) if len(each) else 0
            if n < MIN_CLUSTERS:
                return f"set {name} has only {n} conversations to {what}, {MIN_CLUSTERS} needed"
    return ""


def _halves(index: FeatureIndex, pool: Sequence[Ints], rng: np.random.Generator) -> tuple[tuple[Ints, ...], ...]:
    """Conversations in two halves; those with turns of A, and the others, are halved each for themselves."""
    a, b = pool
    if not len(a) or not len(b):
        return (a, b), (a[:0], b[:0])
    numbers = clusters_of(index, np.concatenate([a, b]))
    has_a = np.zeros(int(numbers.max()) + 1, np.bool_)
    has_a[numbers[: len(a)]] = True
    first = np.zeros(len(has_a), np.bool_)
    for group in (np.flatnonzero(has_a), np.flatnonzero(~has_a)):
        first[rng.permutation(group)[::2]] = True
    of_a, of_b = first[numbers[: len(a)]], first[numbers[len(a) :]]
    return (a[of_a], b[of_b]), (a[~of_a], b[~of_b])


def _drawn(
    index: FeatureIndex, sides: Sides, parts: Sequence[Sequence[Ints]], names: Sequence[str], notices: Sequence[str],
    lack: str, config: ContrastConfig, rng: np.random.Generator,
) -> Division:  # fmt: skip
    said, kept = list(notices), list[tuple[Ints, Ints]]()
    for rows, name in zip(parts, names, strict=True):
        drawn = [_at_most(index, each, config.most, rng) for each in rows]
        for each, before, side in zip(drawn, rows, "AB", strict=True):
            if len(each) < len(before):
                said.append(f"{side}, {name}: {len(each):,} of {len(before):,} turns drawn, in whole conversations")
        kept.append((drawn[0], drawn[1]))
    used = [sum(len(rows[side]) for rows in parts) for side in (0, 1)]
    unused = (len(sides.a) - used[0], len(sides.b) - used[1])
    return Division(kept[0], kept[1], names[0], names[1], tuple(said), lack, unused)


def _at_most(index: FeatureIndex, rows: Ints, most: int, rng: np.random.Generator) -> Ints:
    """Whole conversations, drawn at random, of at most so many turns together; one at least."""
    return rows if len(rows) <= most else rows[whole_clusters(clusters_of(index, rows), most, rng)]
