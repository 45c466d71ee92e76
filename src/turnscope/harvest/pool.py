"""One forward pass over a batch, and the reduction over each turn's tokens on the device.

Shapes: B sequences, L places of a batch (sequence after sequence, padding included), D model width, S segments (the
part of a turn that one sequence holds), P picked tokens, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import ModelError
from turnscope.harvest.batches import Ints
from turnscope.models.site import Site
from turnscope.models.subject import Subject

Floats = NDArray[np.float32]
Pool = Literal["mean", "max", "last"]


@dataclass(frozen=True)
class Row:
    """One sequence of a forward pass, and what is read from it.

    Attributes:
        ids: token ids as the model sees them.
        places_P: positions in ``ids`` that are pooled, segment after segment.
        lengths_S: how many of them belong to each segment; never 0.
        rows_S: the shard's row of each segment's turn.
        token_places: positions in ``ids`` whose activations are stored singly.
        token_slots: where in the shard's token block each of them goes.
    """

    ids: list[int]
    places_P: Ints
    lengths_S: Ints
    rows_S: Ints
    token_places: Ints
    token_slots: Ints


@dataclass(frozen=True)
class Pooled:
    """What one batch gives at one site.

    Attributes:
        values_SD: sums, or maxima, of the segments.
        tokens_TD: the tokens stored singly, on the CPU; empty when none are wanted.
        norms_T: of all tokens of the batch, sequence after sequence, without padding.
    """

    values_SD: Floats
    tokens_TD: Tensor
    norms_T: Floats


def pad(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ``ids_BT`` and ``mask_BT``."""
    width = max(map(len, ids))
    ids_BT = torch.full((len(ids), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(ids), width), dtype=torch.long)
    for b, row in enumerate(ids):
        ids_BT[b, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[b, : len(row)] = 1
    return ids_BT, mask_BT


def reduce_segments(resid_LD: Tensor, flat_P: Tensor, lengths_S: Tensor, pool: Pool) -> Tensor:
    """Sum the picked tokens of each segment in float32, or take their maxima: ``values_SD``.

    Tokens are gathered first, so a NaN outside a turn (in padding, or in a neighbour) stays out of its mean, as it
    would not with a product by a 0/1 matrix. The reduction adds in order, so it gives the same bits each time on one
    device.
    """
    picked_PD = resid_LD[flat_P].float()
    if not len(lengths_S):
        return picked_PD.new_zeros((0, resid_LD.shape[-1]))
    how = "max" if pool == "max" else "sum"
    return torch.segment_reduce(picked_PD, how, lengths=lengths_S, axis=0, unsafe=True)


def forward(
    subject: Subject, batch: Sequence[Row], sites: Sequence[Site], *, packed: bool
) -> tuple[dict[Site, Tensor], Ints]:
    """Run one batch: ``resid_LD`` by site, and the place where each sequence begins.

    Args:
        subject: the model; must support packing if it is asked for.
        batch: the sequences.
        sites: where to read.
        packed: lay them end to end, none seeing another; else pad them.
    """
    if packed and len(batch) > 1:
        lengths = [len(row.ids) for row in batch]
        ids_T = torch.tensor(list(chain.from_iterable(row.ids for row in batch)), dtype=torch.long)
        found = subject.capture_packed(ids_T, lengths, sites)
        starts_B = np.cumsum([0, *lengths[:-1]])
    else:
        ids_BT, mask_BT = pad([row.ids for row in batch], subject.pad_id)
        found = subject.capture(ids_BT, mask_BT, sites)
        starts_B = np.arange(len(batch)) * ids_BT.shape[1]
    return {site: resid.reshape(-1, subject.d_model) for site, resid in found.items()}, starts_B


def _flat(places: Sequence[Ints], starts_B: Ints) -> Tensor:
    """Positions in each sequence as places of the batch."""
    return torch.from_numpy(np.concatenate([p + start for p, start in zip(places, starts_B, strict=True)]))


def read_batch(
    subject: Subject,
    batch: Sequence[Row],
    sites: Sequence[Site],
    *,
    token_dtype: torch.dtype | None = None,
    pool: Pool = "mean",
    packed: bool = False,
) -> dict[Site, Pooled]:
    """Run one batch and reduce it at every site.

    Args:
        subject: the model.
        batch: the sequences.
        sites: where to read.
        token_dtype: type of the single tokens that come back on the CPU; None when none are wanted.
        pool: how the tokens of a segment become one; of ``last``, each segment holds just the one.
        packed: as for :func:`forward`.

    Raises:
        torch.OutOfMemoryError: the batch is too large for the device; see :func:`halving`.
    """
    lengths_S = torch.from_numpy(np.concatenate([row.lengths_S for row in batch]))
    pooled: dict[Site, Pooled] = {}
    with torch.inference_mode():
        found, starts_B = forward(subject, batch, sites, packed=packed)
        flat_P = _flat([row.places_P for row in batch], starts_B)
        token_flat = _flat([row.token_places for row in batch], starts_B)
        real_T = _flat([np.arange(len(row.ids)) for row in batch], starts_B)
        for site, resid_LD in found.items():
            where = resid_LD.device  # a model may be spread over several
            tokens_TD = torch.empty(0)
            if token_dtype is not None:
                rows_TD = resid_LD[token_flat.to(where)]
                if token_dtype == torch.float16:  # beyond its range a value would become infinite
                    rows_TD = rows_TD.clamp(-65504, 65504)
                tokens_TD = rows_TD.to(token_dtype).cpu()
            values_SD = reduce_segments(resid_LD, flat_P.to(where), lengths_S.to(where), pool)
            norms_L = torch.linalg.vector_norm(resid_LD, dim=-1, dtype=torch.float32)
            pooled[site] = Pooled(
                cast("Floats", values_SD.cpu().numpy()),
                tokens_TD,
                cast("Floats", norms_L[real_T.to(where)].cpu().numpy()),
            )
    return pooled


Item = TypeVar("Item")
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's error and for the CPU allocator's, which is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halving(
    batch: Sequence[Item],
    read: Callable[[Sequence[Item]], Result],
    on_halve: Callable[[int], None],
) -> list[tuple[Sequence[Item], Result]]:
    """Read a batch, or its halves when the device has no room for it, and so on down to single items.

    Returns the parts that were read, in order, with their results. Raises ModelError when a single item has no room.
    """
    try:
        return [(batch, read(batch))]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise ModelError(
                "out of memory for a single conversation",
                fix="use model_dtype bfloat16, a larger device, or too_long window",
            ) from error
    # Outside the handler: inside it the traceback would keep the failed pass's tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    on_halve(middle)
    return halving(batch[:middle], read, on_halve) + halving(batch[middle:], read, on_halve)
