"""The training loop's state and one step of it.

Everything that the next step depends on is in a `Trainer`: weights, Adam's moments, the dead-feature counters, the
threshold's running mean, the source's position, the sums not yet logged. `checkpoint()` gives all of it and `restore()`
takes it, and no random number is drawn after initialisation; hence a run killed at any step and resumed gives the same
bytes (same machine, same number of threads).

Legend: B batch, D width, F features, E active entries, A dead features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.activations import batch_top_k, top_k
from turnscope.sae.codes import SparseCodes
from turnscope.sae.weights import Layout
from turnscope.training.config import ResolvedConfig
from turnscope.training.defaults import learning_rate
from turnscope.training.initial import Statistics
from turnscope.training.losses import Weights, clip_, loss_and_gradients, remove_parallel

_NAMES = ("w_enc_FD", "b_enc_F", "w_dec_FD", "b_dec_D")
# The next batch's candidates are looked for from a little under this batch's cut: it seldom falls by more in one step.
_HINT_SHARE = 0.9


class Trainer:
    """Weights in training, and how far it has come.

    Args:
        config: resolved settings.
        weights: initial weights in scaled units; changed in place.
        scale: raw activations times this are the inputs.
        variance: error per row of the best constant predictor, in scaled units.
    """

    def __init__(self, config: ResolvedConfig, weights: Weights, scale: float, variance: float) -> None:
        self.config, self.weights, self.scale, self.variance = config, weights, scale, variance
        self.step = 0
        self.samples = 0
        self.threshold: float | None = None
        self.silent_for_F = torch.zeros(config.n_features, dtype=torch.int64)
        """Samples since each feature last fired."""
        self._hint = 0.0  # speeds up the search for the largest; changes nothing in its result, so it is not saved
        self._window = _Window()
        self._adam = torch.optim.Adam(weights.all(), lr=config.lr, betas=(0.9, 0.999), fused=True)

    @staticmethod
    def fresh(config: ResolvedConfig, weights: Weights, statistics: Statistics) -> Trainer:
        """A trainer before its first step."""
        return Trainer(config, weights, statistics.scale, statistics.variance)

    @property
    def dead_F(self) -> Tensor:
        """Which features have been silent for `dead_after` samples, bool (F,)."""
        return self.silent_for_F >= self.config.dead_after

    @torch.no_grad()
    def train_on(self, raw_BD: NDArray[np.float32]) -> None:
        """One step. Raises DataError, with weights as they were, when the batch or its loss is not finite."""
        config = self.config
        # Scaling copies the rows into memory that torch aligned; the product's last bits may depend on alignment.
        x_BD = torch.as_tensor(raw_BD, dtype=torch.float32) * self.scale
        c_BD = x_BD - self.weights.b_dec_D
        codes = self._select(c_BD)
        losses = loss_and_gradients(
            self.weights,
            x_BD,
            c_BD,
            codes,
            variance=self.variance,
            dead_A=self.dead_F.nonzero().squeeze(1),
            auxk_k=config.auxk_k,
            auxk_coefficient=config.auxk_coefficient,
        )
        if not math.isfinite(losses.total):
            raise self._not_finite(raw_BD)
        gradients = losses.gradients
        remove_parallel(gradients.w_dec_FD, self.weights.w_dec_FD)
        clip_(gradients, config.clip_norm)
        for parameter, gradient in zip(self.weights.all(), gradients.all(), strict=True):
            parameter.grad = gradient
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self._adam.step()
        w_dec_FD = self.weights.w_dec_FD
        w_dec_FD.div_(w_dec_FD.norm(dim=1, keepdim=True).clamp_min_(1e-12))

        self._after(codes, x_BD.shape[0])
        self._window.add(x_BD, codes.n_entries, losses.squared_error, losses.auxiliary, losses.total)

    def log_line(self) -> dict[str, Any]:
        """Figures of the batches since the last call. Errors are on training rows, before each step's update."""
        window, self._window = self._window, _Window()
        rows = max(1, window.rows)
        return {
            "step": self.step,
            "samples": self.samples,
            "lr": learning_rate(self.config, max(0, self.step - 1)),
            "loss": window.loss / max(1, window.batches),
            "nmse_raw": window.squared_error / window.power if window.power else 0.0,
            "nmse_centred": window.squared_error / (rows * self.variance),
            "auxk": window.auxiliary / max(1, window.batches),
            "l0": window.entries / rows,
            "dead": int(self.dead_F.sum()),
            "threshold": self.threshold or 0.0,
        }

    def to_sae(self, config: SAEConfig, threshold: float | None = None) -> SparseAutoencoder:
        """The dictionary as it stands (a copy), with the running threshold unless another is given."""
        sae = SparseAutoencoder(config)
        sae.w_enc_DF.copy_(self.weights.w_enc_FD.t())
        sae.b_enc_F.copy_(self.weights.b_enc_F)
        sae.w_dec_FD.copy_(self.weights.w_dec_FD)
        sae.b_dec_D.copy_(self.weights.b_dec_D)
        sae.scale.fill_(self.scale)
        sae.threshold_F.fill_((self.threshold or 0.0) if threshold is None else threshold)
        return sae

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, plain values) from which `restore` goes on. Adam's moments are zeros before the first step."""
        tensors: dict[str, Tensor] = {"silent_for_F": self.silent_for_F}
        for name, parameter in zip(_NAMES, self.weights.all(), strict=True):
            moments = self._adam.state.get(parameter, {})
            tensors[name] = parameter
            tensors[f"{name}.m"] = moments.get("exp_avg", torch.zeros_like(parameter))
            tensors[f"{name}.v"] = moments.get("exp_avg_sq", torch.zeros_like(parameter))
        values = {
            "step": self.step,
            "samples": self.samples,
            "threshold": self.threshold,
            "scale": self.scale,
            "variance": self.variance,
            "window": vars(self._window),
        }
        return tensors, values

    @staticmethod
    def layout(config: ResolvedConfig, d_model: int) -> Layout:
        """What a checkpoint of these settings must hold."""
        f, d = config.n_features, d_model
        shapes = {"w_enc_FD": (f, d), "b_enc_F": (f,), "w_dec_FD": (f, d), "b_dec_D": (d,)}
        layout = Layout({"silent_for_F": ("I64", (f,))})
        for name, shape in shapes.items():
            layout.update(dict.fromkeys((name, f"{name}.m", f"{name}.v"), ("F32", shape)))
        return layout

    @staticmethod
    def restore(config: ResolvedConfig, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Trainer:
        """The trainer that `checkpoint` was called on."""
        weights = Weights(*(tensors[name].clone() for name in _NAMES))
        trainer = Trainer(config, weights, values["scale"], values["variance"])
        trainer.step, trainer.samples = values["step"], values["samples"]
        trainer.threshold = values["threshold"]
        trainer._window = _Window(**values["window"])
        trainer.silent_for_F = tensors["silent_for_F"].clone()
        if trainer.step:
            for name, parameter in zip(_NAMES, weights.all(), strict=True):
                trainer._adam.state[parameter] = {
                    "step": torch.tensor(float(trainer.step)),
                    "exp_avg": tensors[f"{name}.m"].clone(),
                    "exp_avg_sq": tensors[f"{name}.v"].clone(),
                }
        return trainer

    def _select(self, c_BD: Tensor) -> SparseCodes:
        w_enc_DF, b_enc_F, k = self.weights.w_enc_FD.t(), self.weights.b_enc_F, self.config.k
        if self.config.architecture == "topk":
            return top_k(c_BD, w_enc_DF, b_enc_F, k)
        return batch_top_k(c_BD, w_enc_DF, b_enc_F, k, self._hint)

    def _after(self, codes: SparseCodes, n_rows: int) -> None:
        self.step += 1
        self.samples += n_rows
        self.silent_for_F.add_(n_rows)
        self.silent_for_F[codes.indices_E.long()] = 0
        if codes.n_entries:
            smallest = float(codes.values_E.min())
            beta = self.config.threshold_beta
            self.threshold = smallest if self.threshold is None else beta * self.threshold + (1 - beta) * smallest
            self._hint = _HINT_SHARE * smallest

    def _not_finite(self, raw_BD: NDArray[np.float32]) -> DataError:
        bad = int((~np.isfinite(raw_BD).all(axis=1)).sum())
        if bad:
            return DataError(
                f"{bad} of {raw_BD.shape[0]} activation rows of step {self.step} hold NaN or infinite values",
                where=f"after {self.samples} samples",
                fix="harvest again, in float32 if the model overflows its own type",
            )
        return DataError(
            f"the loss of step {self.step} is not finite, on {raw_BD.shape[0]} finite rows: training has diverged",
            where=f"after {self.samples} samples",
            fix="lower lr, and start in a fresh folder",
        )


class _Window:
    """Sums since the last line of the log."""

    def __init__(
        self,
        batches: int = 0,
        rows: int = 0,
        entries: int = 0,
        squared_error: float = 0.0,
        power: float = 0.0,
        auxiliary: float = 0.0,
        loss: float = 0.0,
    ) -> None:
        self.batches, self.rows, self.entries = batches, rows, entries
        self.squared_error, self.power, self.auxiliary, self.loss = squared_error, power, auxiliary, loss

    def add(self, x_BD: Tensor, entries: int, squared_error: float, auxiliary: float, loss: float) -> None:
        self.batches += 1
        self.rows += x_BD.shape[0]
        self.entries += entries
        self.squared_error += squared_error
        self.power += float(x_BD.square().sum())
        self.auxiliary += auxiliary
        self.loss += loss
