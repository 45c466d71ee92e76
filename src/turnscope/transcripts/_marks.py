"""Sentinels: private-use characters put just inside the outer white space of every piece of text.

Inside, because templates trim; one pair per piece, because templates cut text at tags such as `</think>`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from turnscope.transcripts.conversation import PartKind, Turn

_PRIVATE_RANGES = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_PRIVATE = re.compile("[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in _PRIVATE_RANGES) + "]")
# Templates split at these tags or test for them at the very start of a text, so a mark must never stand between the
# edge of the text and the tag: the text is cut there and each side marked by itself.
_TAGS = re.compile(
    r"(</?(?:think|thinking|reasoning|thought|tool_call|tool_response|tool_result)>|<\|channel\|?>|<channel\|>|\[/?THINK\])"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text between two marks. `text` has no outer white space."""

    turn: int
    part: int
    kind: PartKind
    text: str
    opening: str
    closing: str


class MarksRunOutError(Exception):
    """More pieces than unused private-use characters."""


class Marker:
    """A `Transform` that marks every piece it sees and remembers it.

    Args:
        used: private-use characters that occur in the input or the template; never taken as marks.
        only: mark the pieces of this turn alone (the first fallback).
    """

    def __init__(self, used: Collection[str], only: int | None = None) -> None:
        self.pieces: list[Piece] = []
        self._only = only
        self._free = _free_characters(used)

    def __call__(self, turn: int, part: int, kind: PartKind, text: str) -> str:
        if self._only is not None and turn != self._only:
            return text
        out: list[str] = []
        for position, chunk in enumerate(_TAGS.split(text)):
            core = chunk.strip()
            if position % 2 or not core:
                out.append(chunk)
                continue
            try:
                opening, closing = next(self._free), next(self._free)
            except StopIteration:
                raise MarksRunOutError from None
            self.pieces.append(Piece(turn, part, kind, core, opening, closing))
            start = len(chunk) - len(chunk.lstrip())
            out += (chunk[:start], opening, core, closing, chunk[start + len(core) :])
        return "".join(out)


def _free_characters(used: Collection[str]) -> Iterator[str]:
    for low, high in _PRIVATE_RANGES:
        for point in range(low, high + 1):
            if (character := chr(point)) not in used:
                yield character


def private_use(texts: Sequence[str]) -> list[str]:
    """Every private-use character in the texts, with repeats."""
    found: list[str] = []
    for text in texts:
        if not text.isascii():
            found += _PRIVATE.findall(text)
    return found


def texts_of(turns: Sequence[Turn]) -> list[str]:
    """Every string of the turns that a template may show (arguments of tool calls as their JSON)."""
    return [part.text for turn in turns for part in turn.parts] + [
        name for turn in turns for name in (turn.role, *(part.name for part in turn.parts)) if name
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a piece stands in the plain render: half-open characters; `status` exact, dropped or ambiguous."""

    piece: Piece
    start: int
    end: int
    status: str


def read_marks(marked: str, pieces: Sequence[Piece]) -> tuple[str, list[Found]]:
    """The marked render with its marks taken out, and the place of every piece in what is left."""
    ours = {mark for piece in pieces for mark in (piece.opening, piece.closing)}
    places: dict[str, list[int]] = {}
    kept: list[str] = []
    done = removed = 0
    for match in _PRIVATE.finditer(marked):
        if (mark := match.group()) in ours:
            at = match.start()
            kept.append(marked[done:at])
            places.setdefault(mark, []).append(at - removed)
            done, removed = at + 1, removed + 1
    kept.append(marked[done:])
    found: list[Found] = []
    for piece in pieces:
        starts, ends = places.get(piece.opening, []), places.get(piece.closing, [])
        if len(starts) == 1 and len(ends) == 1 and starts[0] < ends[0]:
            found.append(Found(piece, starts[0], ends[0], "exact"))
        else:
            found.append(Found(piece, 0, 0, "ambiguous" if starts or ends else "dropped"))
    return "".join(kept), found
