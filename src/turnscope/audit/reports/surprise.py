"""How unusual each turn and conversation is, held against those of the baseline. No torch.

Bits of a turn: over the features that fire on it, the mean of -log2 of the share of the baseline's turns of the same
role on which the feature is at least so strong. Bits of a conversation: the mean of its turns. Neither is a
probability, since features are not independent; what it means is read off the baseline, whose turns are scored in the
same way with their own conversation left out, so that a file like the baseline is as surprising as the baseline.

    p = (1 + baseline conversations with at least so many bits) / (1 + baseline conversations)

is then valid for a single conversation of the same kind, whatever the distribution (conformal prediction).

Legend: N turns, E entries, C conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.audit.reports.together import Together
from turnscope.stats.multiple import benjamini_hochberg

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MIN_BASELINE = 20
"""Fewest conversations of the baseline, and turns of a role, that a place among them is told of."""


@dataclass(frozen=True)
class Surprise:
    """Turns and conversations of the file.

    bits_N, place_N: of each turn; the share of the baseline's turns of its role that have fewer bits. NaN where the
        baseline has too few turns of the role.
    conversation_N: number of each turn's conversation, below.
    bits_C, p_C, q_C: of each conversation.
    """

    bits_N: Floats
    place_N: Floats
    conversation_N: Ints
    bits_C: Floats
    p_C: Floats
    q_C: Floats
    n_baseline: int
    withheld: str = ""


def surprise(both: Together, cluster_N: Ints, conversation_N: Ints) -> Surprise:
    """Score the turns of the file.

    Args:
        both: file and baseline.
        cluster_N: what a turn of the baseline leaves out of the counts that it is scored by: its duplicate group.
        conversation_N: number of each turn's conversation, those of the file first.
    """
    bits_N = turn_bits(both, cluster_N)
    file_N = both.is_file_N
    place_N = np.full(both.n_file, np.nan)
    for role in np.unique(both.roles[file_N].astype(str)):
        mine_N = both.roles == role
        known = np.sort(bits_N[mine_N & ~file_N])
        if len(known) >= MIN_BASELINE:
            at = np.flatnonzero(mine_N & file_N)
            place_N[at] = np.searchsorted(known, bits_N[at], side="left") / len(known)
    bits_C, n_C = _by_conversation(bits_N, conversation_N)
    own = np.unique(conversation_N[file_N])
    others = np.setdiff1d(np.unique(conversation_N[~file_N]), own)
    known = np.sort(bits_C[others][n_C[others] > 0])
    few = ""
    if len(known) < MIN_BASELINE:
        few = f"the baseline has only {len(known)} conversations, {MIN_BASELINE} needed"
    p_C = (1 + len(known) - np.searchsorted(known, bits_C[own], side="left")) / (1 + len(known))
    p_C = np.where((n_C[own] > 0) & (few == ""), p_C, np.nan)
    q_C = np.full(len(own), np.nan)
    q_C[np.isfinite(p_C)] = benjamini_hochberg(p_C[np.isfinite(p_C)])
    number_N = np.searchsorted(own, conversation_N[: both.n_file])
    return Surprise(bits_N[: both.n_file], place_N, number_N, bits_C[own], p_C, q_C, len(known), few)


def _by_conversation(bits_N: Floats, conversation_N: Ints) -> tuple[Floats, Ints]:
    """Mean bits of each conversation, and of how many turns."""
    told_N = np.isfinite(bits_N)
    n_C = np.bincount(conversation_N[told_N], minlength=int(conversation_N.max()) + 1)
    total_C = np.bincount(conversation_N[told_N], bits_N[told_N], len(n_C))
    return np.where(n_C > 0, total_C / np.maximum(n_C, 1), np.nan), n_C


def turn_bits(both: Together, cluster_N: Ints) -> Floats:
    """(N,) of all turns; NaN for a turn of a role that the baseline has not, 0 for one on which nothing fires."""
    codes = both.codes_NF
    row_E = np.repeat(np.arange(both.n_turns), np.diff(codes.indptr))
    role_N = np.unique(both.roles.astype(str), return_inverse=True)[1]
    bits_E, out_N = np.zeros(len(row_E)), np.full(both.n_turns, np.nan)
    for role in np.unique(role_N):
        mine_N = role_N == role
        base_N = mine_N & ~both.is_file_N
        if not base_N.any():
            continue
        own_E = mine_N[row_E]
        base_E = base_N[row_E]
        bits_E[own_E] = _bits(both, row_E[own_E], codes.indices[own_E], codes.data[own_E], base_E[own_E],
                              cluster_N, base_N)  # fmt: skip
        out_N[mine_N] = 0
    total_N = np.bincount(row_E, bits_E, both.n_turns)
    count_N = np.maximum(np.diff(codes.indptr), 1)
    return out_N + total_N / count_N


def _bits(
    both: Together, row_E: Ints, feature_E: NDArray[Any], value_E: NDArray[np.float32], base_E: NDArray[np.bool_],
    cluster_N: Ints, base_N: NDArray[np.bool_],
) -> Floats:  # fmt: skip
    """-log2 of the share of the baseline's turns, less those of the own cluster, that are at least so strong."""
    key_E = (feature_E.astype(np.int64) << 32) + value_E.view(np.int32).astype(np.int64)  # values are positive
    known = np.sort(key_E[base_E])
    ends = np.searchsorted(known, (feature_E.astype(np.int64) + 1) << 32, side="left")
    stronger_E = ends - np.searchsorted(known, key_E, side="left")
    cluster_E = cluster_N[row_E]
    own_E = np.zeros(len(row_E), np.int64)
    at = np.flatnonzero(base_E)
    # within cluster and feature, the strongest first: a place in this order is how many are at least so strong
    order = at[np.lexsort((-value_E[at], feature_E[at], cluster_E[at]))]
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(cluster_E[order]) != 0) | (np.diff(feature_E[order]) != 0)
    starts = np.flatnonzero(new)
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    own_E[order] = place + 1
    n_C = np.bincount(cluster_N[base_N], minlength=int(cluster_N.max()) + 1)
    of_E = base_N.sum() - np.where(base_E, n_C[cluster_E], 0)
    return -np.log2((stronger_E - own_E + 1) / (of_E + 1))
