"""Ours, through the front door, with rows handed over by a source object."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.clock import Steps
from peers.job import Job, UnsupportedError
from peers.planted import Rows, Trained
from torch import Tensor

from turnscope.artifacts import ConfigError
from turnscope.training.config import TrainConfig
from turnscope.training.train import run as train


class TimedSource:
    """An `ActivationSource` each pass of which starts `steps` anew; the last pass is the training."""

    def __init__(self, steps: Steps) -> None:
        self._steps, rows = steps, steps.rows
        steps.n_steps = sys.maxsize  # the trainer stops by itself, and looks at many rows before it begins
        self.d_model, self.n_rows = rows.shape.d, rows.n_train
        self.fingerprint = str(rows.folder.name)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        self._steps.restart()
        while True:
            yield next(self._steps).numpy()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> Trained:
    shape, n_steps = job.sizes, job.steps + 1
    try:
        # No line of the log falls among the steps that are timed: the peers write none either.
        config = TrainConfig(
            out=Path(job.folder) / "sae", n_features=shape.features, k=shape.k, lr=job.lr, batch_size=shape.batch,
            n_samples=n_steps * shape.batch, log_every=n_steps, checkpoint_every=n_steps, threads=job.threads,
            seed=job.seed, **job.options,
        )  # fmt: skip
    except ConfigError as error:
        raise UnsupportedError(str(error)) from error
    begin()
    sae = train(config, source=TimedSource(steps)).load()

    def rebuild(x_ND: Tensor) -> tuple[Tensor, float]:
        codes = sae.encode(x_ND)
        return sae.decode(codes), codes.n_entries / len(x_ND)

    return Trained(rebuild, sae.w_dec_FD)
