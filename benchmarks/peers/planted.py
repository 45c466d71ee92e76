"""Rows made from a known dictionary, and how well a trained one gives them back.

x = sum of some true directions, with exponential magnitudes and frequencies by Zipf's law, + an offset + noise, scaled
to a mean squared norm of D. Runs in every environment: needs torch and safetensors only.

Legend: N rows, B batch, D width, F features, T true features.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peers.job import Shape
from safetensors.torch import load_file, save_file
from torch import Tensor

HELD = 4096
_BLOCK = 4096


class Trained(NamedTuple):
    """What is left of a run: a function from rows (N, D) to their reconstruction and its mean L0, and the decoder's
    rows (F, D).
    """

    rebuild: Callable[[Tensor], tuple[Tensor, float]]
    decoder_FD: Tensor


def write_rows(folder: Path, shape: Shape, n_batches: int, seed: int) -> Path:
    """A folder with `rows.safetensors` (n_batches * B training rows and `HELD` more) and `truth.safetensors`."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(seed)
    true_TD = torch.nn.functional.normalize(torch.randn(shape.true, shape.d, generator=draw), dim=1)
    frequency_T = (torch.arange(shape.true) + 10.0) ** -shape.zipf
    offset_D = torch.randn(shape.d, generator=draw) * 0.3 * shape.active / shape.d**0.5
    n_rows = n_batches * shape.batch + HELD
    x_ND = torch.empty(n_rows, shape.d)
    for block_BD in x_ND.split(_BLOCK):
        n = len(block_BD)
        picked = torch.multinomial(frequency_T.expand(n, -1), shape.active, generator=draw)
        magnitude = 0.5 + torch.empty(n, shape.active).exponential_(generator=draw)
        clean_BD = torch.nn.functional.embedding_bag(picked, true_TD, per_sample_weights=magnitude, mode="sum")
        block_BD.copy_(clean_BD + offset_D + shape.noise * torch.randn(n, shape.d, generator=draw))
    x_ND *= (shape.d / x_ND[:_BLOCK].square().sum(1).mean()).sqrt()
    save_file({"x_ND": x_ND}, folder / "rows.safetensors")
    save_file({"true_TD": true_TD}, folder / "truth.safetensors")
    return folder


class Rows:
    """Rows of such a folder. Read, not mapped: pages of a mapped file count as memory of whoever trains on them."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self._path = folder / "rows.safetensors"
        with self._path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            rows, _ = json.loads(file.read(size))["x_ND"]["shape"]
        self._start = 8 + size
        self.n_train = rows - HELD

    def read(self, first: int, n_rows: int) -> Tensor:
        """Rows (n_rows, D) from `first` on."""
        d = self.shape.d
        flat = np.fromfile(self._path, np.float32, n_rows * d, offset=self._start + 4 * first * d)
        return torch.from_numpy(flat).view(n_rows, d)

    def batch(self, index: int) -> Tensor:
        """Batch number `index`, round and round."""
        return self.read(index * self.shape.batch % self.n_train, self.shape.batch)


@torch.no_grad()
def quality(trained: Trained, rows: Rows) -> dict[str, float]:
    """On held rows: the fraction of variance unexplained, apart for the rows that a learning rate may be chosen by and
    for those that are reported; L0; and the mean over true features of the largest cosine of a decoder row (MMCS).
    """
    held_ND = rows.read(rows.n_train, HELD)
    rebuilt, l0 = zip(*(trained.rebuild(block_ND) for block_ND in held_ND.split(rows.shape.batch)), strict=True)
    error_N = (held_ND - torch.cat(rebuilt)).double().square().sum(1)
    spread_N = (held_ND - held_ND.mean(0)).double().square().sum(1)
    choice, report = slice(0, None, 2), slice(1, None, 2)
    true_TD = load_file(rows.folder / "truth.safetensors")["true_TD"]
    decoder_FD = torch.nn.functional.normalize(trained.decoder_FD.detach().float(), dim=1)
    best_T = torch.cat([(block @ decoder_FD.T).amax(1) for block in true_TD.split(_BLOCK)])
    return {
        "fvu_to_choose_by": float(error_N[choice].sum() / spread_N[choice].sum()),
        "fvu": float(error_N[report].sum() / spread_N[report].sum()),
        "l0": sum(l0) / len(l0),
        "mmcs": float(best_T.mean()),
        "recovered": float((best_T > 0.9).float().mean()),
    }
