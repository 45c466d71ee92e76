"""Phrases before changed turns: a planted one is named, in a world of random words."""

from __future__ import annotations

import random

from turnscope.audit.foregoing import Corpus, Foregoing, foregoing, phrases, recurring
from turnscope.transcripts.conversation import Conversation, Part, Turn

WORDS = [f"{a}{b}" for a in "bdfglmnprst" for b in ("an", "el", "ir", "ot")]


def chat(number: int, phrase: str = "") -> Conversation:
    rng = random.Random(number)
    turns = list[Turn]()
    for i in range(4):
        said = " ".join(rng.choices(WORDS, k=8)) + (f". {phrase}!" if phrase and i == 0 else "")
        turns.append(Turn(i, ("user", "assistant")[i % 2], (Part("text", said),)))
    return Conversation(f"chat-{number}", tuple(turns))


def told(changed: list[tuple[Conversation, int]], others: list[Conversation]) -> list[Foregoing]:
    return foregoing(changed, Corpus(others, recurring(changed).keys()))


def test_the_phrase_before_the_changed_turns_is_named() -> None:
    chats = [chat(i, "Open the blue door" if i < 30 else "") for i in range(300)]
    first = told([(each, 3) for each in chats[:20]], chats)[0]
    assert first.phrase == "open the blue door"
    assert (first.changed, first.of_changed, first.others, first.of_others) == (20, 20, 10, 280)
    assert first.p < 1e-10


def test_without_one_nothing_is_remarkable() -> None:
    chats = [chat(i) for i in range(300)]
    assert all(each.p > 0.05 for each in told([(each, 3) for each in chats[:20]], chats))


def test_only_what_stands_before_counts() -> None:
    assert "open the blue door" in phrases(chat(1, "Open the blue door"), 1)
    assert phrases(chat(1, "Open the blue door"), 0) == set()
    assert told([(chat(1, "Open the blue door"), 0)], [chat(2)]) == []


def test_the_corpus_may_be_a_sample_without_the_changed_ones() -> None:
    chats = [chat(i, "Open the blue door" if i < 30 else "") for i in range(300)]
    first = told([(each, 3) for each in chats[:20]], chats[25:])[0]
    assert (first.changed, first.of_changed, first.others, first.of_others) == (20, 20, 5, 275)


def test_only_what_recurs_is_counted_in_the_corpus() -> None:
    changed = [(chat(i, "Open the blue door"), 3) for i in range(5)]
    corpus = Corpus([chat(i) for i in range(200)], recurring(changed).keys())
    assert corpus.counts.keys() <= recurring(changed).keys()
    assert len(corpus.ids) == 200
