"""Which words stand before the turns on which a feature changed, and not before others: a way to a trigger.

A description, not a test: the turns were chosen by their change. No torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom

from turnscope.transcripts.conversation import Conversation

LONGEST = 4  # words of a phrase
_LEAST = 3  # conversations in which it must stand
_WORDS = re.compile(r"\w+", re.UNICODE)


class Foregoing(NamedTuple):
    """A phrase, in how many of the changed conversations it stands before the changed turn, and in how many others."""

    phrase: str
    changed: int
    of_changed: int
    others: int
    of_others: int
    p: float


def phrases(conversation: Conversation, before: int | None) -> set[str]:
    """Phrases of up to four words in the turns before number `before`, all turns when None; words in lower case."""
    found: set[str] = set()
    for turn in conversation.turns:
        if before is not None and turn.index >= before:
            break
        words = _WORDS.findall(turn.text.lower())
        found |= {" ".join(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1)}
    return found


Changed = Sequence[tuple[Conversation, int]]
"""Conversations with the number of the turn that changed."""


def recurring(changed: Changed) -> Counter[str]:
    """Phrases that stand before the changed turn of three conversations or more, and of how many."""
    ours = Counter[str]()
    for conversation, turn in changed:
        ours.update(phrases(conversation, turn))
    return Counter({phrase: count for phrase, count in ours.items() if count >= _LEAST})


class Corpus:
    """In how many conversations some phrases stand. All phrases of long conversations would not fit in memory."""

    def __init__(self, conversations: Iterable[Conversation], wanted: AbstractSet[str]) -> None:
        self.ids: set[str] = set()
        self.counts = Counter[str]()
        for conversation in conversations:
            self.ids.add(conversation.id)
            self.counts.update(phrases(conversation, None) & wanted)


def foregoing(changed: Changed, corpus: Corpus, most: int = 3) -> list[Foregoing]:
    """The phrases most peculiar to what stands before the changed turns, the best first.

    They are held against the other conversations of the corpus, which has counted those that are `recurring` here.
    `p` is hypergeometric, times the phrases that were looked at. Of phrases that stand in the same numbers of
    conversations the longest is given.
    """
    ours, own = recurring(changed), Counter[str]()
    for conversation, _ in changed:
        if conversation.id in corpus.ids:
            own.update(phrases(conversation, None) & ours.keys())
    n_ours = len(changed)
    n_theirs = len(corpus.ids) - sum(conversation.id in corpus.ids for conversation, _ in changed)
    often = list(ours)
    if not often:
        return []
    mine = np.array([ours[phrase] for phrase in often])
    other = np.array([corpus.counts[phrase] - own[phrase] for phrase in often])
    log_p = hypergeom.logsf(mine - 1, n_ours + n_theirs, mine + other, n_ours)
    order = sorted(range(len(often)), key=lambda i: (round(float(log_p[i]), 9), -len(often[i]), often[i]))
    best, seen = list[Foregoing](), set[tuple[int, int]]()
    for i in order:
        counts = (int(mine[i]), int(other[i]))
        if counts in seen:
            continue
        seen.add(counts)
        p = float(min(1.0, np.exp(log_p[i]) * len(often)))
        best.append(Foregoing(often[i], counts[0], n_ours, counts[1], n_theirs, p))
        if len(best) == most:
            break
    return best
