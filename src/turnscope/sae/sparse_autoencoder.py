"""The sparse autoencoder at inference: raw activations to sparse codes and back.

Inside, inputs are multiplied by one scalar so that the mean squared norm of the training data is D (METHODS 7.14,
after Scaling Monosemanticity): codes, threshold and biases live in those units, which makes them comparable between
layers and models. `encode` and `decode` take and give raw activations.

    c = scale * x - b_dec ;  pre = c @ w_enc + b_enc ;  x_hat = (z @ w_dec + b_dec) / scale
    z = pre where pre > max(0, threshold), each feature having its own; for `topk` the k largest positive of a row

Every architecture ends in this form: ReLU has thresholds of 0, BatchTopK and Matryoshka one for all features, JumpReLU
trains them, and a gated dictionary folds into it exactly (its gate opens where pre > b_mag - exp(r_mag) b_gate).

Multiplying all training data by a constant therefore leaves codes as they were, and multiplies reconstructions by it.

Legend: N rows, D width, F features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError, write_json
from turnscope.sae.activations import above, top_k
from turnscope.sae.codes import SparseCodes
from turnscope.sae.config import SAEConfig, Unit
from turnscope.sae.sparse_ops import weighted_row_sum
from turnscope.sae.units import warn_of_other_rows
from turnscope.sae.weights import Layout, read_weights, write_weights

SCHEMA_VERSION = 2
CONFIG_NAME = "sae.json"
WEIGHTS_NAME = "sae.safetensors"
_MAX_CONFIG_BYTES = 1 << 20
_ENCODE_ROWS = 1 << 14


class SparseAutoencoder(nn.Module):
    """A dictionary of F unit directions, with the encoder that says which of them an activation is made of.

    Parameters do not require gradients until `requires_grad_()` is called: training has its own step
    (`training/trainer.py`), and an encoder used for reading should hold no graph. `encode` and `decode` are
    differentiable in the active entries when gradients are asked for.
    """

    def __init__(self, config: SAEConfig) -> None:
        """Zero weights of the right shapes; `load`, or the trainer, fills them. Raises ConfigError when k > F."""
        super().__init__()
        if config.k > config.n_features:
            raise ConfigError(
                f"k = {config.k} is greater than the {config.n_features} features there are",
                where="SAEConfig.k",
                fix="lower k or raise n_features",
            )
        self.config = config
        d, f = config.d_model, config.n_features
        self.w_enc_DF = nn.Parameter(torch.zeros(d, f), requires_grad=False)
        self.b_enc_F = nn.Parameter(torch.zeros(f), requires_grad=False)
        self.w_dec_FD = nn.Parameter(torch.zeros(f, d), requires_grad=False)
        self.b_dec_D = nn.Parameter(torch.zeros(d), requires_grad=False)
        self.threshold_F: Tensor
        self.scale: Tensor
        self.register_buffer("threshold_F", torch.zeros(f))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x_ND: Tensor | np.ndarray, *, rows: Unit | None = None) -> SparseCodes:
        """Codes of raw activations (N, D), any float dtype. Told what they are, it warns once when it reads others.

        Rows go through in blocks, so memory is that of the inputs and the active entries, never N x F. Raises
        ConfigError when the width is not D, DataError naming the first row that is not finite.
        """
        x_ND = self._raw(x_ND)
        if rows is not None:
            warn_of_other_rows(self.config, rows)
        floor_F, parts = self.threshold_F.clamp_min(0), list[SparseCodes]()
        for start in range(0, max(1, x_ND.shape[0]), _ENCODE_ROWS):
            rows_ND = x_ND[start : start + _ENCODE_ROWS].to(self.w_enc_DF)
            finite_N = torch.isfinite(rows_ND).all(dim=1)
            if not bool(finite_N.all()):
                row = start + int((~finite_N).nonzero()[0, 0])
                raise DataError(f"activation row {row} holds NaN or infinite values", where="SparseAutoencoder.encode")
            c_ND = rows_ND * self.scale - self.b_dec_D
            if self.config.architecture == "topk":
                parts.append(top_k(c_ND, self.w_enc_DF, self.b_enc_F, self.config.k))
            else:
                parts.append(above(c_ND, self.w_enc_DF, self.b_enc_F, floor_F))
        return SparseCodes.cat(parts)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Reconstructions (N, D) in raw units. Raises ConfigError when the codes are of another dictionary size."""
        if codes.n_features != self.config.n_features:
            raise ConfigError(
                f"codes over {codes.n_features} features, dictionary of {self.config.n_features}",
                where="SparseAutoencoder.decode",
            )
        return (weighted_row_sum(codes, self.w_dec_FD) + self.b_dec_D) / self.scale

    def forward(self, x_ND: Tensor | np.ndarray) -> Tensor:
        """`decode(encode(x))`."""
        return self.decode(self.encode(x_ND))

    def save(self, folder: Path | str) -> None:
        """Write `sae.json` and `sae.safetensors` into a folder, each atomically, the weights first."""
        folder = Path(folder)
        write_weights(folder / WEIGHTS_NAME, self.state_dict())
        write_json(
            folder / CONFIG_NAME, {"schema_version": SCHEMA_VERSION, "config": self.config.model_dump(mode="json")}
        )

    @staticmethod
    def load(folder: Path | str) -> SparseAutoencoder:
        """Read a saved dictionary. StorageError when a file is missing; IntegrityError when one is not as promised."""
        folder = Path(folder)
        config = _read_config(folder / CONFIG_NAME)
        # The file is held against the layout before the module is built: a false width must not allocate anything.
        tensors, _ = read_weights(folder / WEIGHTS_NAME, _layout(config))
        sae = SparseAutoencoder(config)
        if float(tensors["scale"]) <= 0:
            raise IntegrityError("the input scale is not positive", where=str(folder / WEIGHTS_NAME))
        sae.load_state_dict(tensors)
        return sae

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, revision: str | None = None, subfolder: str = ""
    ) -> str:
        """Write it to the Hugging Face hub with a model card; the commit's address. The token is that of HF_TOKEN."""
        from turnscope.sae.hub import push

        return push(self, repo_id, private=private, revision=revision, subfolder=subfolder)

    @staticmethod
    def from_pretrained(name: str | Path, *, revision: str | None = None, subfolder: str = "") -> SparseAutoencoder:
        """A dictionary by its folder, or by ORG/NAME on the Hugging Face hub."""
        if Path(name).is_dir():
            return SparseAutoencoder.load(Path(name) / subfolder)
        from turnscope.sae.hub import fetch

        return SparseAutoencoder.load(fetch(str(name), revision=revision, subfolder=subfolder))

    def _raw(self, x_ND: Tensor | np.ndarray) -> Tensor:
        tensor = torch.as_tensor(x_ND)
        if tensor.ndim != 2 or tensor.shape[1] != self.config.d_model:
            raise ConfigError(
                f"activations of shape {tuple(tensor.shape)}, but this dictionary reads (rows, {self.config.d_model})",
                where=f"SAE of site {self.config.site or 'unknown'} of {self.config.subject or 'an unknown model'}",
                fix="read activations at the site that the dictionary was trained on",
            )
        return tensor


def _layout(config: SAEConfig) -> Layout:
    d, f = config.d_model, config.n_features
    shapes = {
        "w_enc_DF": (d, f),
        "b_enc_F": (f,),
        "w_dec_FD": (f, d),
        "b_dec_D": (d,),
        "threshold_F": (f,),
        "scale": (),
    }
    return Layout({name: ("F32", shape) for name, shape in shapes.items()})


def _read_config(path: Path) -> SAEConfig:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise IntegrityError(f"{path.name} is larger than 1 MB", where=str(path))
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(
            f"no dictionary here: cannot read {path.name} ({error.strerror})",
            where=str(path.parent),
            fix=f"name a folder with {CONFIG_NAME} and {WEIGHTS_NAME}; for another library's: turnscope convert",
        ) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not JSON", where=str(path)) from error
    if not isinstance(stored, dict) or stored.get("schema_version") != SCHEMA_VERSION:
        found = stored.get("schema_version") if isinstance(stored, dict) else None
        raise IntegrityError(f"{path.name} has schema version {found!s:.20}, not {SCHEMA_VERSION}", where=str(path))
    try:
        return SAEConfig.model_validate(stored.get("config"))
    except ConfigError as error:
        raise IntegrityError(f"{path.name} is refused: {error.what}", where=str(path)) from error
