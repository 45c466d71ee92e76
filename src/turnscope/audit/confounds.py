"""What else tells A from B: length, position, role, language, source. No torch.

A set of turns chosen for one thing differs in others too. For each of these: how well it tells A from B by itself, and
how well a feature still does among turns that are alike in it.

Legend: N turns of both sets, S strata (turns alike in one thing), G groups of equal score within a stratum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts.errors import ConfigError
from turnscope.features.query.columns import Column, NumberColumn, TurnColumns
from turnscope.features.query.errors import did_you_mean
from turnscope.stats.estimate import Estimate, Withheld

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FIELDS = ("n_tokens", "turn", "role", "language", "script", "source")
LABELS = ("topic", "source", "dataset", "domain", "category", "model", "language")
"""Labels that are looked at when turns have them; others can be named."""
NAMES = {"n_tokens": "turn length", "turn": "position"}
TOGETHER = "all of these"
_BINS = 20  # of numbers, as nearly equal in size as ties allow
_COARSE = 5  # of numbers where several things are held equal at once
_MOST_VALUES = 200
_FEWEST = 5


@dataclass(frozen=True)
class Confound:
    """One thing in which turns differ. `stratum_N` numbers turns that are alike in it; `coarse_N` in wider bins."""

    name: str
    stratum_N: Ints
    coarse_N: Ints


def confounds(columns: TurnColumns, rows_N: Ints, named: Sequence[str], asked: frozenset[str]) -> list[Confound]:
    """What is known of these turns that varies among them, but what the queries ask for themselves (`asked`).

    Raises ConfigError for a name in `named` that is no field and no label.
    """
    return [each for each in _candidates(columns, rows_N, named, asked) if _n_values(each) <= _MOST_VALUES]


def unchecked(columns: TurnColumns, rows_N: Ints, named: Sequence[str], asked: frozenset[str]) -> list[str]:
    """In words: what varies too, but has too many values to find turns that are alike in it. Raises as `confounds`."""
    return [
        f"{each.name} has {n:,} values, over {_MOST_VALUES}: not checked as a confound"
        for each in _candidates(columns, rows_N, named, asked)
        if (n := _n_values(each)) > _MOST_VALUES
    ]


def _n_values(confound: Confound) -> int:
    return len(np.unique(confound.stratum_N))


def _candidates(columns: TurnColumns, rows_N: Ints, named: Sequence[str], asked: frozenset[str]) -> Iterator[Confound]:
    for name in named:
        if name not in columns.fields and name not in columns.label_names:
            known = [*columns.fields, *sorted(columns.label_names)]
            raise ConfigError(f"no field or label {name!r} to check", fix=did_you_mean(name, known) or ", ".join(known))
    fields = [(columns.fields[name], False) for name in (*FIELDS, *named) if name in columns.fields]
    labels = [(name, True) for name in (*LABELS, *named) if name in columns.label_names and name not in columns.fields]
    for name, is_label in dict.fromkeys([*fields, *labels]):
        if name in asked:
            continue
        column = columns.label(name) if is_label else columns.field(name)
        fine, coarse = (_strata(column, rows_N, name, bins) for bins in (_BINS, _COARSE))
        if len(np.unique(fine)) > 1:
            yield Confound(NAMES.get(name, name), fine, coarse)


def _strata(column: Column, rows_N: Ints, name: str, bins: int) -> Ints:
    code_N = np.asarray(column.code_N[rows_N], np.int64)
    if not isinstance(column, NumberColumn):
        return code_N
    number_N = np.asarray(column.number_N[rows_N], np.float64)
    there_N = code_N >= 0
    if name == "turn":  # 0, 1, 2, 3, 4 to 7, 8 to 15, ...
        bin_N = np.where(number_N < 4, number_N, np.floor(np.log2(np.maximum(number_N, 1))) + 2)
        return np.where(there_N, bin_N, -1).astype(np.int64)
    edges = np.unique(np.quantile(number_N[there_N], np.arange(1, bins) / bins)) if there_N.any() else np.zeros(0)
    return np.where(there_N, np.searchsorted(edges, number_N, side="right"), -1).astype(np.int64)


def together(each: Sequence[Confound], least: int = 2) -> Confound | None:
    """Turns alike in all of these at once, numbers in wider bins; None with fewer than `least`."""
    if len(each) < least:
        return None
    _, numbers = np.unique(np.stack([c.coarse_N for c in each]), axis=1, return_inverse=True)
    strata = np.ravel(numbers).astype(np.int64)
    return Confound(TOGETHER, strata, strata)


def rates(stratum_N: Ints, is_a_N: Bools, learnt_N: Bools) -> NDArray[np.float64]:
    """Share of A in each turn's stratum, taken on the turns `learnt_N`; drawn to the share of all by one turn."""
    n = int(stratum_N.max()) + 2
    at_N = stratum_N + 1
    total = np.bincount(at_N[learnt_N], minlength=n)
    of_a = np.bincount(at_N[learnt_N], is_a_N[learnt_N], n)
    return ((of_a + is_a_N[learnt_N].mean()) / (total + 1))[at_N]


def auroc_within(
    scores_N: NDArray[np.floating],
    is_a_N: Bools,
    stratum_N: Ints,
    clusters_N: Ints,
    *,
    n_boot: int = 200,
    seed: int = 0,
) -> Estimate | Withheld:
    """Chance that a turn of A scores above a turn of B that is alike, ties one half, over all such pairs.

    The 95% interval is by conversation, as in `stats.auroc_ci`. Turns without one of the other set in their stratum
    count for nothing. Withheld when fewer than five turns of either set, or of five conversations, are left.
    """
    n = int(stratum_N.max()) + 2
    at_N = stratum_N + 1
    a_S, b_S = (np.bincount(at_N, side.astype(np.float64), n) for side in (is_a_N, ~is_a_N))
    shared_N = ((a_S > 0) & (b_S > 0))[at_N]
    for name, side in (("A", is_a_N & shared_N), ("B", ~is_a_N & shared_N)):
        count, conversations = int(side.sum()), len(np.unique(clusters_N[side]))
        if min(count, conversations) < _FEWEST:
            return Withheld(f"{count} turns of {name} have an equal in the other set, {_FEWEST} conversations needed")
    pairs = _Pairs.of(scores_N[shared_N], is_a_N[shared_N], at_N[shared_N])
    numbers = np.unique(clusters_N[shared_N], return_inverse=True)[1]
    n_clusters = int(numbers.max()) + 1
    rng, draws = np.random.default_rng(seed), list[float]()
    for _ in range(n_boot):
        weights_N = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters))[numbers]
        draws.append(pairs.auroc(weights_N.astype(np.float64)))
    low, high = np.nanquantile(draws, (0.025, 0.975)) if n_boot else (np.nan, np.nan)
    value = pairs.auroc(np.ones(len(numbers)))
    n_a = int((is_a_N & shared_N).sum())
    return Estimate(value, float(low), float(high), n_a, int(shared_N.sum()) - n_a, n_clusters)


@dataclass(frozen=True)
class _Pairs:
    """Groups of equal score within a stratum, in order of both."""

    group_N: NDArray[Any]
    is_a_N: Bools
    stratum_G: Ints
    first_G: Ints  # where the stratum of a group begins

    @staticmethod
    def of(scores_N: NDArray[np.floating], is_a_N: Bools, stratum_N: Ints) -> _Pairs:
        order = np.lexsort((scores_N, stratum_N))
        stratum, score = stratum_N[order], scores_N[order]
        new = np.concatenate([[True], (stratum[1:] != stratum[:-1]) | (score[1:] != score[:-1])])
        group_N = np.empty(len(order), np.int64)
        group_N[order] = np.cumsum(new) - 1
        stratum_G = stratum[new]
        return _Pairs(group_N, is_a_N, stratum_G, np.searchsorted(stratum_G, stratum_G, side="left"))

    def auroc(self, weights_N: NDArray[np.float64]) -> float:
        """NaN when the weights leave no pair."""
        n = len(self.stratum_G)
        a_G, b_G = (np.bincount(self.group_N, weights_N * side, n) for side in (self.is_a_N, ~self.is_a_N))
        before_G = np.concatenate([[0.0], np.cumsum(b_G)])
        below_G = before_G[:-1] - before_G[self.first_G]
        last_G = np.searchsorted(self.stratum_G, self.stratum_G, side="right")
        pairs = float((a_G * (before_G[last_G] - before_G[self.first_G])).sum())
        return float((a_G * (below_G + b_G / 2)).sum() / pairs) if pairs > 0 else float("nan")
