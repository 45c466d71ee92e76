"""The indexed turns: which they are, and what transcripts say of each. No torch.

Legend: R rows of the activations, N indexed turns.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from turnscope.artifacts import DataError
from turnscope.harvest.store import ActivationStore
from turnscope.transcripts.conversation import Conversation, Turn, strict_json
from turnscope.transcripts.store import TranscriptStore

Ints = NDArray[np.int64]
_COLUMNS = ["conversation_id", "turn", "role", "split", "group", "n_tokens", "norm"]
_LANGUAGE_LABELS = ("language", "lang")
_LOOKED_AT = 2000  # characters of a turn that tell its script


def turn_table(
    store: ActivationStore, transcripts: TranscriptStore, splits: Sequence[str], outlier_norm: float
) -> pa.Table:
    """The turns of some splits in the order of the store, with facts and labels from the transcripts.

    Columns beside those of the store: `activation_row`; `outlier` (norm so many times the median); `language` (label or
    metadata of the source; empty when none says), `script` (by the Unicode names of its letters), `source`,
    `text_hash`, `labels` (JSON: those of its conversation and its own, which go before).

    Raises DataError when no turn is of these splits, or one is not in the transcripts.
    """
    table = store.table(_COLUMNS)
    rows_N = np.flatnonzero(pc.call_function("is_in", [table["split"]], pc.SetLookupOptions(pa.array(splits))))
    if not len(rows_N):
        raise DataError(f"no turns of the splits {', '.join(splits)}", where=str(store.artifact.path))
    table = table.take(pa.array(rows_N))
    norms_N = table["norm"].to_numpy()
    facts = _facts(table, transcripts)
    return table.append_column("activation_row", pa.array(rows_N)).append_column(
        "outlier", pa.array(norms_N > outlier_norm * np.median(norms_N))
    ).append_column("language", facts.language).append_column("script", facts.script).append_column(
        "source", facts.source
    ).append_column("text_hash", pa.array(facts.text_hash)).append_column("labels", facts.labels)  # fmt: skip


class _Facts:
    def __init__(self, n: int) -> None:
        self.text_hash = np.zeros(n, np.int64)
        self.found = np.zeros(n, np.bool_)
        self._codes = {name: np.zeros(n, np.int32) for name in ("language", "script", "source", "labels")}
        self._values: dict[str, dict[str, int]] = {name: {} for name in self._codes}

    def put(self, row: int, conversation: Conversation, turn: Turn) -> None:
        text = turn.text
        self.text_hash[row] = text_hash(text)
        said = {
            "language": language_of(conversation, turn),
            "script": script_of(text),
            "source": conversation.source,
            "labels": strict_json({**conversation.labels, **turn.labels}),
        }
        for name, value in said.items():
            self._codes[name][row] = self._values[name].setdefault(value, len(self._values[name]))
        self.found[row] = True

    def _column(self, name: str) -> pa.Array:
        values = pa.array(list(self._values[name]) or [""], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(self._codes[name]), values).cast(pa.string())

    @property
    def language(self) -> pa.Array:
        return self._column("language")

    @property
    def script(self) -> pa.Array:
        return self._column("script")

    @property
    def source(self) -> pa.Array:
        return self._column("source")

    @property
    def labels(self) -> pa.Array:
        return self._column("labels")


def _facts(table: pa.Table, transcripts: TranscriptStore) -> _Facts:
    """One pass over the transcripts; the rows of a conversation are found by binary search."""
    facts = _Facts(table.num_rows)
    ids = transcripts.columns(["id"])["id"]
    place_N = pc.call_function("index_in", [table["conversation_id"]], pc.SetLookupOptions(ids.combine_chunks()))
    place_N = np.nan_to_num(place_N.to_numpy().astype(np.float64), nan=-1).astype(np.int64)
    order_N = np.argsort(place_N, kind="stable")
    starts = np.searchsorted(place_N[order_N], np.arange(len(ids) + 1))
    turn_N = table["turn"].to_numpy()
    for number, conversation in enumerate(transcripts):
        rows = order_N[starts[number] : starts[number + 1]]
        if len(rows):
            turns = {turn.index: turn for turn in conversation.turns}
            for row in rows.tolist():
                turn = turns.get(int(turn_N[row]))
                if turn is not None:
                    facts.put(row, conversation, turn)
    lost = int((~facts.found).sum())
    if lost:
        raise DataError(
            f"{lost} of {table.num_rows} stored turns are not in these transcripts",
            where=str(transcripts.artifact.path),
            fix="name the transcripts that the activations were harvested from",
        )
    return facts


def text_hash(text: str) -> int:
    """64 bits that tell texts apart, white space at their ends aside."""
    digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def language_of(conversation: Conversation, turn: Turn) -> str:
    """What the turn's labels say (`language` or `lang`), else what the source says of the conversation, else ""."""
    for name in _LANGUAGE_LABELS:
        value = turn.labels.get(name)
        if isinstance(value, str) and value:
            return value
    return conversation.lang


def script_of(text: str) -> str:
    """The script of most of a text's letters: LATIN, CYRILLIC, CJK, HANGUL ..., or empty when it has none.

    Unicode names every letter after its script ("GREEK SMALL LETTER ALPHA"). It tells alphabets, not languages.

    >>> script_of("Привет, world"), script_of("42")
    ('CYRILLIC', '')
    """
    head = text[:_LOOKED_AT]
    if head.isascii():
        return "LATIN" if any(map(str.isalpha, head)) else ""
    counts = Counter(_script(c) for c in head if c.isalpha())
    return min(counts, key=lambda name: (-counts[name], name)) if counts else ""


def _script(letter: str) -> str:
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "UNKNOWN").split()[0]


def next_rows(conversation_N: Ints, turn_N: Ints) -> Ints:
    """Row of the turn that follows in the same conversation (its number one higher), -1 where it is not indexed."""
    return _row_of(conversation_N, turn_N, turn_N + 1)


def next_rows_of_role(conversation_N: Ints, turn_N: Ints, role_N: Ints) -> Ints:
    """Row of the next turn of the same role in the same conversation, -1 where there is none."""
    order_N = np.lexsort((turn_N, role_N, conversation_N))
    out = np.full(len(order_N), -1, np.int64)
    same = (np.diff(conversation_N[order_N]) == 0) & (np.diff(role_N[order_N]) == 0)
    out[order_N[:-1][same]] = order_N[1:][same]
    return out


def _row_of(conversation_N: Ints, turn_N: Ints, wanted_N: Ints) -> Ints:
    width = int(max(turn_N.max(initial=0), wanted_N.max(initial=0))) + 1
    keys_N = conversation_N * width + turn_N
    order_N = np.argsort(keys_N, kind="stable")
    sought_N = conversation_N * width + wanted_N
    at_N = np.minimum(np.searchsorted(keys_N[order_N], sought_N), len(keys_N) - 1)
    rows_N = order_N[at_N]
    return np.where(keys_N[rows_N] == sought_N, rows_N, -1)
