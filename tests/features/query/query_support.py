"""Small corpora, held in memory or written as a real index, and queries over them as nested tuples.

The reference evaluator asks every turn by itself, from the definitions of docs/query.md: no sets, no arrays, no parser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from turnscope.artifacts import begin, write_json
from turnscope.artifacts.config import Config
from turnscope.features.arrays import Column, write_arrays
from turnscope.features.store import FeatureIndex, open_index
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.import_ import run as import_transcripts

N_FEATURES = 4  # of generated corpora; the last one is never active


@dataclass
class Said:
    """One indexed turn."""

    conversation: str
    turn: int
    role: str
    split: str = "train"
    n_tokens: int | None = 10
    labels: dict[str, Any] = field(default_factory=dict)
    features: dict[int, float] = field(default_factory=dict)
    text: str = ""


def turn_table(corpus: Sequence[Said]) -> pa.Table:
    return pa.table(
        {
            "conversation_id": pa.array([said.conversation for said in corpus], pa.string()),
            "turn": pa.array([said.turn for said in corpus], pa.int32()),
            "role": pa.array([said.role for said in corpus], pa.string()),
            "split": pa.array([said.split for said in corpus], pa.string()),
            "n_tokens": pa.array([said.n_tokens for said in corpus], pa.int32()),
            "labels": pa.array([json.dumps(said.labels) for said in corpus], pa.string()),
        }
    )


class MemoryIndex:
    """The part of a feature index that queries read."""

    transcripts = None

    def __init__(
        self, corpus: Sequence[Said], explanations: Sequence[tuple[int, str]] = (), n: int = N_FEATURES
    ) -> None:
        self.turns, self.n_turns, self.n_features = turn_table(corpus), len(corpus), n
        self._postings = [postings(corpus, feature) for feature in range(N_FEATURES)]
        self._explanations = explanation_table(explanations)

    def feature_turns(self, feature: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return self._postings[feature]

    def explanations(self) -> pa.Table:
        return self._explanations


def explanation_table(pairs: Sequence[tuple[int, str]]) -> pa.Table:
    return pa.table(
        {
            "feature": pa.array([feature for feature, _ in pairs], pa.int32()),
            "text": pa.array([text for _, text in pairs], pa.string()),
            "source": pa.array(["hand"] * len(pairs), pa.string()),
        }
    )


def postings(corpus: Sequence[Said], feature: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows = [row for row, said in enumerate(corpus) if feature in said.features]
    return np.array(rows, np.int64), np.array([corpus[row].features[feature] for row in rows], np.float32)


# The reference: what a query means, for one turn.

Query = tuple[Any, ...]


def means(query: Query, corpus: Sequence[Said], at: Said) -> bool:
    kind = query[0]
    if kind == "not":
        return not means(query[1], corpus, at)
    if kind == "and":
        return all(means(part, corpus, at) for part in query[1])
    if kind == "or":
        return any(means(part, corpus, at) for part in query[1])
    if kind in ("next", "prev", "within"):
        _, n, inner = query
        for other in corpus:
            if other.conversation != at.conversation:
                continue
            distance = other.turn - at.turn
            near = {"next": 0 < distance <= n, "prev": 0 < -distance <= n, "within": abs(distance) <= n}[kind]
            if near and means(inner, corpus, other):
                return True
        return False
    if kind in ("any", "all", "count"):
        truths = [means(query[1], corpus, other) for other in corpus if other.conversation == at.conversation]
        if kind == "count":
            return compare(truths.count(True), query[2], query[3])
        return any(truths) if kind == "any" else all(truths)
    if kind == "feature":
        return feature_means(query, corpus, at)
    _, name, *rest = query
    value = at.labels.get(name) if kind == "label" else getattr(at, name)
    if value is None:
        return False
    return True if not rest else value_means(value, *rest)


def feature_means(query: Query, corpus: Sequence[Said], at: Said) -> bool:
    _, feature, sign, threshold = query
    if sign is None:
        return feature in at.features
    kind, number = threshold
    active = sorted(said.features[feature] for said in corpus if feature in said.features)
    if kind != "raw" and not active:
        return False
    if kind == "max":
        number = number * active[-1]
    if kind == "p":
        share = Fraction(str(number)) / 100
        number = next(v for v in active if Fraction(sum(each <= v for each in active), len(active)) >= share)
    return compare(at.features.get(feature, 0.0), sign, number)


def value_means(value: Any, sign: str, wanted: Any) -> bool:
    if isinstance(value, list):
        if sign == "!=":
            return not any(value_means(item, "=", wanted) for item in value)
        return any(value_means(item, sign, wanted) for item in value)
    alike = type(value) is type(wanted) or {type(value), type(wanted)} == {int, float}
    return compare(value, sign, wanted) if alike else sign == "!="


def compare(a: Any, sign: str, b: Any) -> bool:
    if sign in ("=", "=="):
        return bool(a == b)
    if sign == "!=":
        return bool(a != b)
    if sign in ("<", "<="):
        return bool(a < b or (sign == "<=" and a == b))
    return bool(a > b or (sign == ">=" and a == b))


# A real index on disk.

CHATS = {
    "calm": [
        ("system", "You are careful."),
        ("user", "May I copy the key?"),
        ("assistant", "I cannot help with that."),
        ("user", "Why not?"),
        ("assistant", "It is not yours.\x1b[2J\u202e"),
    ],
    "open": [("user", "Hello"), ("assistant", "Hello, friend"), ("user", "Bye"), ("assistant", "Bye")],
}
VALUES = {
    ("calm", 2): {0: 2.0, 1: 0.5},
    ("calm", 4): {0: 1.0},
    ("open", 1): {1: 1.0, 2: 0.25},
    ("open", 3): {1: 1.0},
    ("calm", 1): {2: 0.75},
}
EXPLANATIONS = [(0, "polite refusal"), (1, "greetings and farewells"), (2, "\x1b[31m keys"), (3, "blunt refusal")]


class _Settings(Config):
    note: str = "made by hand"


def topic(name: str) -> dict[str, str]:
    return {"topic": "keys" if name == "calm" else "chat"}


def write_index(run: Path) -> FeatureIndex:
    """`run/features/hand`, with `run/transcripts` beside it. System turns are not indexed."""
    records = [
        {
            "id": name,
            "messages": [{"role": role, "content": text} for role, text in turns],
            "labels": {"turn_labels": [topic(name) for _ in turns]},
        }
        for name, turns in CHATS.items()
    ]
    chats = run / "chats.jsonl"
    chats.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    transcripts = import_transcripts(ImportConfig(sources=(chats,), out=run / "transcripts", workers=1))
    corpus = [
        Said(
            name,
            turn,
            role,
            labels=records[number]["labels"]["turn_labels"][turn],
            features=VALUES.get((name, turn), {}),
        )
        for number, (name, turns) in enumerate(CHATS.items())
        for turn, (role, _) in enumerate(turns)
        if role != "system"
    ]
    draft = begin(run / "features" / "hand", "features", _Settings(), {"transcripts": transcripts.fingerprint})
    assert not hasattr(draft, "fingerprint")
    found = [postings(corpus, feature) for feature in range(N_FEATURES)]
    pq.write_table(turn_table(corpus), draft.path / "turns.parquet")
    features = {
        "feature": list(range(N_FEATURES)),
        "n_turns": [len(rows) for rows, _ in found],
        "density": [len(rows) / len(corpus) for rows, _ in found],
        "max": [float(values.max(initial=0)) for _, values in found],
    }
    pq.write_table(pa.table(features), draft.path / "features.parquet")
    total = sum(len(rows) for rows, _ in found)
    columns = {
        "by_feature.ptr": Column(np.int64, N_FEATURES + 1),
        "by_feature.rows": Column(np.int32, total),
        "by_feature.values": Column(np.float32, total),
    }
    with write_arrays(draft.path, columns) as writers:
        writers["by_feature.ptr"].append(np.cumsum([0, *(len(rows) for rows, _ in found)]))
        for rows, values in found:
            writers["by_feature.rows"].append(rows)
            writers["by_feature.values"].append(values)
    write_json(draft.path / "index.json", {"unit": "turn", "n_turns": len(corpus), "n_features": N_FEATURES})
    draft.commit({"turns": len(corpus)})
    index = open_index(run / "features" / "hand")
    index.set_explanations(explanation_table(EXPLANATIONS))
    return index
