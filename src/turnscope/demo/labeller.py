"""The demo's parser as a labeller: the truth of generated text, without a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.parser import label_conversation
from turnscope.transcripts.labeller import TurnInChat, labels_table, value_text


class ParserLabeller:
    """Labels as the grammar gives them, found from text alone.

    `persona`, `tone` and `emotion` are what is in effect, which a system prompt may have set; `persona.shown` and its
    kin what the turn's own words show ("" for nothing). `confidence` is the share of the turn that the parser could
    read.
    """

    @property
    def name(self) -> str:
        """Which parser: it goes with the grammar."""
        return f"parser of grammar {GRAMMAR_VERSION}"

    def label(self, turns: Sequence[TurnInChat]) -> pa.Table:
        """A table of schema `LABELS`; every label of every turn."""
        rows: list[tuple[int, str, str, float | None]] = []
        for place, asked in enumerate(turns):
            said = [(turn.role, turn.text) for turn in asked.conversation.turns[: asked.index + 1]]
            found: dict[str, Any] = label_conversation(said)[-1]
            shown, parsed = found.pop("shown"), float(found.pop("parsed"))
            flat = found | {f"{kind}.shown": value for kind, value in shown.items()}
            rows += [(place, trait, value_text(value), parsed) for trait, value in flat.items() if value is not None]
        return labels_table(rows)
