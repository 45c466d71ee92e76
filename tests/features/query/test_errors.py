"""Mistakes point at their column; no text breaks the parser, and none is run."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from query_support import MemoryIndex, Said

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.features.query import Limits, Querier, QueryError, parse

LABELS = {"topic": "law", "right": True, "score": 2, "tags": ["a", 1], "deep": {"a": 1}}
CORPUS = [Said("a", 0, "user", labels=LABELS, features={0: 1.0}), Said("a", 1, "assistant", features={1: 1.0})]
EXPLANATIONS = [(0, "polite refusal"), (1, "blunt refusal of a request"), (2, "Greetings!")]
QUERIER = Querier(MemoryIndex(CORPUS, EXPLANATIONS))

# query (~ stands before the column that is to be pointed at), what the first line says, what the fix says
MISTAKES = [
    ("~", "empty", "F0"),
    ("F0 >~", "ends too early", "p90"),
    ("F0 &~", "ends too early", "a term is"),
    ("~(F0", "not closed", ")"),
    ("F0~)", "closes nothing", ""),
    ("F0 ~F1", '"F1" cannot stand', "joined by &"),
    ("~0.4 < F0", '"0.4" cannot stand', "F12 > 0.4"),
    ("F0 > 0.2 ~< 0.6", '"<" cannot stand', "F12 > 0.2 & F12 < 0.6"),
    ("F0 & ~& F1", '"&" cannot stand', ""),
    ('F0 & ~"polite', "no end", '"'),
    ("~nxt(F0)", 'no function "nxt"', "next"),
    ("~within(F0)", "within(N, query)", "within(3, F12)"),
    ("within(~0, F0)", "1 to 10,000", ""),
    ("next(~1.5, F0)", "1 to 10,000", ""),
    ("any(F0) ~> 2", "compared with nothing", "inside"),
    ("~count(F0)", "compared with a number", "count(F12) >= 3"),
    ("F0 | ~F4", "no feature F4", "F0 to F3"),
    ("F0 | ~F99999999999999999999999999", "no feature", "F0 to F3"),
    ("F0 > ~user", "compared with a number", "p90"),
    ("F0 > ~p101", "between 0 and 100", ""),
    ("F0 > ~1e999", "too large", ""),
    ("F0 & ~rol = user", 'no field or label "rol"', '"role"'),
    ("~Topic = law", 'no field or label "Topic"', '"topic"'),
    ("~label.topc = law", 'no turn has a label "topc"', '"topic"'),
    ("~role & F0", "compared with nothing", "has(role)"),
    ("~next & F0", "compared with nothing", "next("),
    ("role = ~3", '"role" is text, not a number', '"3"'),
    ("turn = ~user", "is a number, not text", "compare it with a number"),
    ("topic = ~true", "is text, not true or false", '"true"'),
    ("right > ~true", "without an order", "!="),
    ("deep = ~1", "nothing that can be compared", ""),
    ("turn > ~0.5max", "only a feature", "quotes"),
    ('F0 & ~"refusal"', "2 features", 'F0 "polite refusal", F1 "blunt refusal of a request"'),
    ('~"polite refusl" > 0.1', "no feature is explained", '"polite refusal"'),
    ('~label("zebra")', "no feature is explained", "turnscope search"),
    ('~"..."', "name no feature", ""),
    ("F0 ~~ 3", '"~" cannot stand', ""),
    ("日本 ~日本", '"日本" cannot stand', ""),
    ("~f_12 > 1", "no field or label", "F12"),
]


@pytest.mark.parametrize(("marked", "what", "fix"), MISTAKES, ids=[each[0][:30] for each in MISTAKES])
def test_a_mistake_is_shown_where_it_is(marked: str, what: str, fix: str) -> None:
    at = marked.index("~")
    text = marked[:at] + marked[at + 1 :]
    with pytest.raises(QueryError) as caught:
        QUERIER.find(text)
    error = caught.value
    assert error.position == at
    assert what in error.what
    assert fix in error.fix
    assert "\n" not in error.what


def test_carets_stand_below_the_mistake() -> None:
    with pytest.raises(QueryError) as caught:
        QUERIER.find("F0 > 0.4 & rol = assistant")
    assert str(caught.value).splitlines() == [
        'no field or label "rol"',
        "  where: column 12",
        "    F0 > 0.4 & rol = assistant",
        "               ^^^",
        '  fix: did you mean "role"?',
    ]


def test_carets_count_what_a_terminal_shows() -> None:
    with pytest.raises(QueryError) as caught:
        QUERIER.find("topic = '日本' &\n\x1b[2J rol = 1")
    shown, carets = str(caught.value).splitlines()[2:4]
    assert "\x1b" not in str(caught.value)
    assert "\\u001b" in shown
    with pytest.raises(QueryError) as caught:
        QUERIER.find("topic = '日本' & rol = 1")
    shown, carets = str(caught.value).splitlines()[2:4]
    assert carets.index("^") == shown.index("rol") + 2  # each of the two takes two columns


def test_a_long_query_is_shown_around_the_mistake() -> None:
    with pytest.raises(QueryError) as caught:
        QUERIER.find("role = user | " * 20 + "rol = 1" + " | role = user" * 20)
    shown, carets = str(caught.value).splitlines()[2:4]
    assert len(shown) < 160
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "rol"


@pytest.mark.parametrize(
    "text",
    ["F0 " * 2_000, "(" * 4_000 + "F0", "any(" * 1_000 + "F0" + ")" * 1_000, " & ".join(["F0"] * 100), "'" * 4_000,
     "next(" * 33 + "F0" + ")" * 33, "F0 > " + "9" * 4_000, "F" + "9" * 4_000, '"' + "\\" * 4_000],
)  # fmt: skip
def test_what_is_too_much_is_refused_at_once(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(QueryError):
        QUERIER.find(text)
    assert time.monotonic() - start < 0.5


def test_what_is_at_the_limit_is_not() -> None:
    assert parse("(" * 32 + "F0" + ")" * 32)
    assert parse(" & ".join(["F0"] * 64))
    assert parse("!" * 4_000 + "F0") == parse("F0")
    assert len(QUERIER.find("any(" * 32 + "F0" + ")" * 32)) == 2


def test_time_is_held_down() -> None:
    with pytest.raises(DataError, match="took more than 0 s"):
        QUERIER.find("F0 & F1", limits=Limits(seconds=0))


def test_mistakes_survive_a_process() -> None:
    with pytest.raises(QueryError) as caught:
        parse("F0 >")
    call, arguments = caught.value.__reduce__()[:2]  # type: ignore[misc]
    again = call(*arguments)  # type: ignore[operator]
    assert (str(again), again.column) == (str(caught.value), 5)


PIECES = [
    *["F0", "F1", "F999", "&", "|", "!", "not", "and", "or", "(", ")", ",", ">", "<=", "=", "!=", "0.4", "p90", "p"],
    *[
        "max",
        "0.5max",
        "-1",
        "1e5",
        "role",
        "topic",
        "label.topic",
        "label.",
        '"a"',
        '"',
        "'",
        "\\",
        "next(",
        "prev(2,",
    ],
    *[
        "within(3,",
        "any(",
        "count(",
        "has(",
        "label(",
        "true",
        "user",
        " ",
        "\n",
        "\0",
        "\ud800",
        "é",
        "\u202e",
        ";",
        "--",
    ],
    *["/*", "%", "*", "__import__('os')", "'; DROP TABLE turns; --", "{0}", "${x}", "$(id)", "`id`", "\x1b[2J"],
]


def survives(text: str) -> bool:
    """Whether the query is answered; a refusal must point into it."""
    error = None
    try:
        QUERIER.find(text)
    except QueryError as refusal:
        error = refusal
    if error is not None:
        assert 0 <= error.position <= len(text)
        assert not any(ord(character) < 32 and character != "\n" for character in str(error))
    return error is None


@given(st.text(max_size=60))
def test_any_text_is_answered_or_refused(text: str) -> None:
    survives(text)


@pytest.mark.parametrize("n", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_pieces_of_queries_in_any_order_are_answered_or_refused(n: int) -> None:
    dice = random.Random(n)
    answered = sum(survives("".join(dice.choices(PIECES, k=dice.randint(1, 9)))) for _ in range(n))
    assert answered > n // 200  # some of them are queries


def test_a_name_that_is_no_feature_is_told() -> None:
    with pytest.raises(ConfigError, match="not the name of a feature"):
        QUERIER.find("F0").table(by="F0 > 3")


def test_a_value_that_no_turn_has_is_told() -> None:
    result = QUERIER.find("role = asistant | F3 > p90 | tags = b | topic != law")
    assert len(result) == 0
    assert [notice.partition(";")[0] for notice in result.notices] == [
        'no turn has role = "asistant"',
        'no turn has tags = "b"',
        "F3 is active on no turn: it has no percentiles and no maximum",
    ]
    assert 'did you mean "assistant"?' in result.notices[0]


def test_words_name_the_feature_they_explain() -> None:
    assert QUERIER.find('"Polite  refusal!"').query == "F0"
    assert QUERIER.find('label("blunt")').query == "F1"
    assert QUERIER.find("'greetings' > 0.5").query == "F2 > 0.5"


def test_queries_need_no_torch() -> None:
    code = """
import sys
import turnscope.features.query.result, turnscope.features.query.explanations
import turnscope.features.store, turnscope.cli.query
print(*sorted({"torch", "transformers", "sklearn"} & {name.partition(".")[0] for name in sys.modules}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_every_query_in_the_docs_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "query.md").read_text("utf-8")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row.replace("\\|", "|")) if span != "( )"]
    asked = re.findall(r"turnscope query \S+ '([^']+)'", text)
    assert len(spans) > 15
    assert len(asked) > 2
    for query in [*spans, *asked]:
        parse(re.sub(r"\b[QR]\b", "F1", query))
