"""What changed between two readings of the same turns, feature by feature, from their differences alone. No torch.

Turns of one conversation are alike, so the conversation is what varies: differences are summed over its turns, and the
mean change per turn is a ratio of two sums over conversations with the usual cluster-robust error. Two models are never
the same: with enough turns any drift is significant, and a strong drift moves the mean more than a rare behaviour does.
So what is tested is on how many turns a feature came on or went out, beyond a margin.

Legend: N turns of a block, E their entries, C conversations, F features, K chosen features, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import t as student_t

from turnscope.stats import benjamini_hochberg

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Some turns read twice: whole conversations, in order; an entry for each feature active in either reading."""

    turns: Ints
    """Number of each turn (N,), among all pairs."""
    conversation_N: Ints
    rows_E: Ints
    """Which turn of the block, from 0."""
    features_E: Ints
    before_E: Floats
    after_E: Floats

    def keep(self, kept_N: NDArray[np.bool_]) -> Pairs:
        """These turns alone."""
        entries_E = kept_N[self.rows_E]
        number_N = np.cumsum(kept_N) - 1
        return Pairs(
            self.turns[kept_N], self.conversation_N[kept_N], number_N[self.rows_E[entries_E]],
            self.features_E[entries_E], self.before_E[entries_E], self.after_E[entries_E],
        )  # fmt: skip

    def swap(self, swapped_N: NDArray[np.bool_]) -> Pairs:
        """With the two readings exchanged on some turns: a null for tests."""
        at_E = swapped_N[self.rows_E]
        before, after = np.where(at_E, self.after_E, self.before_E), np.where(at_E, self.before_E, self.after_E)
        return self._replace(before_E=before, after_E=after)


class Changes(NamedTuple):
    """Columns over all features; NaN where nothing can be said, and `withheld` says why."""

    mean_before: Floats
    mean_after: Floats
    change: Floats
    """Mean over turns of the value after less the value before."""
    error: Floats
    """Its standard error, by conversation."""
    typical: Floats
    """Mean value on turns where the feature is active, over both readings."""
    effect: Floats
    """`change / typical`: as if it had come on, or gone out, on this share of the turns."""
    density_before: Floats
    density_after: Floats
    conversations: Ints
    """In which it is active in either reading."""
    p: Floats
    q: Floats
    withheld: NDArray[np.object_]
    n_turns: int
    n_conversations: int


class Tally:
    """Sums over blocks of whole conversations: what they need is a few numbers a feature."""

    def __init__(self, n_features: int) -> None:
        self._f = n_features
        self._sums = {name: np.zeros(n_features) for name in ("d", "dd", "dn", "before", "after")}
        self._counts = {name: np.zeros(n_features, np.int64) for name in ("before", "after", "conversations")}
        self._n, self._nn, self._c = 0.0, 0.0, 0

    def add(self, pairs: Pairs) -> None:
        """One block; no conversation may come in two blocks."""
        if not len(pairs.turns):
            return
        f = self._f
        _, own_N, turns_C = np.unique(pairs.conversation_N, return_inverse=True, return_counts=True)
        for name, values_E in (("before", pairs.before_E), ("after", pairs.after_E)):
            self._sums[name] += np.bincount(pairs.features_E, values_E, f)
            self._counts[name] += np.bincount(pairs.features_E[values_E > 0], minlength=f)
        keys, slot_E = np.unique(own_N[pairs.rows_E] * f + pairs.features_E, return_inverse=True)
        diffs = np.bincount(slot_E, pairs.after_E - pairs.before_E, len(keys))
        features, turns = keys % f, turns_C[keys // f]
        for name, values in (("d", diffs), ("dd", diffs**2), ("dn", diffs * turns)):
            self._sums[name] += np.bincount(features, values, f)
        self._counts["conversations"] += np.bincount(features, minlength=f)
        self._n += float(turns_C.sum())
        self._nn += float((turns_C.astype(np.float64) ** 2).sum())
        self._c += len(turns_C)

    def result(self, margin: float, min_conversations: int) -> Changes:
        """Changes of all features. `p` is of no change beyond `margin` times the typical value, in either direction.

        The hypothesis is an interval, so `p` is what a change of exactly the margin would give at most; with a margin
        of 0 it is that of a paired t test by conversation.
        """
        s, c = self._sums, self._counts
        n, convs = max(self._n, 1.0), self._c
        change = s["d"] / n
        squares = np.maximum(0.0, s["dd"] - 2 * change * s["dn"] + change**2 * self._nn)
        error = np.sqrt(squares * convs / max(1, convs - 1)) / n
        with np.errstate(invalid="ignore", divide="ignore"):
            typical = (s["before"] + s["after"]) / (c["before"] + c["after"])
            effect = change / typical
            beyond = np.abs(change) - margin * typical
            total = np.abs(change) + margin * typical
            p = student_t.sf(beyond / error, max(1, convs - 1)) + student_t.sf(total / error, max(1, convs - 1))
        p = np.where((error == 0) & (beyond > 0), 2.0 ** (1 - convs), np.where(error == 0, 1.0, np.minimum(1.0, p)))
        withheld = self._withheld(min_conversations)
        told = withheld == ""
        q = np.full(self._f, np.nan)
        q[told] = benjamini_hochberg(p[told])
        return Changes(
            s["before"] / n, s["after"] / n, change, error, typical, effect, c["before"] / n, c["after"] / n,
            c["conversations"], np.where(told, p, np.nan), q, withheld, int(self._n), convs,
        )  # fmt: skip

    def _withheld(self, least: int) -> NDArray[np.object_]:
        counts = self._counts["conversations"]
        reasons = np.full(self._f, "", object)
        few = f"active in fewer than {least} conversations"
        reasons[counts < least] = few
        reasons[counts == 0] = "active on no turn in either reading"
        if self._c < least:
            reasons[:] = f"only {self._c} conversations, {least} needed"
        return reasons


def switched(blocks: Iterable[Pairs], typical_F: Floats, by: float) -> Iterator[Pairs]:
    """The turns on which features came on or went out: values moved by more than `by` times the typical one.

    An entry is 1 in `after` where the feature came on, 1 in `before` where it went out, so that a mean change of these
    is the share of turns on which it came on less that on which it went out.
    """
    for pairs in blocks:
        step_E = (pairs.after_E - pairs.before_E) / typical_F[pairs.features_E]
        far_E = np.abs(step_E) > by
        up_E = step_E[far_E] > 0
        yield pairs._replace(
            rows_E=pairs.rows_E[far_E], features_E=pairs.features_E[far_E],
            before_E=(~up_E).astype(np.float64), after_E=up_E.astype(np.float64),
        )  # fmt: skip


def judged(switches: Changes, all_values: Changes, least: int) -> tuple[Floats, Floats]:
    """(p, q) of features coming on or going out, over the features that are active often enough to be told of.

    One that did so in fewer than `least` conversations is no evidence either way and gets a p of 1.
    """
    told = all_values.withheld == ""
    p = np.where(switches.conversations >= least, np.nan_to_num(switches.p, nan=1.0), 1.0)
    q = np.full(len(p), np.nan)
    q[told] = benjamini_hochberg(p[told])
    return np.where(told, p, np.nan), q


def intervals(blocks: Iterable[Pairs], features_K: Ints, n_boot: int, seed: int) -> tuple[Floats, Floats]:
    """95% interval of the mean change of some features, by a bootstrap of whole conversations: (low_K, high_K).

    Conversations come in a stream, so each is drawn a Poisson(1) number of times in each resample, which is what
    drawing with replacement comes to when there are many.
    """
    rng = np.random.default_rng(seed)
    sums_RK, turns_R = np.zeros((n_boot, len(features_K))), np.zeros(n_boot)
    for pairs in blocks:
        d_CK, turns_C = _by_conversation(pairs, features_K)
        weights_CR = rng.poisson(1.0, (len(turns_C), n_boot)).astype(np.float64)
        sums_RK += (d_CK.T @ weights_CR).T
        turns_R += turns_C @ weights_CR
    with np.errstate(invalid="ignore", divide="ignore"):
        means_RK = sums_RK / turns_R[:, None]
    low_K, high_K = np.nanquantile(means_RK, (0.025, 0.975), axis=0)
    return low_K, high_K


def _by_conversation(pairs: Pairs, features_K: Ints) -> tuple[sparse.csr_array, Floats]:
    """Differences (C, K) summed over each conversation's turns, and its number of turns."""
    _, own_N, turns_C = np.unique(pairs.conversation_N, return_inverse=True, return_counts=True)
    order = np.argsort(features_K)
    place_E = np.minimum(np.searchsorted(features_K[order], pairs.features_E), len(order) - 1)
    mine_E = features_K[order][place_E] == pairs.features_E
    at = (own_N[pairs.rows_E[mine_E]], order[place_E[mine_E]])
    values = (pairs.after_E - pairs.before_E)[mine_E]
    return sparse.csr_array((values, at), shape=(len(turns_C), len(features_K))), turns_C.astype(np.float64)


class Moved(NamedTuple):
    """A turn on which a feature changed much."""

    turn: int
    before: float
    after: float


def most_changed(blocks: Iterable[Pairs], features_K: Ints, signs_K: Floats, most: int) -> list[list[Moved]]:
    """For each of some features the turns that changed most in the direction of its mean change."""
    best: list[list[tuple[float, Moved]]] = [[] for _ in features_K]
    for pairs in blocks:
        order_E = np.argsort(pairs.features_E, kind="stable")
        starts = np.searchsorted(pairs.features_E[order_E], features_K)
        ends = np.searchsorted(pairs.features_E[order_E], features_K, side="right")
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            mine = order_E[start:end]
            change = signs_K[k] * (pairs.after_E - pairs.before_E)[mine]
            top = np.argsort(-change, kind="stable")[:most]
            for i in top[change[top] > 0].tolist():
                entry = mine[i]
                turn = int(pairs.turns[pairs.rows_E[entry]])
                best[k].append(
                    (float(-change[i]), Moved(turn, float(pairs.before_E[entry]), float(pairs.after_E[entry])))
                )
            best[k] = sorted(best[k])[:most]
    return [[turn for _, turn in row] for row in best]


def only(blocks: Iterable[Pairs], chosen_C: NDArray[np.bool_]) -> Iterator[Pairs]:
    """The turns of some conversations."""
    for pairs in blocks:
        yield pairs.keep(chosen_C[pairs.conversation_N])
