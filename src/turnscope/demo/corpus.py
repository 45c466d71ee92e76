"""The labelled corpus of the demo: conversations the model has never seen, as `Conversation`s.

Two kinds: general ones, and matched pairs that differ only in the digit a puzzle forbids, so that the same answer
in the same words is right in one and wrong in the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from turnscope.artifacts import write_text
from turnscope.demo import puzzles
from turnscope.demo.bank import EMOTIONS, LANGUAGES, PERSONAS, TONES, TOPICS
from turnscope.demo.grammar import Message, Options, Writer
from turnscope.evaluation.config import Trait
from turnscope.transcripts.conversation import Conversation, Part, Turn

INTENTS = ("question", "advice", "list_request", "code_request", "follow_up", "complaint", "praise", "harmful")
PAIR = "matched_pair"

# A model this small learns each language's words apart, and the other three have six nouns a topic: what a turn is
# about, and what its user wants, is asked of English turns.
ENGLISH = {"language": "en"}

_FAMILIES: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    ("topic", TOPICS, ENGLISH),
    ("language", LANGUAGES, {}),
    ("persona", PERSONAS, {}),
    ("tone", TONES, {}),
    ("intent", INTENTS, ENGLISH),
    ("form", ("list", "code"), {}),
    ("emotion", EMOTIONS, {}),
)
TRAITS: tuple[Trait, ...] = (
    *(
        Trait(name=f"{family}:{value}", family=family, key=family, value=value, without=PAIR, within=within)
        for family, values, within in _FAMILIES
        for value in values
    ),
    Trait(name="refusal", family="refusal", key="refusal", value=True, without=PAIR),
    Trait(name="answer:wrong (unmatched)", family="answer", key="answer", value="wrong", without=PAIR),
    Trait(name="wrong answer (matched)", family="answer", key="answer", value="wrong", pair=PAIR),
)


def conversations(seed: int, count: int, pairs: int) -> Iterator[Conversation]:
    """`count` general conversations, then `pairs` matched pairs, all with puzzles and people kept from training."""
    writer = Writer(Options(unseen=True))
    for index in range(count):
        yield _conversation(f"chat-{seed}-{index}", writer.write(seed, index))
    for index in range(pairs):
        for verdict, messages in zip(("right", "wrong"), matched_pair(writer, seed, index), strict=True):
            pair = f"pair-{seed}-{index}"
            made = _conversation(f"{pair}-{verdict}", messages)
            yield replace(made, group=pair, labels={PAIR: pair})


def matched_pair(writer: Writer, seed: int, index: int) -> tuple[list[Message], list[Message]]:
    """The same short conversation twice, ending in the same answer: right in the first, wrong in the second."""
    rng = random.Random(f"pair/{seed}/{index}")
    state = rng.getrandbits(64)
    value_of = puzzles.draw_pair(rng)
    right, wrong = (writer.puzzle_only(random.Random(state), puzzle) for puzzle in value_of)
    return right, wrong


def write_jsonl(path: Path, seed: int, count: int) -> None:
    """General conversations as messages JSONL, labels in `labels.turn_labels`, ready for `turnscope import`."""
    lines: list[str] = []
    for made in conversations(seed, count, 0):
        labels = {"turn_labels": [dict(turn.labels) for turn in made.turns]}
        lines.append(json.dumps({"id": made.id, "messages": made.to_messages(), "labels": labels}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _conversation(name: str, messages: Sequence[Message]) -> Conversation:
    turns = tuple(Turn(i, m.role, (Part("text", m.text),), m.labels) for i, m in enumerate(messages))
    return Conversation(name, turns, source="turnscope demo grammar")
