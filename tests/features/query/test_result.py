"""What comes out: order, neighbours, words, and the search over explanations."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from query_support import MemoryIndex, Said, explanation_table

from turnscope.artifacts.errors import ConfigError, StorageError
from turnscope.features.query import ExplanationSearch, Querier
from turnscope.features.store import FeatureIndex


def test_a_table_names_what_the_query_names(stored: FeatureIndex) -> None:
    table = Querier(stored).find("F0 > 0.5 & topic = keys & F2 < 9").table()
    assert table.column_names == [
        "conversation_id", "turn", "role", "split", "n_tokens", "F0", "F2", "label.topic", "text"
    ]  # fmt: skip
    assert table.select(["turn", "F0", "F2", "label.topic", "text"]).to_pylist() == [
        {"turn": 2, "F0": 2.0, "F2": 0.0, "label.topic": "keys", "text": "I cannot help with that."},
        {"turn": 4, "F0": 1.0, "F2": 0.0, "label.topic": "keys", "text": "It is not yours.\x1b[2J\u202e"},
    ]


def test_neighbours_come_with_a_hit_even_those_that_are_not_indexed(stored: FeatureIndex) -> None:
    table = Querier(stored).find("F2 > 0.5").table(context=1)
    assert table.select(["hit", "offset", "turn", "role", "F2", "text"]).to_pylist() == [
        {"hit": 0, "offset": -1, "turn": 0, "role": "system", "F2": None, "text": "You are careful."},
        {"hit": 0, "offset": 0, "turn": 1, "role": "user", "F2": 0.75, "text": "May I copy the key?"},
        {"hit": 0, "offset": 1, "turn": 2, "role": "assistant", "F2": 0.0, "text": "I cannot help with that."},
    ]


def test_without_transcripts_neighbours_are_indexed_turns() -> None:
    corpus = [Said("a", 1, "user", features={0: 1.0}), Said("a", 2, "assistant"), Said("a", 4, "user")]
    table = Querier(MemoryIndex(corpus)).find("F0").table(context=2)
    assert table["turn"].to_pylist() == [1, 2]
    assert table["text"].to_pylist() == [None, None]


def test_order_limit_and_offset() -> None:
    corpus = [Said("a", turn, "user", features={0: value, 1: 1.0}) for turn, value in enumerate([1.0, 3.0, 2.0, 3.0])]
    corpus.append(Said("a", 4, "user", features={1: 1.0}))
    querier = Querier(MemoryIndex(corpus, [(0, "loud")]))
    result = querier.find("F1")
    assert result.table()["turn"].to_pylist() == [0, 1, 2, 3, 4]
    assert result.table(by="F0")["turn"].to_pylist() == [1, 3, 2, 0, 4]
    assert result.table(2, offset=1, by='"loud"')["turn"].to_pylist() == [3, 2]
    assert result.table(0).num_rows == 0
    for wrong in ({"limit": -1}, {"offset": -1}, {"context": -1}, {"context": 101}):
        with pytest.raises(ConfigError):
            result.table(**wrong)


def test_batches_are_the_table() -> None:
    corpus = [Said(f"c{n // 7}", n % 7, "user", features={0: 1.0 + n % 5}) for n in range(12_000)]
    result = Querier(MemoryIndex(corpus)).find("F0 > 1")
    batches = list(result.batches(context=1, texts=False))
    assert len(batches) == 2
    assert sum(batch["offset"].to_pylist().count(0) for batch in batches) == len(result) == 9_600
    assert {batch.schema for batch in batches} == {result.table(1, context=1, texts=False).schema}
    assert batches[1]["hit"][0].as_py() == 5_000


def search(*texts: str) -> ExplanationSearch:
    return ExplanationSearch(explanation_table(list(enumerate(texts))))


def test_explanations_are_found_by_stems_and_beginnings() -> None:
    found = search("politely refuses a request", "a refused demand", "café talk", "talks of the law", "law")
    assert {each.feature for each in found.find("refuse")} == {0, 1}
    assert [each.feature for each in found.find("CAFE")] == [2]
    assert [each.feature for each in found.find("refused poli")] == [0]
    assert found.find("law")[0].feature == 4  # the shorter text is more about it
    # none has both words: those with one
    assert {each.feature for each in found.find("café law")} == {2, 3, 4}
    assert found.find("zebra") == []
    assert len(found.find("law", limit=1)) == 1


WORDS = [
    "law",
    "NEAR",
    "AND",
    "OR",
    "NOT",
    '"',
    "''",
    "*",
    "(",
    ")",
    ":",
    "^",
    "text:law",
    "-",
    ";--",
    "\0",
    "\ud800",
    "_",
    "é",
]


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)))
def test_nothing_of_a_search_is_syntax(words: str) -> None:
    with_law = search("the law", "or and not near")
    with contextlib.suppress(ConfigError):  # there is no word in it
        assert all(each.text in ("the law", "or and not near") for each in with_law.find(words))
    with_law.close()


def test_a_search_can_be_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.sqlite"
    ExplanationSearch(explanation_table([(3, "kept")]), path).close()
    with pytest.raises(StorageError, match="already"):
        ExplanationSearch(explanation_table([]), path)


def test_many_explanations_are_searched_in_order() -> None:
    dice = random.Random(1)
    words = ["law", "health", "refusal", "tone", "greeting", "number", "code"]
    texts = [" ".join(dice.choices(words, k=4)) for _ in range(3_000)]
    found = search(*texts).find("law code", limit=3_000)
    assert {each.feature for each in found} == {
        n for n, text in enumerate(texts) if {"law", "code"} <= set(text.split())
    }
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_an_index_is_asked_itself(stored: FeatureIndex) -> None:
    result = stored.query('"greetings and farewells" & !next(role = user)')
    assert (len(result), result.query) == (1, 'F1 & !next(role = "user")')
    assert "querier" not in repr(result)
    explanations = stored.explanations()
    stored.set_explanations(explanation_table([(2, "greetings and farewells")]))
    assert stored.query('"greetings"').query == "F2"
    stored.set_explanations(explanations)
