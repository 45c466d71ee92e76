"""Overcomplete: `train_sae`, at its cheapest (no monitoring)."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor

# Imported by the package for its vision models, used by none of what follows, and there is no build for every torch.
for name in ("torchvision", "torchvision.transforms"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # pyright: ignore[reportAttributeAccessIssue]

from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE, train_sae  # noqa: E402
from overcomplete.sae.losses import mse_l1  # noqa: E402
from peers.clock import Steps  # noqa: E402
from peers.job import Job, Shape, UnsupportedError  # noqa: E402
from peers.planted import Rows, Trained  # noqa: E402


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> Trained:
    shape, kind = job.sizes, job.variant.split()[0]
    begin()
    sae = build(kind, shape)
    optimizer = torch.optim.Adam(sae.parameters(), lr=job.lr)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (job.steps + 1 - step) / max(1, job.decay)))
    loss = l1_loss if kind == "relu" else squared_error
    train_sae(sae, steps, loss, optimizer, scheduler=fall, nb_epochs=1, monitoring=0, device="cpu")

    def rebuild(x_ND: Tensor) -> tuple[Tensor, float]:
        sae.train()  # BatchTopK chooses in the batch, as it did in training
        codes_NF = sae.encode(x_ND)[1]
        return sae.decode(codes_NF), float((codes_NF != 0).sum(1).float().mean())

    return Trained(rebuild, sae.get_dictionary())


def build(kind: str, shape: Shape) -> SAE:
    """A fresh SAE. BatchTopK's k is a count for the whole batch."""
    d, width = shape.d, shape.features
    match kind:
        case "topk":
            return TopKSAE(d, nb_concepts=width, top_k=shape.k)
        case "batchtopk":
            return BatchTopKSAE(d, nb_concepts=width, top_k=shape.k * shape.batch)
        case "jumprelu":
            return JumpSAE(d, nb_concepts=width)
        case "relu":
            return SAE(d, nb_concepts=width)
        case _:
            raise UnsupportedError(f"overcomplete has no {kind}")


def squared_error(x: Tensor, rebuilt: Tensor, _pre: Tensor, _codes: Tensor, _dictionary: Tensor) -> Tensor:
    return (x - rebuilt).square().mean()


def l1_loss(*parts: Tensor) -> Tensor:
    return mse_l1(*parts, penalty=1e-3)
