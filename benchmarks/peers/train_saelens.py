"""SAELens: `SAETrainer.fit` on its own training SAEs."""

from __future__ import annotations

from collections.abc import Callable

import sae_lens
from peers.clock import Steps
from peers.job import Job, Shape, UnsupportedError
from peers.planted import Rows, Trained
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> Trained:
    shape = job.sizes
    n_samples = (job.steps + 1) * shape.batch
    config = SAETrainerConfig(n_samples, shape.batch, lr=job.lr, lr_end=job.lr / 10, lr_decay_steps=job.decay)
    begin()
    sae = build(job.variant, shape, job)
    SAETrainer(cfg=config, sae=sae, data_provider=steps).fit()

    def rebuild(x_ND: Tensor) -> tuple[Tensor, float]:
        codes_NF = sae.encode_with_hidden_pre(x_ND)[0]
        return sae.decode(codes_NF), float((codes_NF != 0).sum(1).float().mean())

    return Trained(rebuild, sae.W_dec)


def build(variant: str, shape: Shape, job: Job) -> sae_lens.TrainingSAE:
    """A fresh SAE; `job.options` go to its config."""
    width = shape.features
    names = {
        "topk": ("TopK", {"k": shape.k}),
        "batchtopk": ("BatchTopK", {"k": shape.k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": shape.k, "matryoshka_widths": [width // 8, width // 4, width // 2]},
        ),
        "jumprelu": ("JumpReLU", {"l0_coefficient": 1.0, "l0_warm_up_steps": 0}),
        "relu": ("Standard", {"l1_coefficient": 5.0}),
        "gated": ("Gated", {"l1_coefficient": 5.0}),
    }
    kind = variant.split()[0]
    if kind not in names:
        raise UnsupportedError(f"SAELens has no {kind}")
    name, own = names[kind]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")
    sae = getattr(sae_lens, f"{name}TrainingSAE")
    return sae(config(d_in=shape.d, d_sae=width, dtype="float32", device="cpu", **own, **job.options))
