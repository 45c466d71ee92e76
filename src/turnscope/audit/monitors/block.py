"""Some conversations at a time, as a small index: enough for rules and probes. No torch.

Legend: N turns of a block, E entries (turn after turn), F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.features.store import EXPLANATION_SCHEMA, FeatureIndex
from turnscope.transcripts.store import TranscriptStore

Ints = NDArray[np.int64]


class Block:
    """Whole conversations with the codes of their turns; answers what the query language asks of an index."""

    transcripts: TranscriptStore | None = None

    def __init__(
        self, turns: pa.Table, ptr: Ints, features_E: NDArray[Any], values_E: NDArray[np.float32], n_features: int,
        texts: dict[tuple[str, int], str] | None, counts: Counter[str] | None = None,
    ) -> None:  # fmt: skip
        self.turns, self.n_turns, self.n_features = turns, turns.num_rows, n_features
        self.ptr, self.features_E, self.values_E = ptr, features_E, values_E
        self.texts, self.counts = texts, counts or Counter[str]()

    @cached_property
    def _row_E(self) -> Ints:
        return np.repeat(np.arange(self.n_turns), np.diff(self.ptr))

    def feature_turns(self, feature: int) -> tuple[Ints, NDArray[np.float32]]:
        """Rows on which a feature fires, and its values there."""
        here = np.flatnonzero(self.features_E == feature)
        return self._row_E[here], np.asarray(self.values_E[here], np.float32)

    def explanations(self) -> pa.Table:
        """None: the rule of a monitor names features by number."""
        return EXPLANATION_SCHEMA.empty_table()


def blocks_of(index: FeatureIndex, rows: Ints, most_turns: int) -> Iterator[tuple[Block, Ints]]:
    """The turns of an index in blocks of whole conversations, each with its rows; no block is much above `most_turns`.

    `rows` are those that are wanted; the others of their conversations come along, since a rule may look at them.
    """
    conversation_N = index.turns["conversation_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    wanted_N = np.zeros(index.n_turns, np.bool_)
    wanted_N[rows] = True
    order_N = np.argsort(conversation_N, kind="stable")
    starts = np.flatnonzero(np.diff(conversation_N[order_N], prepend=-1))
    ends = np.append(starts[1:], index.n_turns)
    taken: list[Ints] = []
    size = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        part = order_N[start:end]
        if not wanted_N[part].any():
            continue
        taken.append(part)
        size += len(part)
        if size >= most_turns:
            yield _block(index, np.sort(np.concatenate(taken)))
            taken, size = [], 0
    if taken:
        yield _block(index, np.sort(np.concatenate(taken)))


def _block(index: FeatureIndex, rows: Ints) -> tuple[Block, Ints]:
    ptr, features_E, values_E = index.turn_codes(rows)
    turns = index.turns.select(["conversation_id", "turn", "role", "n_tokens"]).take(pa.array(rows))
    return Block(turns, ptr, features_E, values_E, index.n_features, None), rows
