"""Computing one shard and writing its files.

Shapes: N turns, T stored tokens, D model width, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from turnscope.artifacts import Draft, write_bytes
from turnscope.harvest._safetensors import pack
from turnscope.harvest.batches import batches
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.norms import stored_token_facts, token_facts, turn_facts
from turnscope.harvest.pieces import write_piece
from turnscope.harvest.pool import Pool, Pooled, Row, halving, read_batch
from turnscope.harvest.prepare import Shard
from turnscope.harvest.shards import TURN_SCHEMA, shard_name, turns_name
from turnscope.models.load import DTYPES
from turnscope.models.site import Site
from turnscope.models.subject import Subject

_BLOCK = 8192  # stored tokens whose norms are taken at a time


@dataclass
class Computed:
    """What a shard comes to at one site.

    Attributes:
        values_ND: the pooled turns; of means, the sums.
        tokens_TD: the tokens stored singly.
        norms: of each sequence's tokens.
        pool: how turns are pooled.
    """

    values_ND: NDArray[np.float32]
    tokens_TD: torch.Tensor
    norms: list[NDArray[np.float32]]
    pool: Pool

    def add(self, indices: Sequence[int], batch: Sequence[Row], pooled: Pooled) -> None:
        """Add a batch of the shard's rows; the parts of a turn that is spread over windows meet here."""
        meet = np.maximum if self.pool == "max" else np.add
        meet.at(self.values_ND, np.concatenate([row.rows_S for row in batch]), pooled.values_SD)
        if self.tokens_TD.dim() == 2:
            self.tokens_TD[torch.from_numpy(np.concatenate([row.token_slots for row in batch]))] = pooled.tokens_TD
        ends = np.cumsum([len(row.ids) for row in batch])
        for index, norms_T in zip(indices, np.split(pooled.norms_T, ends[:-1]), strict=True):
            self.norms[index] = norms_T


def compute(
    shard: Shard,
    subject: Subject,
    config: HarvestConfig,
    sites: Sequence[Site],
    *,
    on_batch: Callable[[int, int], None] = lambda tokens, places: None,
    log: Callable[[str], None] = lambda message: None,
) -> dict[Site, Computed]:
    """Run a shard once for several sites. ``on_batch`` is told the tokens of each batch, without padding and with it.

    Raises:
        ModelError: the device has no room for a single conversation.
    """
    token_dtype = None if config.tokens == "none" else DTYPES[config.token_dtype]
    shape = (0,) if token_dtype is None else (shard.n_tokens_stored, subject.d_model)
    start = -np.inf if config.pool == "max" else 0.0
    done = {
        site: Computed(
            np.full((len(shard.turns), subject.d_model), start, np.float32),
            torch.zeros(shape, dtype=token_dtype),
            [np.zeros(0, np.float32)] * len(shard.rows),
            config.pool,
        )
        for site in sites
    }
    packed = config.packing and subject.supports_packing

    def read(indices: Sequence[int]) -> dict[Site, Pooled]:
        rows = [shard.rows[i] for i in indices]
        return read_batch(subject, rows, sites, token_dtype=token_dtype, pool=config.pool, packed=packed)

    def on_halve(size: int) -> None:
        log(f"shard {shard.index}: out of memory; going on with batches of {size} sequences")

    lengths = [len(row.ids) for row in shard.rows]
    for batch in batches(lengths, config.batch_tokens, packed=packed):
        for part, pooled in halving(batch, read, on_halve):
            for site, result in pooled.items():
                done[site].add(part, [shard.rows[i] for i in part], result)
        tokens = sum(lengths[i] for i in batch)
        on_batch(tokens, tokens if packed else len(batch) * lengths[batch[0]])
    return done


def stored_values(shard: Shard, computed: Computed, dtype: str) -> NDArray[np.float32]:
    """Turns as a store would give them back: rounded to its type."""
    return torch.from_numpy(_values(shard, computed)).to(DTYPES[dtype]).float().numpy()


def _values(shard: Shard, computed: Computed) -> NDArray[np.float32]:
    if computed.pool != "mean":
        return computed.values_ND
    n_tokens_N = np.asarray([turn.n_tokens for turn in shard.turns], np.float32)
    with np.errstate(invalid="ignore"):  # an infinite sum is dropped later
        return np.asarray(computed.values_ND / np.maximum(n_tokens_N, 1)[:, None], np.float32)


def compute_shard(
    shard: Shard,
    subject: Subject,
    config: HarvestConfig,
    drafts: Mapping[Site, Draft],
    *,
    on_batch: Callable[[int, int], None],
    log: Callable[[str], None],
) -> None:
    """Compute a shard for all its sites, as :func:`compute`, and write it, as :func:`write_shard`."""
    done = compute(shard, subject, config, list(drafts), on_batch=on_batch, log=log)
    write_shard(shard, done, subject, config, drafts)


def write_shard(
    shard: Shard,
    done: Mapping[Site, Computed],
    subject: Subject,
    config: HarvestConfig,
    drafts: Mapping[Site, Draft],
) -> None:
    """Write each site's tensors, then its turns, which mark the shard as finished. Raises StorageError."""
    for site, computed in done.items():
        _write(shard, computed, subject, config, drafts[site])


def _write(shard: Shard, computed: Computed, subject: Subject, config: HarvestConfig, draft: Draft) -> None:
    n_tokens_N = np.asarray([turn.n_tokens for turn in shard.turns], np.int64)
    mean_ND = _values(shard, computed)
    stored = torch.from_numpy(mean_ND).to(DTYPES[config.dtype])
    finite_N = torch.isfinite(stored).all(dim=1).numpy()
    kept = np.flatnonzero(finite_N)
    turns = [shard.turns[i] for i in kept]
    norm_N = np.linalg.norm(mean_ND[kept].astype(np.float64), axis=1)
    tensors: dict[str, torch.Tensor] = {"mean_ND": stored[torch.from_numpy(kept)]}
    if config.tokens != "none":
        sizes = np.asarray([len(turn.token_ids) for turn in shard.turns], np.int64)
        tensors |= {
            "tokens_TD": computed.tokens_TD[torch.from_numpy(np.repeat(finite_N, sizes))],
            "token_offsets": torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[kept])])),
            "token_ids_T": _joined([turn.token_ids for turn in turns]),
            "token_positions_T": _joined([turn.token_positions for turn in turns]),
        }
    write_bytes(draft.path / shard_name(shard.index), pack(tensors))
    is_train_N = np.asarray([turn.split == "train" for turn in turns], np.bool_)
    norms = {
        **turn_facts(norm_N, n_tokens_N[kept], is_train_N),
        **_token_facts(shard, computed, subject),
    }
    if config.tokens != "none":
        train_T = torch.from_numpy(np.flatnonzero(np.repeat(is_train_N, np.diff(tensors["token_offsets"].numpy()))))
        norms |= stored_token_facts(tensors["tokens_TD"][rows].float().numpy() for rows in train_T.split(_BLOCK))
    facts = {
        "conversations": shard.conversations,
        "counts": {**shard.counts, "dropped.not_finite": len(shard.turns) - len(kept)},
        "norms": norms,
    }
    columns: dict[str, Any] = {
        name: [getattr(turn, name) for turn in turns] for name in TURN_SCHEMA.names if name != "norm"
    }
    write_piece(draft.path / turns_name(shard.index), {**columns, "norm": norm_N.astype(np.float32)}, facts)


def _token_facts(shard: Shard, computed: Computed, subject: Subject) -> dict[str, Any]:
    def text_of(token: int) -> str:
        return subject.tokenizer.decode([token])

    none = np.zeros(0, np.int64)
    return token_facts(
        np.concatenate([none.astype(np.float32), *computed.norms]),
        np.concatenate([none, *(np.arange(len(row.ids)) for row in shard.rows)]),
        np.concatenate([none, *(np.asarray(row.ids, np.int64) for row in shard.rows)]),
        text_of,
    )


def _joined(parts: Iterable[NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int32))


def is_finished(draft: Draft, index: int) -> bool:
    """Whether a shard of a site was written by an earlier run: its tensors are there and its turns, written after
    them.
    """
    return (draft.path / turns_name(index)).is_file() and (draft.path / shard_name(index)).is_file()
