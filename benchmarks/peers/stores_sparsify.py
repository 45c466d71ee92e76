"""sparsify: `Trainer.fit`, with a sparse coder so small that what remains is its reading of activations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from peers.bare import ROWS, cut_rows
from peers.job import StoreJob
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor
from transformers import AutoModel


class EnoughError(Exception):
    """Ends a fit."""


def trainer(job: StoreJob) -> Callable[[int], float]:
    model = AutoModel.from_pretrained(job.model, dtype=torch.float32)
    rows = cut_rows(Path(job.ids)).tolist()
    n_rows = job.tokens // len(rows[0]) + 3 * ROWS
    repeated = (rows * (n_rows // len(rows) + 1))[:n_rows]
    dataset = datasets.Dataset.from_dict({"input_ids": repeated}).with_format("torch")
    config = TrainConfig(
        SparseCoderConfig(num_latents=8, k=1), batch_size=ROWS, hookpoints=[f"layers.{job.block}"], optimizer="adam",
        log_to_wandb=False, lr_warmup_steps=0, save_every=10**9, save_dir=str(Path(job.folder) / "saved"),
    )  # fmt: skip
    fit = Trainer(config, dataset, model)
    coder = next(iter(fit.saes.values()))
    forward, calls = coder.forward, list[tuple[float, int]]()

    def rate(n_tokens: int) -> float:
        """From the first batch's arrival to the last's."""
        calls.clear()
        fit.global_step = 0

        def few(x: Tensor, **_: Any) -> Any:
            calls.append((time.perf_counter(), len(x)))
            if tokens_of(calls) >= n_tokens:
                raise EnoughError
            return forward(x[:8], y=x[:8])

        coder.forward = few
        with contextlib.suppress(EnoughError):
            fit.fit()
        return tokens_of(calls) / (calls[-1][0] - calls[0][0])

    return rate


def tokens_of(calls: list[tuple[float, int]]) -> int:
    return sum(n for _, n in calls[1:])
