"""Labellers tell, turn by turn, whether a trait shows: parsers, word lists, embeddings, language models.

A room that needs one receives it as an argument and imports none; the command line chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from turnscope.transcripts.conversation import Conversation, Turn

LABELS = pa.schema([("turn", pa.int32()), ("trait", pa.string()), ("value", pa.string()), ("confidence", pa.float32())])
"""`turn` counts the turns that were given from 0. A turn may have rows for several traits, or none: then the labeller
has no opinion. `value` is what the trait is on that turn ("true", "pirate"); `confidence` is in 0..1, or null where the
labeller has no measure of it."""


@dataclass(frozen=True, slots=True)
class TurnInChat:
    """A turn, and the conversation in which it stands."""

    conversation: Conversation
    index: int

    @property
    def turn(self) -> Turn:
        """The turn itself."""
        return self.conversation.turns[self.index]


class Labeller(Protocol):
    """Labels turns."""

    @property
    def name(self) -> str:
        """What artifacts record: which labeller, and what decides its answers."""
        ...

    def label(self, turns: Sequence[TurnInChat]) -> pa.Table:
        """A table of schema `LABELS`."""
        ...


def value_text(value: object) -> str:
    """A label's value as `LABELS` spells it: true and false in small letters, text as it is."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def labels_table(rows: Sequence[tuple[int, str, str, float | None]]) -> pa.Table:
    """Rows of (turn, trait, value, confidence) as a table of schema `LABELS`."""
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, LABELS, strict=True)], schema=LABELS
    )
