"""A run on rows by the processes of a mesh: start, figures and end, without the whole dictionary in any of them.

Legend: N rows, D width, F features of this process, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from turnscope.artifacts import write_json
from turnscope.sae import SAEConfig
from turnscope.sae.activations import above, keep_largest, top_k
from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_autoencoder import CONFIG_NAME, SCHEMA_VERSION, WEIGHTS_NAME
from turnscope.sae.sparse_ops import weighted_row_sum
from turnscope.sae.weights import Layout
from turnscope.training.config import ResolvedConfig
from turnscope.training.distributed.files import write_shards
from turnscope.training.distributed.mesh import Mesh
from turnscope.training.distributed.select import keep_largest_of_rows, nth_largest
from turnscope.training.distributed.topk import make_sharded
from turnscope.training.distributed.trainer import ShardedTrainer
from turnscope.training.initial import initial_weights, measure
from turnscope.training.metrics import HeldMetrics, held_metrics
from turnscope.training.of_rows import STATISTICS_ROWS, WATCHED_ROWS, OfRows
from turnscope.training.sources import take
from turnscope.training.step import Tensors
from turnscope.training.trainer import Trainer

if TYPE_CHECKING:
    from turnscope.harvest.source import ActivationSource

_BLOCK = 4096


class OfShards(OfRows):
    """What a run does with rows when the dictionary is shared out. Every process calls every method."""

    def __init__(self, config: ResolvedConfig, sae_config: SAEConfig, mesh: Mesh) -> None:
        super().__init__(config, sae_config)
        self.mesh = mesh
        make_sharded(config, 1.0, mesh)  # refuses what is not distributed before anything is read
        mesh.must_fit(config.n_features, config.batch_size)

    def begin(self, source: ActivationSource) -> ShardedTrainer:
        """A trainer before its first step: this process's rows of the weights that one process would draw."""
        sample_ND, config, mesh = take(source, STATISTICS_ROWS), self.config, self.mesh
        statistics, share = measure(sample_ND), mesh.share(config.n_features)
        weights = initial_weights(sample_ND, statistics, config.n_features, config.init_data_share, config.seed, share)
        return ShardedTrainer(config, weights, statistics.scale, statistics.variance, mesh)

    def saved(self, folder: Path, d_model: int) -> tuple[Trainer, dict[str, Any]] | None:
        """The trainer of a checkpoint, by however many processes it was written."""
        return ShardedTrainer.resumed(self.config, folder, d_model, self.mesh)

    def watch(self, trainer: Trainer, held_ND: Tensor) -> dict[str, Any]:
        """Held-out figures for a line of the log."""
        seen = self._shards(trainer).evaluate(held_ND[:WATCHED_ROWS])
        return {"held_nmse_raw": seen.nmse_raw, "held_nmse_centred": seen.nmse_centred, "held_l0": seen.l0}

    def finish(self, trainer: Trainer, held_ND: Tensor) -> tuple[Any, dict[str, Any]]:
        """The finished dictionary: its threshold set on one half of the held rows, its figures from the other."""
        shards = self._shards(trainer)
        figures: dict[str, Any] = {"running_threshold": float(shards.folded["threshold_F"].mean())}
        if self.sae_config.architecture == "batchtopk":
            shards.folded["threshold_F"].fill_(shards.fit_threshold(held_ND[0::2]))
        threshold = float(shards.folded["threshold_F"].mean())
        return shards, {"threshold": threshold, **figures, **shards.evaluate(held_ND[1::2]).summary()}

    def _shards(self, trainer: Trainer) -> Shards:
        return Shards(self.sae_config, trainer.architecture.folded(trainer.weights), trainer.scale, self.mesh)


@dataclass(frozen=True, slots=True)
class Shards:
    """One process's features of a dictionary that reads. `folded`: the canonical tensors in scaled units."""

    config: SAEConfig
    folded: Tensors
    scale: float
    mesh: Mesh

    def encode(self, c_ND: Tensor) -> SparseCodes:
        """Active entries of this process's features on centred rows."""
        encoder = self.folded["w_enc_FD"].t(), self.folded["b_enc_F"]
        if self.config.architecture == "topk":
            return keep_largest_of_rows(top_k(c_ND, *encoder, self.config.k), self.config.k, self.mesh.features)
        return above(c_ND, *encoder, self.folded["threshold_F"].clamp_min(0))

    def evaluate(self, x_ND: Tensor) -> HeldMetrics:
        """`metrics.evaluate`: raw rows, shared out along the batch."""
        mesh, n_rows = self.mesh, x_ND.shape[0]
        mean_D = x_ND.double().mean(0)
        error = power = spread = 0.0
        counts_F = torch.zeros_like(self.folded["b_enc_F"], dtype=torch.int64)
        for block_ND in x_ND[mesh.rows(n_rows)].split(_BLOCK):
            codes = self.encode(self._centred(block_ND))
            x_hat_ND = weighted_row_sum(codes, self.folded["w_dec_FD"])
            mesh.features.sum_(x_hat_ND)
            raw_ND = block_ND.double()
            found_ND = ((x_hat_ND + self.folded["b_dec_D"]) / self.scale).double().cpu()
            error += float((raw_ND - found_ND).square().sum())
            power += float(raw_ND.square().sum())
            spread += float((raw_ND - mean_D).square().sum())
            counts_F += codes.counts_F()
        error, power, spread = mesh.batch.sums(error, power, spread)
        mesh.batch.sum_(counts_F)
        counts_F = mesh.whole(counts_F, self.config.n_features).cpu()
        return held_metrics(n_rows, error, power, spread, counts_F)

    def fit_threshold(self, x_ND: Tensor) -> float:
        """`threshold.fit_threshold`: the threshold at which raw rows have k active features on average."""
        n_keep = x_ND.shape[0] * self.config.k
        top_C = torch.zeros(0, device=self.mesh.device)
        for block_ND in x_ND[self.mesh.rows(x_ND.shape[0])].split(_BLOCK):
            # Of this process's values no more than n_keep + 1 can matter, whatever the others have.
            floor = float(top_C.min()) if top_C.numel() > n_keep else 0.0
            found = above(self._centred(block_ND), self.folded["w_enc_FD"].t(), self.folded["b_enc_F"], floor)
            top_C = torch.cat([top_C, keep_largest(found, n_keep + 1).values_E])
            if top_C.numel() > n_keep + 1:
                top_C = torch.topk(top_C, n_keep + 1, sorted=False).values
        first_out = nth_largest(top_C, n_keep + 1, self.mesh.everyone)
        last = nth_largest(top_C, n_keep, self.mesh.everyone)
        return (last[0] + first_out[0]) / 2 if last and first_out else 0.0

    def save(self, folder: Path) -> None:
        """Write `sae.json` and `sae.safetensors`, as `SparseAutoencoder.save` does."""
        d, f = self.config.d_model, self.config.n_features
        tensors = {
            "w_enc_DF": self.folded["w_enc_FD"].t(),
            "b_enc_F": self.folded["b_enc_F"],
            "w_dec_FD": self.folded["w_dec_FD"],
            "b_dec_D": self.folded["b_dec_D"],
            "threshold_F": self.folded["threshold_F"],
            "scale": torch.tensor(self.scale),
        }
        shapes = {"w_enc_DF": (d, f), "b_enc_F": (f,), "w_dec_FD": (f, d), "b_dec_D": (d,), "threshold_F": (f,)}
        layout = Layout({name: ("F32", shape) for name, shape in shapes.items()}) | {"scale": ("F32", ())}
        write_shards(folder / WEIGHTS_NAME, tensors, Layout(layout), self.mesh)
        record = {"schema_version": SCHEMA_VERSION, "config": self.config.model_dump(mode="json")}
        self.mesh.first(lambda: write_json(folder / CONFIG_NAME, record))

    def _centred(self, x_ND: Tensor) -> Tensor:
        return x_ND.float().to(self.mesh.device) * self.scale - self.folded["b_dec_D"]
