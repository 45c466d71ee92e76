"""Hugging Face `messages` rows: {"messages": [{"role", "content", ...}], "id"?, "labels"?, "lang"?, "source"?}."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from turnscope.transcripts.conversation import Conversation

NAME = "messages"
KEYS = "messages"


def detect(record: Mapping[str, Any]) -> bool:
    """True for a row with a list of messages."""
    return isinstance(record.get("messages"), list)


def read(record: Mapping[str, Any]) -> Iterator[Conversation]:
    """One conversation. `DataError` for a message that has no role."""
    yield Conversation.from_record(record, record.get("messages"))
