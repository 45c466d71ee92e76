"""Computing one shard and writing its files, and joining the pieces into finished artifacts.

Shapes: N turns, T stored tokens, D model width, S segments.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from turnscope.artifacts import Draft, atomic_path, write_bytes, write_json
from turnscope.harvest._safetensors import pack
from turnscope.harvest.batches import batches
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.pool import POSITION_EDGES, Pooled, Row, halving, read_batch
from turnscope.harvest.prepare import Shard
from turnscope.harvest.shards import STATS, TURN_SCHEMA, TURNS, piece_name, shard_name
from turnscope.models.load import DTYPES, SubjectModel
from turnscope.models.site import Site

_KEY = b"turnscope"  # key of a piece's counts and sums in the metadata of its Parquet schema


@dataclass
class _Sums:
    """One site's running sums over a shard."""

    sum_ND: NDArray[np.float32]
    tokens_TD: torch.Tensor
    norm_sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(POSITION_EDGES)))
    norm_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(POSITION_EDGES), np.int64))

    def add(self, batch: Sequence[Row], pooled: Pooled) -> None:
        """Add a batch; the parts of a turn that is spread over windows meet here."""
        np.add.at(self.sum_ND, np.concatenate([row.rows_S for row in batch]), pooled.sums_SD)
        if self.tokens_TD.dim() == 2:
            self.tokens_TD[torch.from_numpy(np.concatenate([row.token_slots for row in batch]))] = pooled.tokens_TD
        self.norm_sums += pooled.norm_sums
        self.norm_counts += pooled.norm_counts


def compute_shard(
    shard: Shard,
    subject: SubjectModel,
    config: HarvestConfig,
    drafts: dict[Site, Draft],
    *,
    on_batch: Callable[[int, int], None],
    log: Callable[[str], None],
) -> None:
    """Run a shard once for all its sites and write each site's tensors, then its piece of the table, which marks it
    finished.

    ``on_batch`` is told the tokens of each batch, without padding and with it.
    """
    token_dtype = None if config.tokens == "none" else DTYPES[config.token_dtype]
    shape = (0,) if token_dtype is None else (shard.n_tokens_stored, subject.d_model)
    sums = {
        site: _Sums(
            np.zeros((len(shard.turns), subject.d_model), np.float32),
            torch.zeros(shape, dtype=token_dtype),
        )
        for site in drafts
    }

    def read(rows: Sequence[Row]) -> dict[Site, Pooled]:
        return read_batch(subject, rows, list(drafts), token_dtype)

    def on_halve(size: int) -> None:
        log(f"shard {shard.index}: out of memory; going on with batches of {size} sequences")

    for indices in batches([len(row.ids) for row in shard.rows], config.batch_tokens):
        batch = [shard.rows[i] for i in indices]
        for part, pooled in halving(batch, read, on_halve):
            for site, result in pooled.items():
                sums[site].add(part, result)
        on_batch(sum(len(row.ids) for row in batch), len(batch) * len(batch[0].ids))
    for site, draft in drafts.items():
        _write_shard(shard, sums[site], config, draft)


def _write_shard(shard: Shard, sums: _Sums, config: HarvestConfig, draft: Draft) -> None:
    n_tokens_N = np.asarray([turn.n_tokens for turn in shard.turns], np.int64)
    with np.errstate(invalid="ignore"):  # an infinite sum is dropped below
        mean_ND = sums.sum_ND / np.maximum(n_tokens_N, 1).astype(np.float32)[:, None]
    stored = torch.from_numpy(mean_ND).to(DTYPES[config.dtype])
    finite_N = torch.isfinite(stored).all(dim=1).numpy()
    kept = np.flatnonzero(finite_N)
    turns = [shard.turns[i] for i in kept]
    norm_N = np.linalg.norm(mean_ND[kept].astype(np.float64), axis=1)
    tensors: dict[str, torch.Tensor] = {"mean_ND": stored[torch.from_numpy(kept)]}
    if config.tokens != "none":
        sizes = np.asarray([len(turn.token_ids) for turn in shard.turns], np.int64)
        tensors |= {
            "tokens_TD": sums.tokens_TD[torch.from_numpy(np.repeat(finite_N, sizes))],
            "token_offsets": torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[kept])])),
            "token_ids_T": _joined([turn.token_ids for turn in turns]),
            "token_positions_T": _joined([turn.token_positions for turn in turns]),
        }
    write_bytes(draft.path / shard_name(shard.index), pack(tensors))
    facts = {
        "counts": {**shard.counts, "dropped.not_finite": len(shard.turns) - len(kept)},
        "square_norms": float((norm_N**2).sum()),
        "tokens": int(n_tokens_N[kept].sum()),
        "norm_sums": sums.norm_sums.tolist(),
        "norm_counts": sums.norm_counts.tolist(),
    }
    columns: dict[str, Any] = {
        name: [getattr(turn, name) for turn in turns] for name in TURN_SCHEMA.names if name != "norm"
    }
    schema = TURN_SCHEMA.with_metadata({_KEY: json.dumps(facts, sort_keys=True).encode()})
    table = pa.table({**columns, "norm": norm_N.astype(np.float32)}, schema=schema)
    with atomic_path(draft.work / piece_name(shard.index)) as path:
        pq.write_table(table, path)


def _joined(parts: Iterable[NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int32))


def is_finished(draft: Draft, index: int) -> bool:
    """Whether a shard of a site was written by an earlier run: its tensors are there and its piece, written after
    them.
    """
    return (draft.work / piece_name(index)).is_file() and (draft.path / shard_name(index)).is_file()


def assemble(draft: Draft, n_shards: int) -> dict[str, int]:
    """Join the pieces into ``turns.parquet``, write ``stats.json`` and return the counts for the manifest."""
    counts: Counter[str] = Counter({"shards": n_shards})
    square_norms, tokens, n_turns = 0.0, 0, 0
    norm_sums, norm_counts = (
        np.zeros(len(POSITION_EDGES)),
        np.zeros(len(POSITION_EDGES), np.int64),
    )
    with (
        atomic_path(draft.path / TURNS) as path,
        pq.ParquetWriter(path, TURN_SCHEMA) as writer,
    ):
        for index in range(n_shards):
            table = cast(pa.Table, pq.read_table(draft.work / piece_name(index)))
            facts = cast("dict[str, Any]", json.loads((table.schema.metadata or {})[_KEY]))
            counts.update(facts["counts"])
            square_norms += facts["square_norms"]
            tokens += facts["tokens"]
            norm_sums += np.asarray(facts["norm_sums"])
            norm_counts += np.asarray(facts["norm_counts"])
            n_turns += len(table)
            writer.write_table(table.replace_schema_metadata(None))
    edges = [*POSITION_EDGES[1:], None]
    stats = {
        "turns": n_turns,
        "tokens_averaged": tokens,
        "mean_square_norm": square_norms / n_turns if n_turns else None,
        "token_norm_by_position": [
            {"from": start, "to": end, "tokens": int(n), "mean_norm": float(total / n)}
            for start, end, n, total in zip(POSITION_EDGES, edges, norm_counts, norm_sums, strict=True)
            if n
        ],
    }
    write_json(draft.path / STATS, stats)
    counts["turns.kept"] = n_turns
    counts["tokens.averaged"] = tokens
    return {name: n for name, n in sorted(counts.items()) if n or name == "turns.kept"}
