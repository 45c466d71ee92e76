"""LMSYS-Chat-1M: conversation_id, model, conversation[{role, content}], turn, language, openai_moderation, redacted.

All keys beside the messages are kept as metadata; `openai_moderation` has one verdict per message and becomes a label
of its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from turnscope.transcripts.conversation import Conversation

NAME = "lmsys"
KEYS = "conversation_id, model, conversation"


def detect(record: Mapping[str, Any]) -> bool:
    """True for a row with `conversation` (a list of {role, content}) and an id."""
    turns = record.get("conversation")
    if not isinstance(turns, list) or "conversation_id" not in record:
        return False
    first = cast("list[object]", turns)[:1]
    return not first or (isinstance(first[0], Mapping) and "role" in first[0])


def read(record: Mapping[str, Any]) -> Iterator[Conversation]:
    """One conversation. `DataError` for a message that has no role."""
    conversation = Conversation.from_record(record, record.get("conversation"))
    verdicts = record.get("openai_moderation")
    if isinstance(verdicts, list) and len(cast("list[object]", verdicts)) == len(conversation.turns):
        turns = tuple(
            replace(turn, labels={**turn.labels, "openai_moderation": verdict})
            for turn, verdict in zip(conversation.turns, cast("list[object]", verdicts), strict=True)
        )
        metadata = {key: value for key, value in conversation.metadata.items() if key != "openai_moderation"}
        conversation = replace(conversation, turns=turns, metadata=metadata)
    yield conversation
