"""Headers and footers: the template's own tokens around the content of each turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from turnscope.transcripts._span_types import TurnSpan


def with_edges(spans: Sequence[TurnSpan], token_ids: Sequence[int], bos: int | None) -> list[TurnSpan]:
    """Give every shown turn its header and footer.

    What closes the last turn (all tokens after it) is the footer. A gap between two turns starts with as much of that
    footer as it repeats, and the header of the next turn begins after the footer's last repeat: so a system prompt
    that the template put in by itself belongs to no turn. A turn written inside another one has neither, and its tokens
    are `foreign` to the other. Turns that are not shown stand, with no tokens, where the
    turn before them ends.
    """
    present = sorted((span for span in spans if span.end > span.start), key=lambda span: span.start)
    shown: list[TurnSpan] = []
    nested: dict[int, list[TurnSpan]] = {}
    for span in present:
        if shown and span.start < shown[-1].end:
            nested.setdefault(shown[-1].index, []).append(span)
        else:
            shown.append(span)
    tail = list(token_ids[shown[-1].end :]) if shown else []
    if tail and not _is_last(shown[-1], spans):
        # What follows also holds the scaffold of later, empty turns: the last one of those ends as every turn does.
        tail = tail[len(tail) - 1 - tail[::-1].index(tail[0]) :]
    headers: dict[int, int] = {}
    footers: dict[int, int] = {}
    free = 0  # where the turn before, footer and all, ends
    for position, span in enumerate(shown):
        if position:
            before = shown[position - 1]
            free = before.end + _repeated(token_ids[before.end : span.start], tail)
            footers[before.index] = free
        header = free + _after_last(token_ids[free : span.start], tail)
        if header == 0 and span.start and token_ids[0] == bos:
            header = 1
        headers[span.index] = header
    if shown:
        end = shown[-1].end
        last_footer = _repeated(token_ids[end:], tail)
        footers[shown[-1].index] = end + last_footer
    for inner in (span for inside in nested.values() for span in inside):
        headers[inner.index], footers[inner.index] = inner.start, inner.end
    out: list[TurnSpan] = []
    last = 0
    for span in spans:
        if span.index in headers:
            last = footers[span.index]
            foreign = tuple(sorted({t for inner in nested.get(span.index, ()) for t in range(inner.start, inner.end)}))
            out.append(replace(span, header_start=headers[span.index], footer_end=last, foreign=foreign))
        else:
            out.append(replace(span, start=last, end=last, header_start=last, footer_end=last))
    return out


def _is_last(span: TurnSpan, spans: Sequence[TurnSpan]) -> bool:
    return span.index == spans[-1].index


def _repeated(gap: Sequence[int], tail: Sequence[int]) -> int:
    """How many tokens of `tail` the gap begins with."""
    count = 0
    while count < min(len(gap), len(tail)) and gap[count] == tail[count]:
        count += 1
    return count


def _after_last(gap: Sequence[int], tail: Sequence[int]) -> int:
    """Where in `gap` the last repeat of the footer ends; 0 without one."""
    if tail:
        for at in range(len(gap) - 1, -1, -1):
            if gap[at] == tail[0]:
                return at + _repeated(gap[at:], tail)
    return 0
