"""Writes conversations.parquet, a row group at a time; sees to ids, groups and splits on the way.

Columns: id, source, row (of the source, from 0), group, split, lang, n_turns; turns, labels, metadata (JSON).
Memory: one row group, and about 200 bytes a conversation for the ids and texts already seen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from turnscope.artifacts.atomic import atomic_path
from turnscope.artifacts.errors import DataError
from turnscope.transcripts.conversation import Conversation, strict_json, turns_to_json
from turnscope.transcripts.splits import split_of

FILE_NAME = "conversations.parquet"
ROW_GROUP = 2048  # conversations
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("lang", pa.string()),
        ("n_turns", pa.int32()),
        ("turns", pa.string()),
        ("labels", pa.string()),
        ("metadata", pa.string()),
    ]
)


def write_conversations(
    path: Path, rows: Iterable[tuple[int, Conversation]], counts: Counter[str], *, seed: int, group_by: str | None
) -> None:
    """Write (source row, conversation) pairs; what is dropped or changed goes into `counts`.

    Raises:
        DataError: nothing was left to write.
    """
    register = _Register(seed, group_by, counts)
    with atomic_path(path) as temp, pq.ParquetWriter(temp, SCHEMA, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row, conversation in rows:
            if not conversation.turns:
                counts["dropped_no_turns"] += 1
                continue
            if all(turn.is_blank for turn in conversation.turns):
                counts["dropped_only_white_space"] += 1
                continue
            batch.append(register.row(row, conversation))
            if len(batch) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
        if not counts["conversations"]:
            reasons = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
            raise DataError(
                f"no conversation is left ({reasons or 'none came in'})", fix="check the file and its format"
            )


class _Register:
    """Remembers the ids and texts seen, to make ids unique and to bring exact duplicates together."""

    def __init__(self, seed: int, group_by: str | None, counts: Counter[str]) -> None:
        self._seed, self._group_by, self._counts = seed, group_by, counts
        self._ids: set[str] = set()
        self._groups: dict[bytes, str | None] = {}
        self._named: dict[str, str] = {}  # a label's or reader's group -> the group it goes by

    def row(self, row: int, conversation: Conversation) -> dict[str, Any]:
        counts = self._counts
        group = self._group(conversation)
        split = split_of(group, self._seed)
        blank = sum(turn.is_blank for turn in conversation.turns)
        counts["conversations"] += 1
        counts["turns"] += len(conversation.turns)
        counts[f"split_{split}"] += 1
        if blank:
            counts["whitespace_turn"] += blank
        source = conversation.source
        return {
            "id": self._unique(conversation.id or f"{source}/{row}", row),
            "source": source,
            "row": row,
            "group": group,
            "split": split,
            "lang": conversation.lang,
            "n_turns": len(conversation.turns),
            "turns": turns_to_json(conversation.turns),
            "labels": strict_json(conversation.labels),
            "metadata": strict_json(conversation.metadata),
        }

    def _unique(self, name: str, row: int) -> str:
        unique = name
        if name in self._ids:
            self._counts["duplicate_id"] += 1
            unique = f"{name}#{row}"
            again = 2
            while unique in self._ids:
                unique = f"{name}#{row}.{again}"
                again += 1
        self._ids.add(unique)
        return unique

    def _group(self, conversation: Conversation) -> str:
        """The group: a label's value, else what the reader or caller set, else the texts themselves.

        An exact duplicate always takes the group of the first one, whatever it brings, and brings the rest of its own
        group along; where some of that is written already, it is counted as torn.
        """
        texts = text_hash(conversation)
        own = conversation.group
        if self._group_by is not None:
            value = conversation.labels.get(self._group_by)
            if value is None:
                self._counts["group_label_missing"] += 1
            else:
                own = "label-" + hashlib.sha256(strict_json(value).encode()).hexdigest()[:16]
        if texts in self._groups:
            self._counts["duplicate_conversation"] += 1
            first = self._groups[texts] or texts.hex()
            if own and self._named.setdefault(own, first) != first:
                self._counts["group_torn_by_duplicate"] += 1
            return first
        if own:
            own = self._named.setdefault(own, own)
        # None stands for the texts' own hash, so that the usual case holds no second string.
        self._groups[texts] = own or None
        return own or texts.hex()


def text_hash(conversation: Conversation) -> bytes:
    """16 bytes that name the roles and words of a conversation, whatever its id, source and labels."""
    digest = hashlib.sha256()
    for turn in conversation.turns:
        for field in (turn.role, *(f"{part.kind}\x1f{part.name or ''}\x1f{part.text}" for part in turn.parts)):
            data = field.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        digest.update(b"\x1e")
    return digest.digest()[:16]
