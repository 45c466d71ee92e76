"""The exact cut of TopK and BatchTopK when no process sees all candidates.

Legend: B rows of this process, C candidates of this process, E kept, K slots of a row, S shards of the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.training.distributed.mesh import Axis, Mesh

# A positive float32, read as a whole number, keeps its order: 31 bits, found in three passes of so many each.
_PASSES = ((20, 11), (10, 10), (0, 10))


def keep_largest_of_rows(codes: SparseCodes, k: int, axis: Axis) -> SparseCodes:
    """Of each row the k largest entries over all shards, equal ones at the cut by lowest feature.

    `codes` holds at most k entries a row, of this shard's features. Only values are sent: S x B x k numbers arrive.
    """
    if axis.size == 1:
        return codes
    values_SBK = axis.gather(codes.padded(k).values_NK)
    cut_B = torch.topk(values_SBK.transpose(0, 1).flatten(1), k, dim=1, sorted=False).values.amin(1)
    at_SB = ((values_SBK == cut_B[:, None]) & (values_SBK > 0)).sum(2)
    room_B = k - (values_SBK > cut_B[:, None]).sum((0, 2))
    quota_B = room_B - at_SB[: axis.rank].sum(0)  # what the shards before leave of the places at the cut
    rows_E = codes.rows_E()
    cut_E = cut_B[rows_E]
    at_E = codes.values_E == cut_E
    seen_E = torch.cumsum(at_E, 0)
    before_row_B = torch.cat([seen_E.new_zeros(1), seen_E])[codes.row_ptr[:-1]]
    place_E = seen_E - 1 - before_row_B[rows_E]
    return codes.keep((codes.values_E > cut_E) | (at_E & (place_E < quota_B[rows_E])))


def nth_largest(values_C: Tensor, n: int, axis: Axis) -> tuple[float, int, int] | None:
    """(value, places left for it, entries that have it) of the n-th largest of all processes' positive values.

    None where there are fewer than n. By radix: three histograms are summed over the axis, and nothing else is sent.
    """
    bits_C, left, prefix, held = values_C.view(torch.int32), n, 0, 0
    for shift, width in _PASSES:
        digits_C = (bits_C >> shift) & ((1 << width) - 1)
        counts = torch.bincount(digits_C, minlength=1 << width)
        axis.sum_(counts)
        reached = counts.flip(0).cumsum(0)  # entries with this digit or a larger one, largest digit first
        if left > int(reached[-1]):
            return None
        place = int((reached < left).sum())
        digit = (1 << width) - 1 - place
        held = int(counts[digit])
        left -= int(reached[place]) - held
        prefix |= digit << shift
        bits_C = bits_C[digits_C == digit]
    return float(torch.tensor(prefix, dtype=torch.int32).view(torch.float32)), left, held


def keep_largest(candidates: SparseCodes, n_keep: int, mesh: Mesh, key_C: Tensor) -> tuple[SparseCodes, float | None]:
    """The `n_keep` largest entries of all processes, equal ones at the cut by lowest `key_C`; and the least one kept.

    All are kept, with the least of them, where there are no more than that; None where there are none.
    """
    values_C = candidates.values_E
    found = nth_largest(values_C, n_keep, mesh.everyone)
    if found is None:
        least = -mesh.everyone.largest(-float(values_C.min()) if len(values_C) else -torch.inf)
        return candidates, None if least == torch.inf else least
    cut, room, held = found
    if room == held:
        return candidates.keep(values_C >= cut), cut
    at_C = values_C == cut
    mine = key_C[at_C].sort().values[:room]
    sent = torch.full((room,), torch.iinfo(torch.int64).max, device=mine.device)
    sent[: len(mine)] = mine
    last = mesh.features.gather(mesh.batch.gather(sent)).flatten().sort().values[room - 1]
    return candidates.keep((values_C > cut) | (at_C & (key_C <= last))), cut
