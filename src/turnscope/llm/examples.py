"""Positive and negative examples of a topic, written by a language model: texts only, whatever they are used for."""

from __future__ import annotations

import json
from typing import NamedTuple

from turnscope.artifacts import ConfigError, DataError
from turnscope.llm.client import Client
from turnscope.llm.request import Failed, Message, Request

PURPOSE = "examples of a topic"
_LEAST = 2
_TOPIC = 2_000  # characters
_SYSTEM = """You write test messages for a tool that looks for patterns in chats. You are given a topic or a trait.
Write messages as {role}s write them in chats, each standing by itself, in varied wording, length and subject:
- "positive": {n} messages that clearly have the topic or trait;
- "negative": {n} messages that clearly do not, but are like the positive ones in style, length and form.
Answer with one JSON object with these two lists of strings, and nothing else."""


class Examples(NamedTuple):
    """Texts with the topic, and texts without."""

    positive: list[str]
    negative: list[str]


def write_examples(client: Client, topic: str, n: int = 10, *, role: str = "user", seed: int = 0) -> Examples:
    """Ask for `n` texts of each side; blank ones, repeated ones and those on both sides are left out.

    Raises:
        ConfigError: no topic, or `n` below 2.
        DataError: no answer, or one with fewer than two texts on a side.
        PendingAnswers, CeilingReached, StorageError: as `Client.ask`.
    """
    if not topic.strip() or len(topic) > _TOPIC:
        raise ConfigError(f"a topic has 1 to {_TOPIC:,} characters", fix="name what is looked for in a few words")
    if n < _LEAST:
        raise ConfigError(f"{n} examples of each side are too few", fix=f"ask for {_LEAST} or more")
    texts = {"type": "array", "items": {"type": "string"}}
    schema = {
        "type": "object", "properties": {"positive": texts, "negative": texts},
        "required": ["positive", "negative"], "additionalProperties": False,
    }  # fmt: skip
    messages = (Message("system", _SYSTEM.format(role=role, n=n)), Message("user", f"Topic or trait: {topic}"))
    request = Request("", messages, PURPOSE, max_tokens=400 + 200 * n, seed=seed, schema=schema)
    (answer,) = client.ask([request])
    if isinstance(answer, Failed):
        raise DataError(f"no examples of {topic!r}: {answer.reason}", fix="give sets of your own, or another model")
    told = json.loads(answer.text)
    sides = [list(dict.fromkeys(text.strip() for text in told[side] if text.strip())) for side in Examples._fields]
    both = set(sides[0]) & set(sides[1])
    positive, negative = ([text for text in side if text not in both][:n] for side in sides)
    if min(len(positive), len(negative)) < _LEAST:
        counts = f"{len(positive)} positive and {len(negative)} negative"
        raise DataError(f"{counts} examples of {topic!r} came, {_LEAST} of each are needed", fix="ask another model")
    return Examples(positive, negative)
