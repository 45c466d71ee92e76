"""Queries answered: which turns, of how many, and tables of them with their words and their neighbours.

N turns of the index, H turns found (hits).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from turnscope.artifacts.errors import ConfigError
from turnscope.features.query.bind import Index, Names, leaves
from turnscope.features.query.evaluate import Evaluation
from turnscope.features.query.grammar import DEFAULT_LIMITS, Limits, parse
from turnscope.features.query.rows import Ints
from turnscope.features.query.tree import FeatureTest, FieldTest, canonical, field_text
from turnscope.transcripts.store import TranscriptStore

_BASE = ("conversation_id", "turn", "role", "split", "n_tokens")
_BARE_WORD = re.compile(r"(?![fF]\d+$)[\w.-]+")
_BATCH = 5_000  # hits whose words are held at a time
_GAP = 64  # conversations between two wanted ones that are read along
MOST_CONTEXT = 100


class Querier:
    """Answers queries on one index; what it learns of the index is kept from query to query."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.names = Names(index)

    def find(self, text: str, *, limits: Limits = DEFAULT_LIMITS) -> QueryResult:
        """The turns that satisfy a query. Raises QueryError for a mistake in it, DataError when it takes too long."""
        bound = self.names.bind(parse(text, limits), text)
        evaluation = Evaluation(self.index, self.names, limits.seconds)
        rows = evaluation.rows(bound).ascending()
        tests = list(dict.fromkeys(leaves(bound)))
        fields = ((test.name, bool(test.is_label)) for test in tests if isinstance(test, FieldTest))
        return QueryResult(
            query=canonical(bound),
            rows=rows,
            n_turns=self.index.n_turns,
            features=tuple(dict.fromkeys(int(test.feature) for test in tests if isinstance(test, FeatureTest))),
            fields=tuple(dict.fromkeys(fields)),
            notices=(*self.names.notices(bound), *evaluation.notices),
            querier=self,
            evaluation=evaluation,
        )  # fmt: skip

    def feature(self, text: str) -> int:
        """The feature that `F12` or `"words of its explanation"` names. Raises QueryError."""
        wrong = ConfigError(f"not the name of a feature: {text!r}", fix='F12, or "words of its explanation"')
        if _BARE_WORD.fullmatch(text.strip()):
            raise wrong  # else the grammar asks what this field is compared with
        node = parse(text)
        if not isinstance(node, FeatureTest) or node.operator is not None:
            raise wrong
        bound = self.names.bind(node, text)
        assert isinstance(bound, FeatureTest)
        return int(bound.feature)


@dataclass(frozen=True)
class QueryResult:
    """The turns that satisfy a query; its length is their number.

    `query` is its one spelling, with explanations as feature numbers; `rows` are rows of the index, ascending.
    `features` and `fields` (name, whether it is a label) are those that the query names, in order.
    """

    query: str
    rows: Ints
    n_turns: int
    features: tuple[int, ...]
    fields: tuple[tuple[str, bool], ...]
    notices: tuple[str, ...]
    querier: Querier = field(repr=False)
    evaluation: Evaluation = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def n_conversations(self) -> int:
        """Conversations with a turn found."""
        return len(np.unique(self.querier.names.columns.conversation_N[self.rows]))

    @property
    def of_conversations(self) -> int:
        """Conversations with a turn in the index."""
        return self.querier.names.columns.n_conversations

    def ordered(self, by: str | None = None) -> Ints:
        """The rows in the order of the index, or by a feature's value, the strongest first."""
        if by is None:
            return self.rows
        values_H = self._values(self.querier.feature(by), self.rows)
        return self.rows[np.argsort(-values_H, kind="stable")]

    def table(
        self, limit: int | None = None, *, offset: int = 0, by: str | None = None, context: int = 0, texts: bool = True
    ) -> pa.Table:
        """The turns found as one table; see `batches`."""
        return pa.concat_tables(self.batches(limit, offset=offset, by=by, context=context, texts=texts))

    def batches(
        self, limit: int | None = None, *, offset: int = 0, by: str | None = None, context: int = 0, texts: bool = True
    ) -> Iterator[pa.Table]:
        """The turns found, a bounded number at a time; at least one table, so that there are columns.

        Args:
            limit: at most so many turns found, after the first `offset`.
            offset: turns found that are left out at the beginning.
            by: order by this feature's value instead of by row, the strongest first.
            context: also the turns so far before and after each, with `hit` (from 0) and `offset` (0 for the turn
                itself). What is not in the index, such as a system turn, has no values.
            texts: with the words of each turn, null when the index has no transcripts beside it.

        Columns: conversation_id, turn, role, split, n_tokens; every feature named (`F12`: its value, 0 where it is not
        active), field and label (`label.topic`: text, or JSON) named; `text`.
        """
        if not 0 <= context <= MOST_CONTEXT:
            raise ConfigError(f"context must lie between 0 and {MOST_CONTEXT} turns, not {context}")
        if offset < 0 or (limit is not None and limit < 0):
            raise ConfigError("limit and offset cannot be negative")
        wanted = self.ordered(by)[offset:][:limit]
        for start in range(0, max(1, len(wanted)), _BATCH):
            yield self._table(wanted[start : start + _BATCH], start, context, texts=texts)

    def _table(self, rows: Ints, first: int, context: int, *, texts: bool) -> pa.Table:
        places = self._places(rows, first, context, texts=texts)
        turns = self.querier.index.turns
        at = pa.array([place.row for place in places], pa.int64())
        names = [*_BASE, *(name for name, is_label in self.fields if not is_label and name not in _BASE)]
        known = turns.select([name for name in names if name in turns.column_names]).take(at)
        columns: dict[str, Any] = {name: known[name] for name in known.column_names}
        for name in ("conversation_id", "turn", "role", "split"):
            if name in columns:
                # also for turns that are not in the index
                columns[name] = pa.array([getattr(place, name) for place in places], turns.schema.field(name).type)
        if context:
            columns = {
                "hit": pa.array([place.hit for place in places], pa.int64()),
                "offset": pa.array([place.offset for place in places], pa.int32()),
            } | columns
        in_index_N = np.array([place.row is not None for place in places], np.bool_)
        row_N = np.array([place.row or 0 for place in places], np.int64)
        for feature in self.features:
            values = self._values(feature, row_N).astype(np.float32)
            columns[f"F{feature}"] = pa.array(values, pa.float32(), mask=~in_index_N)
        for name, is_label in self.fields:
            if is_label:
                column = self.querier.names.columns.label(name)
                values = [None if place.row is None else column.at(place.row) for place in places]
                shown = [each if isinstance(each, str | None) else json.dumps(each) for each in values]
                columns[field_text(name, is_label=True)] = pa.array(shown, pa.string())
        if texts:
            columns["text"] = pa.array([place.text for place in places], pa.string())
        return pa.table(columns)

    def _values(self, feature: int, rows: Ints) -> np.ndarray[Any, np.dtype[np.float64]]:
        active, values = self.evaluation.postings(feature)
        if not len(active):
            return np.zeros(len(rows))
        at = np.minimum(np.searchsorted(active, rows), len(active) - 1)
        return np.where(active[at] == rows, values[at], 0.0)

    def _places(self, rows: Ints, first: int, context: int, *, texts: bool) -> list[_Place]:
        """The turns to show, hit after hit, each with those around it."""
        index, columns = self.querier.index, self.querier.names.columns
        known = index.turns.select([name for name in _BASE if name in index.turns.column_names])
        hits = known.take(pa.array(rows)).to_pylist()
        said = dict[tuple[str, int], tuple[str, str]]()
        if index.transcripts is not None and (texts or context):
            reach: dict[str, set[int]] = {}
            for hit in hits:
                around = range(hit["turn"] - context, hit["turn"] + context + 1)
                reach.setdefault(hit["conversation_id"], set()).update(around)
            said = words_of(index.transcripts, reach)
        places: list[_Place] = []
        for number, (row, hit) in enumerate(zip(rows.tolist(), hits, strict=True), first):
            for offset in range(-context, context + 1):
                turn = hit["turn"] + offset
                role, text = said.get((hit["conversation_id"], turn), (None, None))
                there = columns.neighbour(row, offset) if offset else row
                if there is not None and role is None:
                    role = index.turns["role"][there].as_py()
                if there is None and role is None:
                    continue
                places.append(_Place(number, offset, there, hit["conversation_id"], turn, role, hit.get("split"), text))
        return places


class _Place(NamedTuple):
    """A turn in a table of results; `row` is None for a turn that is not in the index."""

    hit: int
    offset: int
    row: int | None
    conversation_id: str
    turn: int
    role: str | None
    split: str | None
    text: str | None


def words_of(store: TranscriptStore, reach: dict[str, set[int]]) -> dict[tuple[str, int], tuple[str, str]]:
    """Role and words of the turns asked for, by conversation and number."""
    ids = store.columns(["id"])["id"]
    places = pc.call_function("index_in", [pa.array(list(reach), pa.string())], pc.SetLookupOptions(ids))
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for start, stop in _ranges(sorted(place for place in places.to_pylist() if place is not None)):
        for conversation in store.slice(start, stop):
            turns = reach.get(conversation.id, ())
            found |= {
                (conversation.id, turn.index): (turn.role, turn.text)
                for turn in conversation.turns
                if turn.index in turns
            }
    return found


def _ranges(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges that hold all places, joined where they are near."""
    start = 0
    for number, place in enumerate(places):
        if number + 1 == len(places) or places[number + 1] - place > _GAP:
            yield places[start], place + 1
            start = number + 1
