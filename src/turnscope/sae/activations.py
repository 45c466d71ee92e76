"""Rules that decide which features are active: the only place where architectures differ at the encoder.

Each rule takes centred inputs `c_ND` and the encoder, and returns `SparseCodes` of positive pre-activations. Inputs go
through in blocks of rows sized for the processor's cache, so no N x F matrix exists, and the scan that follows the
product finds its operand still in cache.

Sources: BatchTopK 2412.06410 (the B*k largest of the flattened batch in training; a constant threshold at
inference); TopK 2406.04093 (ReLU on the kept). METHODS section 4.

Legend: N rows, B batch, D width, F features, E active entries, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes, from_entries

BLOCK_ELEMENTS = 1 << 18


def block_rows(n_features: int) -> int:
    """Rows of one block: about 1 MB of float32 pre-activations, and no fewer than 64 for a good product."""
    return max(64, BLOCK_ELEMENTS // n_features)


def above(c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, floor: float | Tensor) -> SparseCodes:
    """Every pre-activation greater than `floor`, one number for all features or one for each; not negative."""
    n_features = b_enc_F.numel()
    parts: list[SparseCodes] = []
    for block_ND in c_ND.split(block_rows(n_features)):
        pre_NF = torch.addmm(b_enc_F, block_ND, w_enc_DF)
        flat_E, pre = (pre_NF > floor).view(-1).nonzero().squeeze(1), pre_NF.view(-1)
        rows_E = flat_E // n_features
        parts.append(from_entries(rows_E, flat_E - rows_E * n_features, pre[flat_E], block_ND.shape[0], n_features))
    return SparseCodes.cat(parts) if parts else _no_rows(c_ND, n_features)


def top_k(c_ND: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int) -> SparseCodes:
    """The k largest pre-activations of each row, those above zero."""
    n_features = b_enc_F.numel()
    parts: list[SparseCodes] = []
    for block_ND in c_ND.split(block_rows(n_features)):
        pre_NF = torch.addmm(b_enc_F, block_ND, w_enc_DF)
        kept_NK = torch.topk(pre_NF, min(k, n_features), dim=1, sorted=False).indices.sort(dim=1).values
        values = pre_NF.gather(1, kept_NK).view(-1)
        positive = values > 0
        rows = torch.arange(block_ND.shape[0], device=c_ND.device).repeat_interleave(kept_NK.shape[1])
        parts.append(
            from_entries(rows[positive], kept_NK.view(-1)[positive], values[positive], block_ND.shape[0], n_features)
        )
    return SparseCodes.cat(parts) if parts else _no_rows(c_ND, n_features)


def batch_top_k(c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor, k: int, hint: float = 0.0) -> SparseCodes:
    """The B*k largest positive pre-activations of the whole batch; equal ones at the cut by lowest row, then feature.

    `hint` is a guess from below of the smallest kept value (for instance, a little under the last batch's). It never
    changes the result: a guess that leaves too few candidates is dropped and the search is made again from zero.
    It saves the selection over all B*F pre-activations, which would cost several times the encoder product.
    """
    n_keep = c_BD.shape[0] * k
    candidates = above(c_BD, w_enc_DF, b_enc_F, hint)
    if candidates.n_entries < n_keep and hint > 0:
        candidates = above(c_BD, w_enc_DF, b_enc_F, 0.0)
    return keep_largest(candidates, n_keep)


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


def _no_rows(c_ND: Tensor, n_features: int) -> SparseCodes:
    none = torch.zeros(0, dtype=torch.int64, device=c_ND.device)
    return from_entries(none, none, c_ND.new_zeros(0), 0, n_features)
