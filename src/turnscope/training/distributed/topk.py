"""A step of TopK and BatchTopK by the processes of a mesh: the loss and gradients that one process would find.

What is sent in a step, for B rows, k active, F features over R x S processes (batch x features):

    x_hat                 B/R x D, summed along the features (again for AuxK, when features are dead)
    TopK's cut            S x B/R x k values, gathered along the features (AuxK: S x B/R x auxk_k)
    BatchTopK's cut       three histograms of 2048 counts or fewer, summed over all
    gradients             2 F/S x D, summed along the batch: nothing where R = 1
    the rest              b_dec's gradient (D), counts of firing (F/S, along the batch), a few numbers

Sums run in another order than in one process, so results agree to rounding, not to the bit.

Legend: B rows of this process, D width, F features of this process, C candidates, E active entries, A dead features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError
from turnscope.sae.activations import above, top_k
from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_ops import weighted_row_sum
from turnscope.training.architectures.topk import BatchTopK, TopK
from turnscope.training.config import ResolvedConfig
from turnscope.training.distributed.mesh import Mesh
from turnscope.training.distributed.select import keep_largest, keep_largest_of_rows, nth_largest
from turnscope.training.step import Step, Tensors, entry_gradient, gather

_SAMPLED_ROWS = 32


@dataclass(frozen=True, slots=True)
class ShardedStep(Step):
    """A step whose gradients and firing features are this process's own; numbers are those of all."""

    all_entries: int = 0

    @property
    def n_entries(self) -> int:
        """Active entries of the batch, over all features."""
        return self.all_entries


class ShardedTopK(TopK):
    """TopK over the features of a mesh. `step` takes the whole batch and keeps its own rows of it.

    Args:
        config: resolved settings, of the whole dictionary.
        variance: error per row of the best constant predictor, in scaled units.
        mesh: this process's place.
    """

    def __init__(self, config: ResolvedConfig, variance: float, mesh: Mesh) -> None:
        super().__init__(config, variance)
        self.mesh = mesh

    def step(self, weights: Tensors, x_BD: Tensor, dead_A: Tensor, progress: float) -> Step:
        """One batch; see the head of this file."""
        mesh, n_rows = self.mesh, x_BD.shape[0]
        mine = mesh.rows(n_rows)
        x_BD = x_BD[mine].to(mesh.device)
        c_BD = x_BD - weights["b_dec_D"]
        codes = self.choose(weights, c_BD, n_rows, mine.start)
        residual_BD = weighted_row_sum(codes, weights["w_dec_FD"])
        mesh.features.sum_(residual_BD)
        residual_BD.add_(weights["b_dec_D"]).sub_(x_BD)
        g_BD = residual_BD * (2.0 / (n_rows * self.variance))
        gradients = gather(codes, entry_gradient(weights, codes, g_BD), g_BD, c_BD)
        miss = self._add_auxk(weights, gradients, residual_BD, c_BD, dead_A, n_rows)
        self._sum(weights, gradients)
        squared_error, power, missed = mesh.batch.sums(_square(residual_BD), _square(x_BD), miss)
        counts_F = codes.counts_F()
        mesh.batch.sum_(counts_F)
        (entries,) = mesh.features.sums(int(counts_F.sum()))
        total = squared_error / (n_rows * self.variance) + self.config.auxk_coefficient * missed
        fired_F = counts_F.nonzero().squeeze(1)
        return ShardedStep(
            gradients, fired_F, n_rows, squared_error, power, missed, total, self.figures(), all_entries=round(entries)
        )

    def choose(self, weights: Tensors, c_BD: Tensor, n_rows: int, first_row: int) -> SparseCodes:
        """The active entries of this process's rows and features. `n_rows`: of the whole batch."""
        del n_rows, first_row
        mine = top_k(c_BD, weights["w_enc_FD"].t(), weights["b_enc_F"], self.config.k, low_DF=self.low_DF(weights))
        return keep_largest_of_rows(mine, self.config.k, self.mesh.features)

    def _sum(self, weights: Tensors, gradients: Tensors) -> None:
        """From the gradients of this process's rows to those of the batch; b_dec's also gets what its input sends."""
        # What b_dec gets through the encoder is linear in the encoder's gradient, so one sum over all processes does;
        # x_hat's own part is the same in a whole row of the mesh, and counted once.
        through_D = gradients["b_enc_F"] @ weights["w_enc_FD"]
        added_D = gradients["b_dec_D"] if self.mesh.features.rank == 0 else torch.zeros_like(through_D)
        gradients["b_dec_D"] = added_D - through_D
        self.mesh.everyone.sum_(gradients["b_dec_D"])
        self.mesh.batch.sum_(gradients["w_enc_FD"], gradients["b_enc_F"], gradients["w_dec_FD"])

    def _add_auxk(
        self, weights: Tensors, gradients: Tensors, residual_BD: Tensor, c_BD: Tensor, dead_A: Tensor, n_rows: int
    ) -> float:
        """`step.add_auxk` with the dead features of all processes; returns this process's part of its value."""
        coefficient, k, mesh = self.config.auxk_coefficient, self.config.auxk_k, self.mesh
        (n_dead,) = mesh.features.sums(dead_A.numel())
        if not n_dead or not coefficient:
            return 0.0
        left_over_BD = residual_BD.neg()
        mean_D = left_over_BD.sum(0)
        mesh.batch.sum_(mean_D)
        (spread,) = mesh.batch.sums(float((left_over_BD - mean_D / n_rows).square().sum()))
        if not spread > 0:
            return 0.0
        w_enc_AD, w_dec_AD = weights["w_enc_FD"][dead_A], weights["w_dec_FD"][dead_A]
        acts_BA = torch.addmm(weights["b_enc_F"][dead_A], c_BD, w_enc_AD.t()).relu_()
        if k < n_dead:
            acts_BA = self._largest_dead(acts_BA, k)
        miss_BD = acts_BA @ w_dec_AD
        mesh.features.sum_(miss_BD)
        miss_BD.sub_(left_over_BD)
        g_BD = miss_BD * (2.0 * coefficient / spread)
        g_acts_BA = (g_BD @ w_dec_AD.t()).mul_(acts_BA > 0)
        gradients["w_dec_FD"].index_add_(0, dead_A, acts_BA.t() @ g_BD)
        gradients["w_enc_FD"].index_add_(0, dead_A, g_acts_BA.t() @ c_BD)
        gradients["b_enc_F"].index_add_(0, dead_A, g_acts_BA.sum(0))
        return float(miss_BD.square().sum()) / spread

    def _largest_dead(self, acts_BA: Tensor, k: int) -> Tensor:
        """The k largest of each row over all processes' dead features; the others 0."""
        kept = torch.topk(acts_BA, min(k, acts_BA.shape[1]), dim=1)
        mine = SparseCodes.from_dense(torch.zeros_like(acts_BA).scatter_(1, kept.indices, kept.values))
        return keep_largest_of_rows(mine, k, self.mesh.features).to_dense()


class ShardedBatchTopK(ShardedTopK, BatchTopK):
    """BatchTopK over the rows and features of a mesh."""

    def choose(self, weights: Tensors, c_BD: Tensor, n_rows: int, first_row: int) -> SparseCodes:
        """The active entries of this process's rows and features, and the threshold's mean one batch on."""
        encoder = weights["w_enc_FD"].t(), weights["b_enc_F"]
        low_DF, n_keep, everyone = self.low_DF(weights), n_rows * self.config.k, self.mesh.everyone
        hint = self._hint or self._guess(c_BD, *encoder)
        candidates = above(c_BD, *encoder, hint, low_DF)
        if hint > 0 and everyone.sums(candidates.n_entries)[0] < n_keep:
            candidates = above(c_BD, *encoder, 0.0, low_DF)
        share = self.mesh.share(self.config.n_features)
        rows_C, features_C = candidates.rows_E() + first_row, candidates.indices_E + share.start
        codes, least = keep_largest(candidates, n_keep, self.mesh, rows_C * self.config.n_features + features_C)
        if least is not None:
            self.follow(least)
        return codes

    def _guess(self, c_BD: Tensor, w_enc_DF: Tensor, b_enc_F: Tensor) -> float:
        """A floor for the first batch, of which no cut is known, from a few of its rows: half its values would be
        candidates else. Never changes the result.
        """
        sample_BD = c_BD[:: math.ceil(c_BD.shape[0] / _SAMPLED_ROWS)]
        (sampled,) = self.mesh.batch.sums(sample_BD.shape[0])
        found = above(sample_BD, w_enc_DF, b_enc_F, 0.0)
        cut = nth_largest(found.values_E, 2 * round(sampled) * self.config.k, self.mesh.everyone)
        return self.HINT_SHARE * cut[0] if cut else 0.0


_BY_NAME: dict[str, type[ShardedTopK]] = {"topk": ShardedTopK, "batchtopk": ShardedBatchTopK}


def make_sharded(config: ResolvedConfig, variance: float, mesh: Mesh) -> ShardedTopK:
    """The architecture that the settings name, over a mesh. Raises ConfigError for those that are not distributed."""
    kind = _BY_NAME.get(config.architecture) if config.unit != "nested" else None
    if kind is None:
        asked = "a nested dictionary" if config.unit == "nested" else config.architecture
        raise ConfigError(
            f"{asked} is not trained by several processes, only {' and '.join(_BY_NAME)} of turns or tokens",
            where="TrainConfig",
            fix="train it in one process, or take batchtopk",
        )
    return kind(config, variance, mesh)


def _square(x_BD: Tensor) -> float:
    return float(torch.dot(x_BD.reshape(-1), x_BD.reshape(-1)))
