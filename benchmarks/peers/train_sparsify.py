"""EleutherAI sparsify: `Trainer.fit`. It trains only from inside a hook of a transformers model, so the model here is a
stub whose one module returns the next batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers.clock import Steps
from peers.job import Job
from peers.planted import Rows, Trained
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel


class EndError(Exception):
    """Raised by the batches: StopIteration would be lost inside the hook."""


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> Trained:
    shape = job.sizes
    steps.end = EndError
    model = Stub(steps, shape.d)
    settings: dict[str, Any] = {"optimizer": "adam", "lr": job.lr, "lr_warmup_steps": 0, **job.options}
    config = TrainConfig(
        SparseCoderConfig(num_latents=shape.features, k=shape.k), batch_size=1, hookpoints=["rows"],
        init_seeds=[job.seed], log_to_wandb=False, save_every=10**9, save_dir=str(Path(job.folder) / "saved"),
        **settings,
    )  # fmt: skip
    begin()
    trainer = Trainer(config, Tokens(job.steps + 2, shape.batch), model)
    model.rows.live = True
    with contextlib.suppress(EndError):
        trainer.fit()
    for optimizer in trainer.optimizers:
        if hasattr(optimizer, "eval"):
            optimizer.eval()  # schedule-free: the averaged weights
    sae = trainer.saes["rows"]

    def rebuild(x_ND: Tensor) -> tuple[Tensor, float]:
        found = sae(x_ND)
        return found.sae_out, float((found.latent_acts > 0).sum(1).float().mean())

    return Trained(rebuild, sae.W_dec)


class Batches(nn.Module):
    """Returns the next batch as if it were the activations of one sequence."""

    def __init__(self, steps: Steps, d: int) -> None:
        super().__init__()
        self._steps, self._d, self.live = steps, d, False

    def forward(self, _ids: Tensor) -> Tensor:
        return next(self._steps).unsqueeze(0) if self.live else torch.zeros(1, 2, self._d)


class StubConfig(PretrainedConfig):
    model_type = "stub"


class Stub(PreTrainedModel):
    config_class = StubConfig

    def __init__(self, steps: Steps, d: int) -> None:
        super().__init__(StubConfig())
        self.rows = Batches(steps, d)
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(1, 2, dtype=torch.long)}

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return self.rows(input_ids)


class Tokens(torch.utils.data.Dataset[dict[str, Tensor]]):
    """As many sequences as steps; their tokens are never looked at."""

    def __init__(self, n: int, length: int) -> None:
        self._n, self._ids = n, torch.ones(length, dtype=torch.long)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids}
