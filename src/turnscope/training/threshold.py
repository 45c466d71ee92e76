"""The constant threshold that stands for BatchTopK at inference.

In training the cut moves with every batch. Its running mean serves meanwhile; afterwards the threshold is set anew on
rows that training never saw, so that their mean number of active features is k exactly (METHODS 4, 7.14). The running
mean alone misses k: it averages over weights that have changed since, and minima of small batches scatter.

Legend: N rows, D width, F features, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turnscope.sae import SparseAutoencoder
from turnscope.sae.activations import above, keep_largest, typical_cut
from turnscope.sae.codes import SparseCodes

_BLOCK = 4096


def fit_threshold(sae: SparseAutoencoder, x_ND: Tensor) -> float:
    """The threshold at which raw rows `x_ND` have k active features on average.

    It lies midway between the last value kept and the first one left out. Where fewer than N*k pre-activations are
    positive, every positive one is kept, and the threshold is 0.
    """
    n_keep = x_ND.shape[0] * sae.config.k
    first_ND = x_ND[:_BLOCK].float() * sae.scale - sae.b_dec_D
    floor = typical_cut(first_ND, sae.w_enc_DF, sae.b_enc_F, sae.config.k)
    top_C = _largest(sae, x_ND, n_keep + 1, floor)
    if top_C.numel() <= n_keep and floor > 0:
        top_C = _largest(sae, x_ND, n_keep + 1, 0.0)
    if top_C.numel() <= n_keep:
        return 0.0
    last, first_out = torch.topk(top_C, n_keep + 1).values[-2:].tolist()
    return (last + first_out) / 2


def _largest(sae: SparseAutoencoder, x_ND: Tensor, n: int, floor: float) -> Tensor:
    """The n largest pre-activations above the floor, all of them where there are fewer."""
    top_C = torch.zeros(0)
    for block_ND in x_ND.split(_BLOCK):
        c_ND = block_ND.float() * sae.scale - sae.b_dec_D
        # Once n values are in hand, nothing below the least of them can matter.
        least = float(top_C.min()) if top_C.numel() >= n else floor
        found: SparseCodes = above(c_ND, sae.w_enc_DF, sae.b_enc_F, least)
        top_C = torch.cat([top_C, keep_largest(found, n).values_E])
        if top_C.numel() > n:
            top_C = torch.topk(top_C, n, sorted=False).values
    return top_C
