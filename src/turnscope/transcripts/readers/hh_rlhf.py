r"""hh-rlhf rows: `chosen` and `rejected`, each one string with "\n\nHuman:" and "\n\nAssistant:" before its turns.

The markers can occur inside a text too, and then nothing tells the two apart. A string whose markers do not strictly
alternate, Human first, is therefore ambiguous and refused; it is never guessed at. (An injected pair of markers in the
right order cannot be seen by anyone.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from turnscope.transcripts.conversation import Conversation, JsonDict, RecordError, as_dict

NAME = "hh_rlhf"
KEYS = "chosen, rejected"
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def detect(record: Mapping[str, Any]) -> bool:
    """True for a row with `chosen` as one string."""
    chosen = record.get("chosen")
    return isinstance(chosen, str) and _MARKER.search("\n\n" + chosen.lstrip()) is not None


def read(record: Mapping[str, Any]) -> Iterator[Conversation]:
    """Up to two conversations, labels.preference chosen and rejected, in one group (they share their prompt)."""
    base = {key: value for key, value in record.items() if key not in ("chosen", "rejected")}
    if record.get("chosen") is None and record.get("rejected") is None:
        raise RecordError("no_string", "neither chosen nor rejected", fix="hh-rlhf rows hold each chat as one string")
    labels = as_dict(base.get("labels"), "labels")
    given = base.get("id") or base.get("conversation_id")
    for preference in ("chosen", "rejected"):
        text = record.get(preference)
        if text is None:
            continue
        if not isinstance(text, str):
            raise RecordError(
                "no_string", f"{preference} is no string", fix="hh-rlhf rows hold each chat as one string"
            )
        messages = split_turns(text)
        row: JsonDict = {**base, "labels": {**labels, "preference": preference}}
        if given:
            row["id"] = f"{given}-{preference}"
        conversation = Conversation.from_record(row, messages)
        prompt = hashlib.sha256(repr(messages[:-1] or messages).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        yield Conversation(
            conversation.id,
            conversation.turns,
            conversation.source,
            conversation.labels,
            conversation.metadata,
            group=f"hh-{prompt}",
        )


def split_turns(text: str) -> list[JsonDict]:
    """The messages of one string. `RecordError` (ambiguous_markers) where the markers do not strictly alternate."""
    head, *rest = _MARKER.split("\n\n" + text.lstrip())
    if head.strip() or not rest:
        raise RecordError("ambiguous_markers", "text before the first marker", fix="hh-rlhf strings start with Human:")
    speakers, texts = rest[::2], rest[1::2]
    if any(speaker != ("Human", "Assistant")[place % 2] for place, speaker in enumerate(speakers)):
        what = "Human and Assistant markers do not alternate"
        raise RecordError("ambiguous_markers", what, fix="such a chat is not imported")
    return [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(speakers, texts, strict=True)]
