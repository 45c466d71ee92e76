"""What is left when the marked render differs from the plain one: a template looked at the text itself.

In order: one turn marked at a time (still proof, for the turns that come out equal); ordered search for the text;
longest common prefix of the renders with and without the turn. Only the first can be exact; the others find, and do not
prove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from turnscope.transcripts._marks import Found, Marker, MarksRunOutError, Piece, read_marks
from turnscope.transcripts.conversation import JsonDict, MessageForm, PartKind, Turn, turns_to_messages

Render = Callable[[list[JsonDict]], str | None]
"""Messages -> text, or None where the template refuses them."""


def one_turn_at_a_time(
    turns: Sequence[Turn], plain: str, used: set[str], form: MessageForm, render: Render
) -> tuple[list[Found], list[Turn]]:
    """Mark each turn alone. Returns what was found, and the turns whose marked render still differs."""
    found: list[Found] = []
    rest: list[Turn] = []
    for turn in turns:
        marker = Marker(used, only=turn.index)
        try:
            marked = render(turns_to_messages(turns, form, marker))
        except MarksRunOutError:
            marked = None
        stripped, places = read_marks(marked, marker.pieces) if marked is not None else ("", [])
        if marked is not None and stripped == plain:
            found += places
        else:
            rest.append(turn)
    return found, rest


def ordered_search(rest: Sequence[Turn], plain: str, located: Sequence[Found]) -> tuple[list[Found], list[Turn]]:
    """Look for each turn's pieces between its located neighbours.

    A piece seen once in that window is `unverified`, more often `ambiguous`; a turn with a piece that is not there is
    handed back.
    """
    found: list[Found] = []
    left: list[Turn] = []
    for turn in rest:
        everything = [*located, *found]
        low = max((f.end for f in everything if f.piece.turn < turn.index and f.end), default=0)
        high = min((f.start for f in everything if f.piece.turn > turn.index and f.end), default=len(plain))
        marker = Marker(())
        turns_to_messages([turn], transform=marker)
        places: list[Found] = []
        for piece in marker.pieces:
            at = plain.find(piece.text, low, high)
            if at < 0:
                break
            again = plain.find(piece.text, at + 1, high) >= 0
            low = at + len(piece.text)
            places.append(Found(piece, at, low, "ambiguous" if again else "unverified"))
        if places and len(places) == len(marker.pieces):
            found += places
        else:
            left.append(turn)
    return found, left


def common_prefix(
    left: Sequence[Turn], turns: Sequence[Turn], plain: str, form: MessageForm, render: Render
) -> list[Found]:
    """The stretch that a turn adds to the render of the turns before it; `unverified`, `dropped` where it adds none."""
    found: list[Found] = []
    for turn in left:
        at = turns.index(turn)
        edges: list[int] = []
        for count in (at, at + 1):
            text = render(turns_to_messages(turns[:count], form)) if count else ""
            edges.append(0 if text is None else _common(plain, text))
        kinds: list[PartKind] = [part.kind for part in turn.parts if part.text.strip()]
        piece = Piece(turn.index, 0, kinds[0] if kinds else "text", plain[edges[0] : edges[1]].strip(), "", "")
        found.append(Found(piece, edges[0], edges[1], "unverified" if edges[1] > edges[0] else "dropped"))
    return found


def _common(first: str, second: str) -> int:
    """How many leading characters two texts share."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first.startswith(second[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
