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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.harvest.turn_tokens import TurnTokens
from turnscope.sae.weights import Layout
from turnscope.training.architectures import make
from turnscope.training.checkpoint import load_checkpoint, save_checkpoint
from turnscope.training.config import ResolvedConfig
from turnscope.training.defaults import learning_rate
from turnscope.training.initial import Statistics
from turnscope.training.step import Architecture, Step, Tensors, clip_, remove_parallel

STARTING_ROWS = 1024  # that an architecture may look at before the first step


class Trainer:
    """Weights in training, and how far it has come.

    Args:
        config: resolved settings.
        weights: initial weights in scaled units; changed in place.
        scale: raw activations times this are the inputs.
        variance: error per row (of a nested dictionary: per turn) of the best constant predictor, in scaled units.
        token_variance: the same per token, of a nested dictionary.
    """

    def __init__(
        self, config: ResolvedConfig, weights: Tensors, scale: float, variance: float, token_variance: float = 0.0
    ) -> None:
        self.config, self.weights, self.scale = config, weights, scale
        self.variance, self.token_variance = variance, token_variance
        self.architecture: Architecture = make(config, variance, token_variance)
        self.step = 0
        self.samples = 0
        self.silent_for_F = torch.zeros(config.n_features, dtype=torch.int64)
        """Samples since each feature last fired."""
        self._window = _Window()
        self._adam = torch.optim.Adam(weights.values(), lr=config.lr, betas=(0.9, 0.999), fused=True)

    @staticmethod
    def fresh(config: ResolvedConfig, weights: Tensors, statistics: Statistics, sample_ND: Tensor) -> Trainer:
        """A trainer before its first step, from the usual four parameters and a sample of raw rows."""
        c_ND = sample_ND[:STARTING_ROWS] * statistics.scale - weights["b_dec_D"]
        started = make(config, statistics.variance).start(weights, c_ND)
        return Trainer(config, started, statistics.scale, statistics.variance)

    @property
    def dead_F(self) -> Tensor:
        """Which features have been silent for `dead_after` samples, bool (F,)."""
        return self.silent_for_F >= self.config.dead_after

    @torch.no_grad()
    def train_on(self, raw: NDArray[np.float32] | TurnTokens) -> None:
        """One step. Raises DataError, with weights as they were, when the batch or its loss is not finite."""
        batch, dead_A = self.architecture.scaled(raw, self.scale), self.dead_F.nonzero().squeeze(1)
        made = self.architecture.step(self.weights, batch, dead_A, self.step / self.config.n_steps)
        if not math.isfinite(made.total):
            raise self._not_finite(raw if isinstance(raw, np.ndarray) else np.concatenate([raw.mean_BD, raw.tokens_TD]))
        if not self._update(made.gradients):
            raise self._not_finite(raw if isinstance(raw, np.ndarray) else np.concatenate([raw.mean_BD, raw.tokens_TD]))
        self._after(made)

    def _update(self, gradients: Tensors) -> bool:
        """One step of Adam, with decoder rows kept at norm 1 where the architecture wants that.

        False, with weights as they were, when a gradient is not finite.
        """
        decoders = [name for name in self.weights if name.endswith("w_dec_FD") and self.architecture.unit_norm]
        for name in decoders:
            remove_parallel(gradients[name], self.weights[name])
        if not math.isfinite(self.clip(gradients)):
            return False
        for name, parameter in self.weights.items():
            parameter.grad = gradients[name]
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self._adam.step()
        for parameter in self.weights.values():
            parameter.grad = None  # the next batch's gradients need the room
        for name in decoders:
            w_dec_FD = self.weights[name]
            w_dec_FD.div_(w_dec_FD.norm(dim=1, keepdim=True).clamp_min_(1e-12))
        return True

    def clip(self, gradients: Tensors) -> float:
        """Scale all gradients so that their joint norm is at most `clip_norm`; returns the norm before."""
        return clip_(gradients, self.config.clip_norm)

    @property
    def n_dead(self) -> int:
        """Features silent for `dead_after` samples."""
        return int(self.dead_F.sum())

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
            "dead": self.n_dead,
            **{name: value / max(1, window.batches) for name, value in window.figures.items()},
        }

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, plain values) from which `restore` goes on. Adam's moments are zeros before the first step."""
        tensors: dict[str, Tensor] = {"silent_for_F": self.silent_for_F}
        for name, parameter in self.weights.items():
            moments = self._adam.state.get(parameter, {})
            tensors[name] = parameter
            tensors[f"{name}.m"] = moments.get("exp_avg", torch.zeros_like(parameter))
            tensors[f"{name}.v"] = moments.get("exp_avg_sq", torch.zeros_like(parameter))
        values = {
            "step": self.step,
            "samples": self.samples,
            "architecture": self.architecture.state(),
            "scale": self.scale,
            "variance": self.variance,
            "token_variance": self.token_variance,
            "window": vars(self._window),
        }
        return tensors, values

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Replace the folder's checkpoint; `state` is what else the run depends on."""
        tensors, values = self.checkpoint()
        save_checkpoint(folder, tensors, {**state, "trainer": values})

    @staticmethod
    def saved(config: ResolvedConfig, folder: Path, d_model: int) -> tuple[Trainer, dict[str, Any]] | None:
        """The trainer and the state of the folder's checkpoint, or None when it has none."""
        stored = load_checkpoint(folder, Trainer.layout(config, d_model))
        return (Trainer.restore(config, stored[0], stored[1]["trainer"]), stored[1]) if stored else None

    @staticmethod
    def layout(config: ResolvedConfig, d_model: int) -> Layout:
        """What a checkpoint of these settings must hold."""
        shapes = make(config, 1.0).shapes(d_model)
        layout = Layout({"silent_for_F": ("I64", (config.n_features,))})
        for name, shape in shapes.items():
            layout.update(dict.fromkeys((name, f"{name}.m", f"{name}.v"), ("F32", shape)))
        return layout

    @staticmethod
    def restore(config: ResolvedConfig, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Trainer:
        """The trainer that `checkpoint` was called on."""
        names = [name.removesuffix(".m") for name in tensors if name.endswith(".m")]
        weights = {name: tensors[name].clone() for name in names}
        trainer = Trainer(config, weights, values["scale"], values["variance"], values["token_variance"])
        trainer.take(tensors, values)
        return trainer

    def take(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go to a checkpoint's step; the weights are its own already."""
        self.step, self.samples = values["step"], values["samples"]
        self.architecture.restore(values["architecture"])
        self._window = _Window(**values["window"])
        self.silent_for_F = tensors["silent_for_F"].clone()
        if self.step:
            for name, parameter in self.weights.items():
                self._adam.state[parameter] = {
                    "step": torch.tensor(float(self.step), device=parameter.device),
                    "exp_avg": tensors[f"{name}.m"].clone(),
                    "exp_avg_sq": tensors[f"{name}.v"].clone(),
                }

    def _after(self, made: Step) -> None:
        self.step += 1
        self.samples += made.n_rows
        self.silent_for_F.add_(made.n_rows)
        self.silent_for_F[made.fired_E] = 0
        self._window.add(made)

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
        self, batches: int = 0, rows: int = 0, entries: int = 0, squared_error: float = 0.0, power: float = 0.0,
        auxiliary: float = 0.0, loss: float = 0.0, figures: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.batches, self.rows, self.entries = batches, rows, entries
        self.squared_error, self.power, self.auxiliary, self.loss = squared_error, power, auxiliary, loss
        self.figures = dict(figures or {})

    def add(self, made: Step) -> None:
        self.batches += 1
        self.rows += made.n_rows
        self.entries += made.n_entries
        self.squared_error += made.squared_error
        self.power += made.power
        self.auxiliary += made.auxiliary
        self.loss += made.total
        for name, value in made.figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + value
