"""What the architectures with one target share.

Legend: N rows, B batch, D width, F features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.training.config import ResolvedConfig
from turnscope.training.step import Step, Tensors


class Flat:
    """One dictionary that rebuilds its own input: no parameters beside the usual four, nothing to remember.

    Args:
        config: resolved settings.
        variance: error per row of the best constant predictor, in scaled units.
    """

    unit_norm: ClassVar[bool] = True

    def __init__(self, config: ResolvedConfig, variance: float) -> None:
        self.config, self.variance = config, variance

    def shapes(self, d: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        f = self.config.n_features
        return {"w_enc_FD": (f, d), "b_enc_F": (f,), "w_dec_FD": (f, d), "b_dec_D": (d,)}

    def start(self, weights: Tensors, c_ND: Tensor) -> Tensors:
        """The usual four as they are."""
        del c_ND
        return weights

    def scaled(self, raw: NDArray[np.float32], scale: float) -> Tensor:
        """A batch in the dictionary's units."""
        # Scaling copies the rows into memory that torch aligned; the product's last bits may depend on alignment.
        return torch.as_tensor(raw, dtype=torch.float32) * scale

    def folded(self, weights: Tensors) -> Tensors:
        """The four (copied), with a threshold of 0."""
        four = {name: weights[name].clone() for name in ("w_enc_FD", "b_enc_F", "w_dec_FD", "b_dec_D")}
        return four | {"threshold_F": torch.zeros_like(weights["b_enc_F"])}

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def figures(self) -> dict[str, float]:
        """What the log shows of the state."""
        return self.state()

    def low_DF(self, weights: Tensors) -> Tensor | None:
        """The encoder in bfloat16 where the settings ask for a product in it."""
        low = self.config.encoder_dtype == "bfloat16"
        return weights["w_enc_FD"].to(torch.bfloat16).t() if low else None

    def reconstruction_loss(self, squared_error: float, x_BD: Tensor) -> float:
        """Squared error over that of the best constant predictor."""
        return squared_error / (x_BD.shape[0] * self.variance)

    def result(
        self, gradients: Tensors, codes: SparseCodes, x_BD: Tensor, squared_error: float, auxiliary: float,
        total: float,
    ) -> Step:  # fmt: skip
        """A step's outcome; entries of value 0 did not fire."""
        fired_E = codes.indices_E[codes.values_E > 0].long()
        power = float(torch.dot(x_BD.reshape(-1), x_BD.reshape(-1)))
        return Step(gradients, fired_E, x_BD.shape[0], squared_error, power, auxiliary, total, self.figures())
