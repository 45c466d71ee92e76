"""A mistake in a query, shown under the column where it is."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible

_WINDOW = 60  # characters of the query shown on either side of the mistake


class QueryError(ConfigError):
    """What is wrong with a query, and where: `query[position:end]`; `column` counts characters from 1.

    As text it is one line, then the query with carets under the mistake, then what to do.
    """

    def __init__(self, what: str, query: str, position: int, end: int | None = None, *, fix: str = "") -> None:
        self.query, self.position, self.column = query, position, position + 1
        self.end = max(position + 1, min(len(query), position + 1 if end is None else end))
        what, fix = visible(what), visible(fix)  # both quote the query, or names of the index
        super().__init__(what, where=f"column {self.column}\n{_pointed(query, position, self.end)}", fix=fix)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.query, self.position, self.end, self.fix)


def _rebuild(what: str, query: str, position: int, end: int, fix: str) -> QueryError:
    return QueryError(what, query, position, end, fix=fix)


def _pointed(query: str, position: int, end: int) -> str:
    """The query on one line, cut where it is long, and carets below the marked part."""
    first, last = max(0, position - _WINDOW), min(len(query), max(position, end) + _WINDOW)
    head = ("…" if first else "") + visible(query[first:position])
    marked = visible(query[position:end][:_WINDOW])
    tail = "" if len(query[position:end]) > _WINDOW else visible(query[end:last]) + ("…" if last < len(query) else "")
    return f"    {head}{marked}{tail}\n    {' ' * _width(head)}{'^' * max(1, _width(marked))}"


def _width(text: str) -> int:
    """Columns that printed text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean ...?` with the closest of the known names, or an empty string."""
    names = sorted(set(known))
    lower = {each.lower(): each for each in reversed(names)}
    close = [lower[each] for each in difflib.get_close_matches(name.lower()[:100], lower, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(quoted(each) for each in close)}?" if close else ""


def quoted(text: str, most: int = 60) -> str:
    """Text for a message: short, in double quotes."""
    return f'"{text if len(text) <= most else text[: most - 1] + "…"}"'
