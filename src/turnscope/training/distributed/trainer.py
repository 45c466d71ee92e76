"""The trainer of one process of a mesh: its own features' parameters, moments and counters.

Legend: D width, F features of this process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from turnscope.training.checkpoint import NAME
from turnscope.training.config import ResolvedConfig
from turnscope.training.distributed.files import read_shards, there, write_shards
from turnscope.training.distributed.mesh import Mesh
from turnscope.training.distributed.topk import make_sharded
from turnscope.training.step import Tensors
from turnscope.training.trainer import Trainer


class ShardedTrainer(Trainer):
    """A `Trainer` whose tensors are this process's features. Every process calls every method, in the same order.

    Args:
        config: resolved settings, of the whole dictionary.
        weights: this process's features of the initial weights; b_dec whole.
        scale: raw activations times this are the inputs.
        variance: error per row of the best constant predictor, in scaled units.
        mesh: this process's place.
    """

    def __init__(self, config: ResolvedConfig, weights: Tensors, scale: float, variance: float, mesh: Mesh) -> None:
        sharded = make_sharded(config, variance, mesh)
        super().__init__(config, {name: tensor.to(mesh.device) for name, tensor in weights.items()}, scale, variance)
        self.architecture, self.mesh = sharded, mesh  # pyright: ignore[reportAttributeAccessIssue]  (x_BD is its batch)
        self.silent_for_F = torch.zeros(weights["b_enc_F"].shape, dtype=torch.int64, device=mesh.device)

    @property
    def n_dead(self) -> int:
        """Features silent for `dead_after` samples, over all processes."""
        (dead,) = self.mesh.features.sums(int(self.dead_F.sum()))
        return round(dead)

    def clip(self, gradients: Tensors) -> float:
        """Scale all gradients so that the joint norm over all processes is at most `clip_norm`; returns it."""
        squares = {name: float(torch.linalg.vector_norm(gradient)) ** 2 for name, gradient in gradients.items()}
        whole = squares.pop("b_dec_D")
        (parts,) = self.mesh.features.sums(sum(squares.values()))
        norm = (parts + whole) ** 0.5
        if norm > self.config.clip_norm:
            for gradient in gradients.values():
                gradient.mul_(self.config.clip_norm / norm)
        return norm

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Replace the folder's checkpoint by one that any number of processes can go on from."""
        tensors, values = self.checkpoint()
        layout = Trainer.layout(self.config, self.weights["b_dec_D"].numel())
        text = json.dumps({**state, "trainer": values}, sort_keys=True)
        write_shards(folder / NAME, tensors, layout, self.mesh, {"state": text})

    @staticmethod
    def resumed(
        config: ResolvedConfig, folder: Path, d_model: int, mesh: Mesh
    ) -> tuple[ShardedTrainer, dict[str, Any]] | None:
        """The trainer of the folder's checkpoint, by however many processes it was written, and the run's state."""
        if not there(folder / NAME, mesh):
            return None
        tensors, metadata = read_shards(folder / NAME, Trainer.layout(config, d_model), mesh)
        state = json.loads(metadata["state"])
        values = state["trainer"]
        weights = {name.removesuffix(".m"): tensors[name.removesuffix(".m")] for name in tensors if name.endswith(".m")}
        trainer = ShardedTrainer(config, weights, values["scale"], values["variance"], mesh)
        trainer.take(tensors, values)
        return trainer, state
