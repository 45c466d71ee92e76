"""Nothing that stands in a transcript is rendered, neither by a Markdown viewer nor by a terminal."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import pytest
from rich.console import Console

from turnscope.pipeline.report import _cell, print_report, render_markdown, shorten, visible

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "cell": "a | b | c",
    "code": "`rm -rf /` and ```",
    "ansi": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "override": "abc\u202edef\u2066",
    "link": "[click](javascript:alert(1)) ![i](http://x/y.png)",
    "heading": "\n# Heading\n- item\n> quote",
    "entity": "&lt;b&gt; &#x202e;",
    "struck": "~~gone~~ $x$",
    "returns": "one\r\ntwo\u2028three\u0085four",
    "rich": "[bold red]x[/bold red]",
    "c1": "\u009b31m",
}


def report(text: str) -> dict[str, Any]:
    """A report with the text wherever transcripts, labels or names reach it."""
    trait = {
        "name": text, "family": text, "feature": 1, "auroc": 0.9, "ci": [0.8, 0.95], "shuffled_auroc": 0.5,
        "shuffled_holds": True, "positives": 30,
    }  # fmt: skip
    feature = {
        "feature": 1, "density": 0.1, "role": text, "responds_to": {"trait": text, "auroc": 0.9},
        "turns": [{"role": text, "activation": 1.0, "text": text}],
    }  # fmt: skip
    sae = {
        "features": 4, "l0": 1.0, "nmse_raw": 0.1, "nmse_centred": 0.2, "dead": 0,
        "traits": [trait, {"name": text, "family": "f", "withheld": "few"}], "top_features": [feature],
    }  # fmt: skip
    return {
        "model": text, "site": "resid.1", "turns": 10, "conversations": 5, "saes": {"turn": sae},
        "dropped": {text: 3}, "notices": [text], "seconds": 1.0, "peak_rss_mb": 10,
    }  # fmt: skip


def controls(text: str) -> list[str]:
    return sorted({c for c in text if unicodedata.category(c)[0] == "C" and c != "\n"})


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_markdown_shows_text_as_text(text: str) -> None:
    plain, hostile = render_markdown(report("word")), render_markdown(report(text))
    assert controls(hostile) == []
    assert len(hostile.splitlines()) == len(plain.splitlines())
    # what a Markdown viewer acts on, escapes taken away: the same as with a harmless word
    acts = re.compile(r"[`*_\[\]<>#|~&$]")
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", hostile)
    assert len(acts.findall(bare)) == len(acts.findall(plain))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_terminal_shows_text_as_text(text: str) -> None:
    out = io.StringIO()
    print_report(report(text), Console(file=out, width=200, force_terminal=False))
    assert controls(out.getvalue()) == []
    if text == HOSTILE["rich"]:
        assert text in out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ¿qué? 木 😀", "plain text, ¿qué? 木 😀"),
        ("a\nb", "a ⏎ b"),
        ("\x1b[31m", "\\u001b[31m"),
        ("\u202e", "\\u202e"),
        ("\t\u00a0", "\\u0009\\u00a0"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("plain", "plain"),
        ("<b>", "\\<b\\>"),
        ("a|b", "a\\|b"),
        ("`x`", "\\`x\\`"),
        ("\\|", "\\\\\\|"),
        ("&amp;", "\\&amp;"),
        ("~~x~~", "\\~\\~x\\~\\~"),
        ("\x1b", "\\\\u001b"),
    ],
)
def test_cell(text: str, cell: str) -> None:
    assert _cell(text) == cell


def test_shorten() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
