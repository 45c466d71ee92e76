"""Indexes in memory, made from dense codes, and indexes on disk of any size: no model, no dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from turnscope.artifacts import Draft, begin, write_json
from turnscope.artifacts.config import Config
from turnscope.features.arrays import Column, write_arrays
from turnscope.features.store import FeatureIndex, open_index


class _Settings(Config):
    note: str = "planted"


def write_index(folder: Path, codes_NF: Any, conversations_N: Any, **columns: Any) -> FeatureIndex:
    """A finished index of these codes. `columns` replace or add to those of turns.parquet; `labels` are dicts."""
    csr: Any = sparse.csr_array(codes_NF.astype(np.float32))
    csr.sort_indices()
    csc: Any = csr.tocsc()
    csc.sort_indices()
    n, f = codes_NF.shape
    of: NDArray[Any] = np.asarray(conversations_N)
    _, numbers = np.unique(of, return_inverse=True)
    turn_N = np.zeros(n, np.int32)
    for number in range(int(numbers.max()) + 1):
        mine = np.flatnonzero(numbers == number)
        turn_N[mine] = np.arange(len(mine))
    table: dict[str, Any] = {
        "conversation_id": [f"chat-{i}" for i in of.tolist()],
        "turn": turn_N,
        "role": np.where(turn_N % 2, "assistant", "user"),
        "split": np.array(["explain", "eval"])[numbers % 2],
        "group": of,
        "n_tokens": np.full(n, 10, np.int32),
        "language": [""] * n,
        "script": ["LATIN"] * n,
        "text_hash": np.arange(n),
        "outlier": np.zeros(n, np.bool_),
        "labels": [{}] * n,
    }
    table |= columns
    table["labels"] = [json.dumps(each) for each in table["labels"]]
    draft = begin(folder, "features", _Settings(), {"transcripts": "none", "activations": "none", "sae": "none"})
    assert isinstance(draft, Draft)
    pq.write_table(pa.table(table), draft.path / "turns.parquet")
    e = len(csr.data)
    names = {
        "by_turn.ptr": (np.int64, csr.indptr), "by_turn.features": (np.int32, csr.indices),
        "by_turn.values": (np.float32, csr.data), "by_feature.ptr": (np.int64, csc.indptr),
        "by_feature.rows": (np.int32, csc.indices), "by_feature.values": (np.float32, csc.data),
    }  # fmt: skip
    with write_arrays(draft.path, {name: Column(kind, len(values)) for name, (kind, values) in names.items()}) as files:
        for name, (_, values) in names.items():
            files[name].append(values)
    pq.write_table(pa.table({"feature": np.arange(f, dtype=np.int32)}), draft.path / "features.parquet")
    write_json(draft.path / "index.json", {"unit": "turn", "n_turns": n, "n_features": f, "entries": e})
    draft.commit({"turns": n})
    return open_index(draft.path)
