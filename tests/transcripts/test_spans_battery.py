"""Every template that trl ships x every shape of conversation x four tokenizers: no span may be wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import span_battery as battery

from turnscope.transcripts import spans as spans_module
from turnscope.transcripts._tokens import token_range
from turnscope.transcripts.spans import token_rows

FEW = ("qwen3", "llama3", "gemma", "phi3")


@pytest.mark.parametrize("kind", ["bpe", "bpe_trim"])
def test_no_wrong_span_on_any_template(kind: str) -> None:
    tally = battery.run_battery(kind)
    assert tally.wrong == []
    counts = tally.counts
    assert counts["renders"] == len(battery.templates()) * len(battery.SHAPES)
    assert counts["no_oracle"] == 0
    assert counts["exact"] >= 0.99 * counts["tried"]
    # Some templates refuse a system prompt or tools; more would mean that we hand them something they cannot take.
    assert counts["refused"] <= 0.02 * counts["renders"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_tokenizers_that_lose_text(kind: str) -> None:
    seen = wrong = 0
    for label, renderer, chat, rendered in battery.cases(kind, battery.ASCII_SHAPES):
        if rendered.status == "refused":
            continue
        chunks = battery.oracle(lambda twin, r=renderer: r.render(twin).text, chat, rendered.text)
        chunks.sort(key=lambda chunk: chunk.start)
        for span in rendered.turns:
            own = [rendered.text[c.start : c.end] for c in chunks if c.turn == span.index]
            if span.status != "exact":
                assert not own or span.status in ("empty", "unverified"), label
                continue
            seen += 1
            rows = token_rows(span, "content")
            said = _squeeze(renderer.tokenizer.decode([rendered.token_ids[row] for row in rows]))
            told = _squeeze("".join(own))
            straddling = _squeeze(renderer.tokenizer.decode([rendered.token_ids[row] for row in span.boundary]))
            # An unknown token stands for whatever word the tokenizer has no pieces for.
            pattern = ".+".join(map(re.escape, re.split(r"\[unk\]|<unk>", said)))
            wrong += not (re.fullmatch(pattern, told) or (straddling and said and _within(said, told)))
    assert seen > 2000
    assert wrong == 0


def _squeeze(text: str) -> str:
    return "".join(text.replace("##", "").lower().split())


def _within(said: str, told: str) -> bool:
    """`said` is `told` with some pieces left out."""
    letters = iter(told)
    return all(letter in letters for letter in said)


def test_the_battery_sees_an_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(starts: list[int], ends: list[int], low: int, high: int):
        found = token_range(starts, ends, low, high)
        return found._replace(end=max(found.start, found.end - 1))

    monkeypatch.setattr(spans_module, "token_range", shifted)
    tally = battery.run_battery("bpe", ["multi"], FEW)
    assert len(tally.wrong) == tally.counts["exact"] + tally.counts["empty"] > 0


def test_the_battery_sees_swapped_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spans_module.read_marks

    def swapped(marked: str, pieces: list[spans_module.Found]):
        text, found = real(marked, pieces)
        turned = [replace(f.piece, turn=f.piece.turn ^ 1) for f in found]
        return text, [replace(f, piece=piece) for f, piece in zip(found, turned, strict=True)]

    monkeypatch.setattr(spans_module, "read_marks", swapped)
    assert len(battery.run_battery("bpe", ["multi"], FEW).wrong) >= 16


def test_the_battery_sees_a_swapped_role(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spans_module.with_edges

    def swapped(*given: object):
        return [replace(span, role="user" if span.role == "assistant" else "assistant") for span in real(*given)]

    monkeypatch.setattr(spans_module, "with_edges", swapped)
    assert battery.run_battery("bpe", ["multi"], FEW).wrong


def test_headers_and_footers_tile_the_render() -> None:
    for label, _, _, rendered in battery.cases("bpe", ["multi", "system", "long", "single"]):
        if rendered.status == "refused":
            continue
        edge = 0
        for span in rendered.turns:
            assert edge <= span.header_start <= span.start <= span.end <= span.footer_end, label
            edge = span.footer_end
        assert edge == len(rendered.token_ids), label
        everything = [row for span in rendered.turns for row in token_rows(span, "all")]
        assert len(everything) == len(set(everything)), label
