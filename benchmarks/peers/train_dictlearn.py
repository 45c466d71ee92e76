"""dictionary_learning: `trainSAE` with its own trainers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from peers.clock import Steps
from peers.job import Job
from peers.planted import Rows, Trained
from torch import Tensor

TRAINERS: dict[str, tuple[type, dict[str, Any]]] = {
    "topk": (TopKTrainer, {}),
    "batchtopk": (BatchTopKTrainer, {}),
    "matryoshka": (MatryoshkaBatchTopKTrainer, {"group_fractions": [1 / 8, 1 / 8, 1 / 4, 1 / 2]}),
    "jumprelu": (JumpReluTrainer, {"sparsity_warmup_steps": 0}),
    "relu": (StandardTrainer, {"sparsity_warmup_steps": 0}),
    "gated": (GatedSAETrainer, {"sparsity_warmup_steps": 0}),
}
CHOOSE_IN_BATCH = ("batchtopk", "matryoshka")
"""Their threshold is not set before step 1000."""


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> Trained:
    shape, kind = job.sizes, job.variant.split()[0]
    trainer, own = TRAINERS[kind]
    if kind in ("topk", *CHOOSE_IN_BATCH):
        own = {**own, "k": shape.k}
    elif kind == "jumprelu":
        own = {**own, "target_l0": float(shape.k)}
    made: list[Any] = []

    class Kept(trainer):
        """Remembers the trainer that `trainSAE` makes."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    config = {
        "trainer": Kept, "steps": job.steps + 1, "activation_dim": shape.d, "dict_size": shape.features, "layer": 0,
        "lm_name": "none", "device": "cpu", "lr": job.lr, "warmup_steps": 0, "decay_start": job.steps - job.decay,
        "seed": job.seed, **own, **job.options,
    }  # fmt: skip
    begin()
    trainSAE(data=steps, trainer_configs=[config], steps=job.steps + 1, device="cpu")
    sae = made[0].ae

    def rebuild(x_ND: Tensor) -> tuple[Tensor, float]:
        codes_NF = sae.encode(x_ND, use_threshold=False) if kind in CHOOSE_IN_BATCH else sae.encode(x_ND)
        return sae.decode(codes_NF), float((codes_NF != 0).sum(1).float().mean())

    return Trained(rebuild, sae.W_dec if hasattr(sae, "W_dec") else sae.decoder.weight.T)
