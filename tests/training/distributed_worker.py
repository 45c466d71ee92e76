"""One process of several: runs each job of a list under one process group. Started by test_distributed.py."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from training_synthetic import planted

from turnscope.artifacts import TurnscopeError
from turnscope.training import ArraySource, TrainConfig, run
from turnscope.training.trainer import Trainer

BATCH, STEPS = 62, 24


def data(rows: slice) -> ArraySource:
    return ArraySource(planted(1200, 16, 24, 3).x_ND[rows], BATCH)


def settings(out: str, **changed: Any) -> TrainConfig:
    """90 features, 62 rows: neither is a multiple of 4. A feature silent for one batch is dead."""
    plain: dict[str, Any] = {
        "n_features": 90, "k": 3, "n_samples": STEPS * BATCH, "batch_size": BATCH, "lr": 3e-3, "auxk_k": 4,
        "dead_after": BATCH, "log_every": 8, "checkpoint_every": 5, "threads": 1,
    }  # fmt: skip
    return TrainConfig.model_validate({"out": out, **plain, **changed})


def train(job: dict[str, Any]) -> None:
    """Run a job: {"out", "stop_at" (no checkpoint is made after that step), "die_at", other settings}."""
    stop_at, die_at = job.pop("stop_at", None), job.pop("die_at", None)
    plain = Trainer.train_on

    def train_on(self: Trainer, raw: Any) -> None:
        if self.step == stop_at:
            raise TurnscopeError("stopped on purpose")
        if self.step == die_at and os.environ["RANK"] == "1":
            os._exit(9)
        plain(self, raw)

    Trainer.train_on = train_on
    try:
        run(settings(**job), source=data(slice(0, 1000)), held=data(slice(1000, None)))
    except TurnscopeError as error:
        if stop_at is None or error.what != "stopped on purpose":
            raise
    finally:
        Trainer.train_on = plain


def main() -> None:
    jobs, store, timeout = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        for job in jobs:
            train(job)
    except TurnscopeError as error:
        print(json.dumps({"kind": type(error).__name__, "what": error.what}), flush=True)
        os._exit(error.exit_code)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
