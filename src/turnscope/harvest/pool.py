"""One forward pass over a batch, and the sum over each turn's tokens on the device.

Shapes: B batch, T tokens (padded), D model width, S segments (the part of a turn that one sequence holds), P picked
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import ModelError
from turnscope.harvest.batches import Ints
from turnscope.models.load import SubjectModel
from turnscope.models.site import Site

Floats = NDArray[np.float32]

# Buckets of position in the forward pass: the first token is an attention sink whose norm can be a thousand times the
# rest.
POSITION_EDGES = (0, 1, 4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class Row:
    """One row of a forward pass, and what is read from it.

    Attributes:
        ids: token ids as the model sees them.
        places_P: positions in ``ids`` that are averaged, segment after segment.
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
    """What one batch gives at one site."""

    sums_SD: Floats
    tokens_TD: Tensor
    norm_sums: NDArray[np.float64]
    norm_counts: Ints


def pad(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ``ids_BT`` and ``mask_BT``."""
    width = max(map(len, ids))
    ids_BT = torch.full((len(ids), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(ids), width), dtype=torch.long)
    for b, row in enumerate(ids):
        ids_BT[b, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[b, : len(row)] = 1
    return ids_BT, mask_BT


def segment_sums(resid_BTD: Tensor, flat_P: Tensor, lengths_S: Tensor) -> Tensor:
    """Sum the picked tokens of each segment in float32: ``sums_SD``.

    Tokens are gathered first, so a NaN outside a turn (in padding, or in a neighbour) stays out of its mean, as it
    would not with a product by a 0/1 matrix. The reduction adds in order, so it gives the same bits each time on one
    device.
    """
    picked_PD = resid_BTD.reshape(-1, resid_BTD.shape[-1])[flat_P].float()
    if not len(lengths_S):
        return picked_PD.new_zeros((0, resid_BTD.shape[-1]))
    return torch.segment_reduce(picked_PD, "sum", lengths=lengths_S, axis=0, unsafe=True)


def norms_by_position(resid_BTD: Tensor, lengths_B: Sequence[int]) -> tuple[NDArray[np.float64], Ints]:
    """Sum and number of finite token norms in each bucket of position; padding is left out."""
    norms_BT = torch.linalg.vector_norm(resid_BTD, dim=-1, dtype=torch.float32).cpu().numpy()
    position_T = np.arange(norms_BT.shape[1])
    real_BT = (position_T[None, :] < np.asarray(lengths_B)[:, None]) & np.isfinite(norms_BT)
    bucket_T = np.searchsorted(POSITION_EDGES, position_T, side="right") - 1
    n = len(POSITION_EDGES)
    sum_T = np.where(real_BT, norms_BT, 0.0).sum(axis=0, dtype=np.float64)
    return (
        np.bincount(bucket_T, weights=sum_T, minlength=n).astype(np.float64),
        np.bincount(bucket_T, weights=real_BT.sum(axis=0), minlength=n).astype(np.int64),
    )


def _flat(places: Sequence[Ints], width: int) -> Tensor:
    """Positions in each row's sequence as positions in the flattened batch."""
    return torch.from_numpy(np.concatenate([p + b * width for b, p in enumerate(places)]))


def read_batch(
    subject: SubjectModel,
    batch: Sequence[Row],
    sites: Sequence[Site],
    token_dtype: torch.dtype | None,
) -> dict[Site, Pooled]:
    """Run one batch and reduce it at every site.

    Args:
        subject: the model.
        batch: the sequences, padded here.
        sites: where to read.
        token_dtype: type of the single tokens that come back on the CPU; None when none are wanted.

    Raises:
        torch.OutOfMemoryError: the batch is too large for the device; see :func:`halving`.
    """
    ids_BT, mask_BT = pad([s.ids for s in batch], subject.pad_id)
    width = ids_BT.shape[1]
    flat_P = _flat([s.places_P for s in batch], width).to(subject.device)
    lengths_S = torch.from_numpy(np.concatenate([s.lengths_S for s in batch])).to(subject.device)
    token_flat = _flat([s.token_places for s in batch], width).to(subject.device)
    pooled: dict[Site, Pooled] = {}
    with torch.inference_mode():
        for site, resid_BTD in subject.capture(ids_BT, mask_BT, sites).items():
            tokens_TD = torch.empty(0)
            if token_dtype is not None:
                rows_TD = resid_BTD.reshape(-1, subject.d_model)[token_flat]
                if token_dtype == torch.float16:  # beyond its range a value would become infinite
                    rows_TD = rows_TD.clamp(-65504, 65504)
                tokens_TD = rows_TD.to(token_dtype).cpu()
            pooled[site] = Pooled(
                cast("Floats", segment_sums(resid_BTD, flat_P, lengths_S).cpu().numpy()),
                tokens_TD,
                *norms_by_position(resid_BTD, [len(s.ids) for s in batch]),
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
