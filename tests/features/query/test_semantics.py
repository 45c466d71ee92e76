"""Sets against the definitions: generated queries over generated corpora, and the figures worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from query_support import MemoryIndex, Query, Said, means

from turnscope.features.query import Querier, parse
from turnscope.features.query.tree import text_literal

SIGNS = ["=", "==", "!=", "<", "<=", ">", ">="]
NUMBERS = [0.25, 0.5, 1.0, 1.5, 4.0]
LABELS: dict[str, list[Any]] = {
    "topic": ["law", "health", "art of war", ""],
    "score": [0, 1, 2.5, -3],
    "right": [True, False],
    "tags": [[], ["a"], ["a", "b"], ["b", 3]],
    "mixed": ["1", 1, True, {"deep": 1}],
    "odd key": ["F1"],
}
ROLES = ["user", "assistant", "tool"]


@st.composite
def corpora(draw: st.DrawFn) -> list[Said]:
    """Turns of a few conversations, some not in the index, rows in any order; every label has a value somewhere."""
    corpus = [
        Said("c0", turn, role, labels={key: values[turn % len(values)] for key, values in LABELS.items()})
        for turn, role in enumerate(["user", "assistant", "user", "tool"])
    ]
    for number in range(draw(st.integers(0, 3))):
        for turn in sorted(draw(st.sets(st.integers(0, 6), max_size=6))):
            labels = {
                key: draw(st.sampled_from([*values, None])) for key, values in LABELS.items() if draw(st.booleans())
            }
            said = Said(f"c{number}" if number else "c01", turn, draw(st.sampled_from(ROLES)), labels=labels)
            said.n_tokens = draw(st.sampled_from([None, 1, 5, 40]))
            said.split = draw(st.sampled_from(["train", "eval"]))
            corpus.append(said)
    for said in corpus:
        said.features = draw(st.dictionaries(st.integers(0, 2), st.sampled_from(NUMBERS), max_size=3))
    return draw(st.permutations(corpus))


def field_tests() -> st.SearchStrategy[Query]:
    signs, order = st.sampled_from(SIGNS), st.sampled_from(["=", "!="])
    text = st.tuples(
        st.just("field"), st.sampled_from(["role", "split"]), signs, st.sampled_from([*ROLES, "train", "no"])
    )
    where = st.tuples(st.just("field"), st.just("conversation"), signs, st.sampled_from(["c0", "c01", "c2"]))
    numbers = st.tuples(st.just("field"), st.sampled_from(["turn", "n_tokens"]), signs, st.sampled_from([0, 1, 2.5, 5]))
    labels = [
        st.tuples(st.just("label"), st.just("topic"), signs, st.sampled_from(["law", "art of war", "zoo", ""])),
        st.tuples(st.just("label"), st.just("score"), signs, st.sampled_from([0, 1, 2.5, -4])),
        st.tuples(st.just("label"), st.just("right"), order, st.booleans()),
        st.tuples(st.just("label"), st.just("tags"), signs, st.sampled_from(["a", "b", "c", 3])),
        st.tuples(st.just("label"), st.just("mixed"), order, st.sampled_from(["1", 1, True, False])),
        st.tuples(st.just("label"), st.just("odd key"), order, st.just("F1")),
        st.tuples(st.just("label"), st.sampled_from(list(LABELS))),
        st.tuples(st.just("field"), st.sampled_from(["role", "n_tokens"])),
    ]
    return st.one_of(text, where, numbers, *labels)


def feature_tests() -> st.SearchStrategy[Query]:
    thresholds = st.one_of(
        st.tuples(st.just("raw"), st.sampled_from([-1, 0, 0.25, 0.3, 1, 9])),
        st.tuples(st.just("p"), st.sampled_from([0, 7, 25, 50, 66.6, 90, 100])),
        st.tuples(st.just("max"), st.sampled_from([0, 0.5, 1, 2])),
    )
    feature = st.integers(0, 3)
    return st.one_of(
        st.tuples(st.just("feature"), feature, st.none(), st.none()),
        st.tuples(st.just("feature"), feature, st.sampled_from(SIGNS), thresholds),
    )


def larger(inner: st.SearchStrategy[Query]) -> st.SearchStrategy[Query]:
    lists = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("and"), lists),
        st.tuples(st.just("or"), lists),
        st.tuples(st.sampled_from(["next", "prev", "within"]), st.sampled_from([1, 2, 3, 100]), inner),
        st.tuples(st.sampled_from(["any", "all"]), inner),
        st.tuples(st.just("count"), inner, st.sampled_from(SIGNS), st.sampled_from([0, 1, 2.5])),
    )


QUERIES = st.recursive(st.one_of(feature_tests(), field_tests()), larger, max_leaves=8)
BINDING = {"or": 1, "and": 2, "not": 3}


def write(query: Query, dice: random.Random, around: int = 0) -> str:
    """A spelling of a query; brackets where precedence needs them, and now and then where it does not."""
    kind = query[0]
    space = dice.choice(["", " ", "\n "])
    own = BINDING.get(kind, 4)
    if kind == "or":
        text = dice.choice([" or ", "|", " || "]).join(write(part, dice, 1) for part in query[1])
    elif kind == "and":
        text = dice.choice([" and ", "&", " && "]).join(write(part, dice, 2) for part in query[1])
    elif kind == "not":
        text = dice.choice(["!", "not ", "! ", "NOT "]) + write(query[1], dice, 3)
    elif kind in ("next", "prev", "within"):
        steps = "" if query[1] == 1 and kind != "within" and dice.random() < 0.5 else f"{query[1]},"
        text = f"{kind}({space}{steps}{write(query[2], dice)}{space})"
    elif kind in ("any", "all"):
        text = f"{kind}{space}({write(query[1], dice)})"
    elif kind == "count":
        text = f"count({write(query[1], dice)}) {query[2]}{space}{query[3]}"
    elif kind == "feature":
        text = f"{dice.choice('Ff')}{query[1]}"
        if query[2]:
            kind, number = query[3]
            shown = {"raw": f"{number}", "p": f"p{number}", "max": f"{number}{dice.choice(['', '*', ' '])}max"}[kind]
            text += f"{space}{query[2]}{space}{shown}"
    else:
        name = query[1]
        if kind == "label":
            name = f'label."{name}"' if " " in name else dice.choice(["label.", ""]) + name
        text = f"has({name})"
        if len(query) > 2:
            value = query[3]
            shown = str(value).lower() if isinstance(value, bool) else f"{value}"
            if isinstance(value, str):
                shown = dice.choice([text_literal(value), f"'{value}'"])
            text = f"{name}{space}{query[2]}{space}{shown}"
    return f"({space}{text}{space})" if own <= around or dice.random() < 0.1 else text


@hypothesis_settings(max_examples=150)
@given(corpora(), QUERIES, st.integers(0, 2**32))
def test_sets_agree_with_asking_each_turn(corpus: list[Said], query: Query, seed: int) -> None:
    text = write(query, random.Random(seed))
    expected = [row for row, said in enumerate(corpus) if means(query, corpus, said)]
    querier = Querier(MemoryIndex(corpus))
    result = querier.find(text)
    assert result.rows.tolist() == expected, text
    # the one spelling of the query is the same query
    again = querier.find(result.query)
    assert again.rows.tolist() == expected, result.query
    assert again.query == result.query


@given(QUERIES, st.integers(0, 2**32), st.integers(0, 2**32))
def test_spaces_and_synonyms_do_not_matter(query: Query, first: int, second: int) -> None:
    once, twice = (write(query, random.Random(seed)).replace("label.", "") for seed in (first, second))
    if '"odd key"' not in once:
        assert parse(once) == parse(twice)


def chain(n: int) -> list[Said]:
    return [Said("a", turn, "user" if turn % 2 == 0 else "assistant") for turn in range(n)]


def found(corpus: list[Said], text: str) -> list[int]:
    return Querier(MemoryIndex(corpus)).find(text).rows.tolist()


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(3).gamma(2, 1, 1_000).astype(np.float32)
    corpus = [Said("a", turn, "user", features={0: float(value)}) for turn, value in enumerate(values)]
    corpus += [Said("b", turn, "user") for turn in range(1_000)]  # not active: they do not count
    for percent in (0, 1, 7, 50, 90, 99.5, 100):
        bound = np.percentile(values, percent, method="inverted_cdf")
        assert found(corpus, f"F0 > p{percent}") == np.flatnonzero(values > bound).tolist()
    assert found(corpus, "F0 > p99.9") == [int(values.argmax())]  # one in a thousand, whatever 0.999 * 1000 rounds to


def test_next_is_the_next_number_not_the_next_row() -> None:
    corpus = [Said("a", 0, "user"), Said("a", 1, "assistant"), Said("a", 4, "user", features={0: 1.0})]
    assert found(corpus, "next(F0)") == []
    assert found(corpus, "next(3, F0)") == [1]
    assert found(corpus, "next(!F0)") == [0]
    assert found(corpus, "!next(F0)") == [0, 1, 2]


def test_neighbours_end_with_the_conversation() -> None:
    corpus = [Said("a", 0, "user"), Said("a", 1, "user", features={0: 1.0}), Said("b", 0, "user"), Said("b", 1, "user")]
    assert found(corpus, "prev(10000, F0)") == []
    assert found(corpus, "within(10000, F0)") == [0, 1]
    assert found([*corpus[1:], corpus[0]], "next(F0)") == [3]


def test_precedence() -> None:
    corpus = chain(8)
    for turn, said in enumerate(corpus):
        said.features = {bit: 1.0 for bit in range(3) if turn >> bit & 1}
    assert found(corpus, "F0 | F1 & F2") == [1, 3, 5, 6, 7]
    assert found(corpus, "(F0 | F1) & F2") == [5, 6, 7]
    assert found(corpus, "!F0 & F1") == [2, 6]
    assert found(corpus, "!(F0 & F1)") == [0, 1, 2, 4, 5, 6]
    assert found(corpus, "not F0 > 0.5 or F1 and F2") == [0, 2, 4, 6, 7]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("F0 = 0", [1, 3]), ("F0 < 1", [1, 3]), ("F0 <= 1", [0, 1, 3]), ("F0 >= 0", [0, 1, 2, 3]),
        ("F0 != 1", [1, 2, 3]), ("F0 > -1", [0, 1, 2, 3]), ("F0 > max", []), ("F0 >= max", [2]),
        ("F0 > 0.5max", [2]), ("F0 >= 0.5 max", [0, 2]), ("F0 < p50", [1, 3]), ("F3", []), ("!F3", [0, 1, 2, 3]),
        ("F3 > p50", []), ("F3 <= p50", []), ("F3 < 1", [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_a_feature_is_zero_where_it_is_not_active(text: str, rows: list[int]) -> None:
    corpus = chain(4)
    corpus[0].features, corpus[2].features = {0: 1.0}, {0: 2.0}
    assert found(corpus, text) == rows


def test_missing_is_neither_equal_nor_unequal() -> None:
    corpus = chain(3)
    corpus[0].labels, corpus[1].labels = {"topic": "law"}, {"topic": None}
    corpus[2].labels = {"topic": "art"}
    assert found(corpus, 'topic != "law"') == [2]
    assert found(corpus, '!(topic = "law")') == [1, 2]
    assert found(corpus, "has(topic)") == [0, 2]


def test_an_index_without_turns() -> None:
    result = Querier(MemoryIndex([])).find("F1 > p50 | next(!F0) | count(F2) = 0")
    assert (len(result), result.n_turns, result.n_conversations) == (0, 0, 0)
    assert result.table(context=1).num_rows == 0
