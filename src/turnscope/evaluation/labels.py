"""What is known of each stored turn, aligned with the rows of an activation store.

N rows (turns).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import DataError
from turnscope.evaluation.config import Trait
from turnscope.harvest.store import ActivationStore
from turnscope.transcripts.store import TranscriptStore

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TurnTable:
    """Everything the evaluation reads of the stored turns; lists are row-aligned with the store."""

    labels: list[Mapping[str, Any]]
    conversation_labels: list[Mapping[str, Any]]
    texts: list[str]
    roles: list[str]
    clusters: NDArray[np.int64]
    """Number of the duplicate group that each row's conversation belongs to: what intervals resample."""
    split: NDArray[np.str_]

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Row numbers of some splits."""
        return np.flatnonzero(np.isin(self.split, splits))


def read_turns(transcripts: TranscriptStore, store: ActivationStore) -> TurnTable:
    """Join the store's rows with their texts and labels. Raises DataError when a row has no turn in the transcripts."""
    columns = store.turns.select(["conversation_id", "turn", "role", "split", "group"]).to_pydict()
    at = {key: row for row, key in enumerate(zip(columns["conversation_id"], columns["turn"], strict=True))}
    n = len(at)
    labels: list[Mapping[str, Any]] = [{}] * n
    conversation_labels: list[Mapping[str, Any]] = [{}] * n
    texts, found = [""] * n, 0
    for conversation in transcripts:
        for turn in conversation.turns:
            row = at.get((conversation.id, turn.index))
            if row is not None:
                labels[row], texts[row], found = turn.labels, turn.text, found + 1
                conversation_labels[row] = conversation.labels
    if found < n:
        raise DataError(
            f"{n - found} of {n} stored turns are not in these transcripts",
            where=str(transcripts.artifact.path),
            fix="name the transcripts that the activations were harvested from",
        )
    # duplicates of a conversation are one cluster: counted apart they would narrow every interval
    _, numbers = np.unique(columns["group"], return_inverse=True)
    return TurnTable(
        labels, conversation_labels, texts, columns["role"], numbers.astype(np.int64), np.array(columns["split"])
    )


def trait_labels(turns: TurnTable, trait: Trait) -> tuple[Bools, Bools]:
    """(eligible_N, positive_N) of one trait."""
    n = len(turns.labels)
    eligible, positive = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for row, labels in enumerate(turns.labels):
        value = labels.get(trait.key)
        whole = turns.conversation_labels[row]
        if value is None or (trait.pair and trait.pair not in whole) or (trait.without and trait.without in whole):
            continue
        if any(labels.get(key) != wanted for key, wanted in trait.within.items()):
            continue
        eligible[row] = True
        positive[row] = trait.value in value if isinstance(value, list) else value == trait.value
    return eligible, positive


def pair_numbers(turns: TurnTable, trait: Trait) -> NDArray[np.int64] | None:
    """Number of the matched pair each row belongs to, -1 for none; None when the trait is not judged in pairs."""
    if not trait.pair:
        return None
    values = [str(labels.get(trait.pair, "")) for labels in turns.conversation_labels]
    _, numbers = np.unique(values, return_inverse=True)
    return np.where(np.array(values) == "", -1, numbers).astype(np.int64)


def find_traits(turns: TurnTable, least: int) -> tuple[Trait, ...]:
    """One trait for each (key, value) that enough turns of `eval` carry and enough do not, most frequent first."""
    return tuple(
        Trait(name=f"{key}:{value}" if value is not True else key, family=key, key=key, value=value)
        for (key, value), count in Counter(_values(turns)).most_common()
        if least <= count
    )


def _values(turns: TurnTable) -> Iterator[tuple[str, bool | str]]:
    for row in turns.rows("eval"):
        for key, value in turns.labels[row].items():
            items: list[Any] = value if isinstance(value, list) else [value]
            for item in dict.fromkeys(item for item in items if isinstance(item, str) or item is True):
                yield key, item
