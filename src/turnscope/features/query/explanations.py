"""Searching what features are said to mean, by their words: SQLite's FTS5, in memory or in a file beside them.

Words are cut to their English stems (refuses finds refused), accents and case do not matter.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from turnscope.artifacts import ConfigError, StorageError, atomic_path, file_sha256

_CHARACTERS, _WORDS = 2_000, 32
_RANKED = 20_000  # explanations; ranking all that have a word such as "the" takes seconds of a million
_WORD = re.compile(r"\w+")
# Rows are read in blocks, so that a million explanations are not all Python objects at once.
_BLOCK = 50_000
_KEPT = 2_000  # explanations; a search of fewer is made faster than a file is found


class Found(NamedTuple):
    """An explanation that a search found. The larger the score the better; scores of two searches do not compare."""

    feature: int
    text: str
    source: str
    score: float


class ExplanationSearch:
    """Full-text search over explanations (feature, text, source).

    Args:
        explanations: the table; copied.
        path: a new file to keep the search index in; None for memory. Raises StorageError when it is there already.
    """

    def __init__(self, explanations: pa.Table, path: Path | None = None) -> None:
        if path is not None and path.exists():
            raise StorageError("there is a file already", where=path, fix="name a new one")
        try:
            self._base = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False)
            with self._base:
                self._base.execute(
                    "CREATE VIRTUAL TABLE explanations USING fts5(text, feature UNINDEXED, source UNINDEXED, "
                    "tokenize = 'porter unicode61 remove_diacritics 2')"
                )
                for start in range(0, len(explanations), _BLOCK):
                    block = explanations.slice(start, _BLOCK)
                    rows = zip(*(block[name].to_pylist() for name in ("text", "feature", "source")), strict=True)
                    self._base.executemany("INSERT INTO explanations VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise StorageError(f"the explanations cannot be indexed: {error}", where=path or "memory") from error

    @classmethod
    def reopen(cls, path: Path) -> ExplanationSearch:
        """One that was kept in a file, for reading. Raises StorageError when it cannot be read."""
        self = cls.__new__(cls)
        try:
            self._base = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
            self._base.execute("SELECT rowid FROM explanations LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the kept search cannot be read: {error}", where=path) from error
        return self

    def find(self, words: str, limit: int = 20) -> list[Found]:
        """The explanations with all of the words, the best first.

        Where none has them all, those in which the last one begins a word; where there are none of these either, those
        with some of the words. Of more than 20,000 only the first 20,000 are ranked. Nothing of `words` is taken for
        syntax. Raises ConfigError when there is no word in it.
        """
        if limit < 1:
            raise ConfigError(f"limit must be 1 or more, not {limit}")
        asked = list(dict.fromkeys(_WORD.findall(words[:_CHARACTERS])))[:_WORDS]
        if not asked:
            raise ConfigError(f"no word to search for in {words[:60]!r}", fix="give a word or more")
        terms = [f'"{word}"' for word in asked]
        tries = (" AND ".join(terms), " AND ".join([*terms[:-1], terms[-1] + "*"]), " OR ".join(terms))
        return next((found for each in tries if (found := self._match(each, limit))), [])

    def _match(self, expression: str, limit: int) -> list[Found]:
        # the words are read for the winners only
        query = (
            "SELECT feature, text, source, -score FROM explanations JOIN ("
            "SELECT number, score FROM (SELECT rowid AS number, rank AS score FROM explanations "
            "WHERE explanations MATCH ? LIMIT ?) ORDER BY score, number LIMIT ?"
            ") ON explanations.rowid = number ORDER BY score, number"
        )
        try:
            rows = self._base.execute(query, (expression, _RANKED, limit)).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the explanations cannot be searched: {error}") from error
        return [Found(int(row[0]), str(row[1]), str(row[2] or ""), float(row[3])) for row in rows]

    def close(self) -> None:
        """Free the memory or the file."""
        self._base.close()


@contextlib.contextmanager
def searching(explanations: pa.Table, kept: Path | None = None) -> Generator[ExplanationSearch]:
    """A search, closed at the end.

    Args:
        explanations: the table.
        kept: the file that it was read from. Of many explanations the search is then kept beside it, for the next
            time, under a name that holds the file's hash; where nothing can be written, in memory as without.
    """
    search = ExplanationSearch(explanations) if kept is None or len(explanations) < _KEPT else _kept(explanations, kept)
    try:
        yield search
    finally:
        search.close()


def _kept(explanations: pa.Table, file: Path) -> ExplanationSearch:
    name = f".{file.stem}.search-{file_sha256(file)[:16]}.sqlite"
    path = file.with_name(name)
    if path.exists():
        with contextlib.suppress(StorageError):
            return ExplanationSearch.reopen(path)
    try:
        with atomic_path(path) as temp:
            ExplanationSearch(explanations, temp).close()
        for old in file.parent.glob(f".{file.stem}.search-*.sqlite"):
            if old != path:
                old.unlink(missing_ok=True)
        return ExplanationSearch.reopen(path)
    except (StorageError, OSError):
        return ExplanationSearch(explanations)


def without_twins(found: list[Found]) -> Mapping[int, Found]:
    """The best explanation of each feature, in order."""
    best: dict[int, Found] = {}
    for each in found:
        best.setdefault(each.feature, each)
    return best


def best_explanations(explanations: pa.Table, features: Sequence[int]) -> dict[int, str]:
    """What some features are said to mean: of several explanations of one the first."""
    options = pc.SetLookupOptions(pa.array(features, pa.int32()))
    wanted = pc.call_function("is_in", [explanations["feature"]], options)
    found: dict[int, str] = {}
    for row in explanations.filter(wanted).to_pylist():
        found.setdefault(row["feature"], row["text"])
    return found
