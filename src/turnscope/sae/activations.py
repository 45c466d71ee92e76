"""Rules that decide which features are active: the only place where architectures differ at the encoder.

Each rule takes centred inputs `c_ND` and the encoder, and returns `SparseCodes` of positive pre-activations. The
encoder product is made a tile of features at a time and scanned while the tile is in cache, so no N x F matrix exists.

Sources: BatchTopK 2412.06410 (the B*k largest of the flattened batch in training; a constant threshold at
inference); TopK 2406.04093 (ReLU on the kept). METHODS section 4.

Legend: N rows, B batch, D width, F features, E active entries, C candidates, G features of a tile, M sampled rows.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes, from_entries
from turnscope.sae.sparse_ops import entry_dot, stable_order

BLOCK_ROWS = 2048
TILE_ELEMENTS = 1 << 22
_SAMPLED_ROWS = 32
# A product of bfloat16 numbers is off by 2^-9 of each factor and of the result; eight times that loses next to nothing.
_LOW_MARGIN = 2.0**-6


def above(
    c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, floor: float | Tensor, low_DF: Tensor | None = None
) -> SparseCodes:
    """Every pre-activation greater than `floor`, one number for all features or one for each; not negative.

    `low_DF`, the encoder in bfloat16, makes the product faster: it then only shortlists, with a margin, and what it
    lists is computed again in full precision. An entry is lost where the margin was too small for it.
    """
    with torch.no_grad():
        floor_F = torch.as_tensor(floor, dtype=b_enc_F.dtype, device=b_enc_F.device).expand_as(b_enc_F)
        parts = [
            _rescored(_scan(block_BD, w_enc_DF, b_enc_F, floor_F, low_DF), block_BD, w_enc_DF, b_enc_F, floor_F, low_DF)
            for block_BD in c_ND.split(BLOCK_ROWS)
        ]
        codes = SparseCodes.cat(parts) if parts else _no_rows(c_ND, b_enc_F.numel())
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (c_ND, w_enc_DF, b_enc_F)):
        return _with_graph(codes, c_ND, w_enc_DF, b_enc_F)
    return codes


def top_k(
    c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int, hint: float = 0.0, low_DF: Tensor | None = None
) -> SparseCodes:
    """The k largest pre-activations of each row, those above zero.

    `hint` is a guess from below of the k-th largest of a row of length 1 (`least_of_rows` of the last batch); without
    one a few rows are asked. Only what exceeds it is looked at, and rows that have fewer than k such values are
    searched again from zero, so the result does not depend on the guess.
    """
    with torch.no_grad():
        parts = [_largest_of_rows(block_BD, w_enc_DF, b_enc_F, k, hint, low_DF) for block_BD in c_ND.split(BLOCK_ROWS)]
        codes = SparseCodes.cat(parts) if parts else _no_rows(c_ND, b_enc_F.numel())
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (c_ND, w_enc_DF, b_enc_F)):
        return _with_graph(codes, c_ND, w_enc_DF, b_enc_F)
    return codes


def least_of_rows(codes: SparseCodes, c_ND: Tensor, k: int) -> float:
    """The k-th largest value of a row in lengths of that row, the least of all rows; 0 where a row has fewer than k."""
    if not codes.n_rows or int(codes.l0_N().min()) < k:
        return 0.0
    least_N = codes.values_E.view(-1, k).amin(1)  # no row has more than k
    return float((least_N / c_ND.norm(dim=1).clamp_min(1e-12)).min())


def batch_top_k(
    c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int, hint: float = 0.0, low_DF: Tensor | None = None
) -> SparseCodes:
    """The B*k largest positive pre-activations of the whole batch; equal ones at the cut by lowest row, then feature.

    `hint` is a guess from below of the smallest kept value (for instance, a little under the last batch's). It never
    changes the result: a guess that leaves too few candidates is dropped and the search is made again from zero.
    It saves the selection over all B*F pre-activations, which would cost several times the encoder product.
    """
    n_keep = c_BD.shape[0] * k
    floor = hint if hint > 0 else typical_cut(c_BD, w_enc_DF, b_enc_F, k)
    candidates = above(c_BD, w_enc_DF, b_enc_F, floor, low_DF)
    if candidates.n_entries < n_keep and floor > 0:
        candidates = above(c_BD, w_enc_DF, b_enc_F, 0.0, low_DF)
    return keep_largest(candidates, n_keep)


def typical_cut(c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int) -> float:
    """A value that somewhat more than k pre-activations of a row exceed on average, from a few rows; 0 without rows.

    To search from, where nothing better is known: from zero, half of all pre-activations would be listed.
    """
    if not len(c_ND):
        return 0.0
    sample_MD = c_ND[:: math.ceil(len(c_ND) / _SAMPLED_ROWS)]
    pre_MF = torch.addmm(b_enc_F, sample_MD, w_enc_DF)
    n_wanted = min(2 * k * len(sample_MD), pre_MF.numel())
    return max(0.0, float(torch.topk(pre_MF.view(-1), n_wanted).values[-1]))


def keep_largest(candidates: SparseCodes, n_keep: int) -> SparseCodes:
    """The `n_keep` largest entries of all rows together; exactly that many where there are enough."""
    if candidates.n_entries <= n_keep:
        return candidates
    values_C = candidates.values_E
    cut = torch.topk(values_C, n_keep, sorted=False).values.min()
    keep_C = values_C > cut
    at_cut = (values_C == cut).nonzero().squeeze(1)
    keep_C[at_cut[: n_keep - int(keep_C.sum())]] = True
    return candidates.keep(keep_C)


def keep_largest_of_rows(candidates: SparseCodes, k: int) -> SparseCodes:
    """The k largest entries of each row."""
    padded = candidates.padded()
    if padded.values_NK.shape[1] <= k:
        return candidates
    slots_NK = torch.topk(padded.values_NK, k, dim=1, sorted=False).indices.sort(dim=1).values
    values_NK = padded.values_NK.gather(1, slots_NK)
    rows_E, columns_E = (values_NK > 0).nonzero(as_tuple=True)
    features_E = padded.indices_NK.gather(1, slots_NK)[rows_E, columns_E]
    return from_entries(rows_E, features_E, values_NK[rows_E, columns_E], candidates.n_rows, candidates.n_features)


def _scan(c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, floor: Tensor, low_DF: Tensor | None) -> SparseCodes:
    """Entries of one block of rows above their feature's floor (F,), or above their row's (B, 1), tile by tile.

    A little below counts as above: by rounding, and in bfloat16 by more; `_rescored` holds entries to the floor itself.
    """
    n_rows, n_features = c_BD.shape[0], b_enc_F.numel()
    inputs_BD, encoder_DF = (c_BD, w_enc_DF) if low_DF is None else (c_BD.to(low_DF.dtype), low_DF)
    by_row = floor.ndim == 2
    # The bias is taken from the floors of features, which saves a pass over the product.
    cut = floor if by_row else floor - b_enc_F
    cut = (cut - _margin(c_BD, b_enc_F, floor, low_DF)).to(encoder_DF.dtype)
    bias_F = b_enc_F.to(encoder_DF.dtype)
    width = min(n_features, max(64, TILE_ELEMENTS // max(1, n_rows)))
    room = torch.empty(n_rows * width, dtype=encoder_DF.dtype, device=c_BD.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, n_features, width):
        end = min(start + width, n_features)
        pre_BG = room[: n_rows * (end - start)].view(n_rows, end - start)
        torch.mm(inputs_BD, encoder_DF[:, start:end], out=pre_BG)
        if by_row:
            pre_BG.add_(bias_F[start:end])
        flat_E = _nonzero(pre_BG > (cut if by_row else cut[start:end]))
        rows_E = flat_E // (end - start)
        found.append((rows_E, flat_E - rows_E * (end - start) + start, pre_BG.view(-1)[flat_E]))
    rows_E, features_E, values_E = (torch.cat(column) for column in zip(*found, strict=True))
    if len(found) > 1:
        order_E = stable_order(rows_E, n_rows)
        rows_E, features_E, values_E = rows_E[order_E], features_E[order_E], values_E[order_E]
    values_E = values_E.to(b_enc_F.dtype)
    if not by_row:
        values_E += b_enc_F[features_E]
    return from_entries(rows_E, features_E, values_E, n_rows, n_features)


def _margin(c_BD: Tensor, b_enc_F: Tensor, floor: Tensor, low_DF: Tensor | None) -> Tensor | float:
    """What rounding may take from a pre-activation: of float32 next to nothing, of bfloat16 a little."""
    if low_DF is None:
        return 1e-6 * (1 + floor.abs() + (b_enc_F.abs() if floor.ndim == 1 else b_enc_F.abs().max()))
    # Of a pre-activation of the longest row under a unit encoder row.
    size = float(c_BD.norm(dim=1).max()) / math.sqrt(c_BD.shape[1]) if c_BD.numel() else 0.0
    return _LOW_MARGIN * (size + floor.abs() + (b_enc_F.abs() if floor.ndim == 1 else b_enc_F.abs().max()))


def _rescored(
    listed: SparseCodes, c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, floor: Tensor, low_DF: Tensor | None
) -> SparseCodes:
    """What was listed, in full precision, as far as it is above its floor."""
    values_E, features_E = listed.values_E, listed.indices_E.long()
    if low_DF is not None:
        values_E = entry_dot(listed, c_BD, w_enc_DF.t()) + b_enc_F[features_E]
    keep_E = values_E > (floor.view(-1)[listed.rows_E()] if floor.ndim == 2 else floor[features_E])
    return SparseCodes(listed.row_ptr, listed.indices_E, values_E, listed.n_features).keep(keep_E)


def _nonzero(mask_BG: Tensor) -> Tensor:
    """Flat places of the true values. numpy skips zeros eight at a time: four times as fast where few are true."""
    flat = mask_BG.view(-1)
    return torch.from_numpy(np.flatnonzero(flat.numpy())) if flat.device.type == "cpu" else flat.nonzero().squeeze(1)


def _largest_of_rows(
    c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int, hint: float, low_DF: Tensor | None
) -> SparseCodes:
    n_rows, n_features = c_BD.shape[0], b_enc_F.numel()
    if n_rows <= 2 * _SAMPLED_ROWS or 4 * k >= n_features:
        return _dense_top_k(c_BD, w_enc_DF, b_enc_F, k)
    length_B1 = c_BD.norm(dim=1, keepdim=True).clamp_min_(1e-12)
    if hint <= 0:
        step = math.ceil(n_rows / _SAMPLED_ROWS)
        pre_MF = torch.addmm(b_enc_F, c_BD[::step], w_enc_DF)
        kth_M1 = torch.topk(pre_MF, k, dim=1).values[:, -1:]
        hint = float((kth_M1 / length_B1[::step]).min())
    if hint <= 0:  # some row has fewer than k positive values: from zero, half of all values would be listed
        return SparseCodes.cat([_dense_top_k(few, w_enc_DF, b_enc_F, k) for few in c_BD.split(2 * _SAMPLED_ROWS)])
    floor_B1 = length_B1 * hint
    listed = _scan(c_BD, w_enc_DF, b_enc_F, floor_B1, low_DF)
    if low_DF is not None:  # the low product puts few of the k largest behind the first 2k
        listed = keep_largest_of_rows(listed, 2 * k)
    candidates = _rescored(listed, c_BD, w_enc_DF, b_enc_F, floor_B1, low_DF)
    codes = keep_largest_of_rows(candidates, k)
    short_N = candidates.l0_N() < k
    if not bool(short_N.any()):
        return codes
    # A few rows at a time: after a bad guess all of them are short, and their product would be N x F.
    parts = [_dense_top_k(few_BD, w_enc_DF, b_enc_F, k) for few_BD in c_BD[short_N].split(2 * _SAMPLED_ROWS)]
    again = SparseCodes.cat(parts)
    kept_E = ~short_N[codes.rows_E()]
    rows_E = torch.cat([codes.rows_E()[kept_E], short_N.nonzero().squeeze(1)[again.rows_E()]])
    order_E = stable_order(rows_E, n_rows)
    features_E = torch.cat([codes.indices_E[kept_E], again.indices_E])
    values_E = torch.cat([codes.values_E[kept_E], again.values_E])
    return from_entries(rows_E[order_E], features_E[order_E], values_E[order_E], n_rows, n_features)


def _dense_top_k(c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int) -> SparseCodes:
    pre_BF = torch.addmm(b_enc_F, c_BD, w_enc_DF)
    kept_BK = torch.topk(pre_BF, min(k, b_enc_F.numel()), dim=1, sorted=False).indices.sort(dim=1).values
    values_BK = pre_BF.gather(1, kept_BK)
    rows_E, columns_E = (values_BK > 0).nonzero(as_tuple=True)
    return from_entries(rows_E, kept_BK[rows_E, columns_E], values_BK[rows_E, columns_E], *pre_BF.shape)


def _with_graph(codes: SparseCodes, c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor) -> SparseCodes:
    """The same codes, their values computed again entry by entry, so that gradients reach what was asked for."""
    features_E = codes.indices_E.long()
    values_E = (c_ND[codes.rows_E()] * w_enc_DF.t()[features_E]).sum(1) + b_enc_F[features_E]
    return SparseCodes(codes.row_ptr, codes.indices_E, values_E, codes.n_features)


def _no_rows(c_ND: Tensor, n_features: int) -> SparseCodes:
    none = torch.zeros(0, dtype=torch.int64, device=c_ND.device)
    return from_entries(none, none, c_ND.new_zeros(0), 0, n_features)
