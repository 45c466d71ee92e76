"""From another library's parameters to the canonical form, exactly; sums in float64.

Legend: D width, F features.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.sae.config import SAEConfig
from turnscope.sae.sparse_autoencoder import SparseAutoencoder


def assemble(
    *, w_enc_DF: Tensor, b_enc_F: Tensor, w_dec_FD: Tensor, b_dec_D: Tensor, where: Path,
    threshold_F: Tensor | None = None, centred: bool, scale: float = 1.0, k: int | None, **facts: Any,
) -> SparseAutoencoder:  # fmt: skip
    """The canonical dictionary.

    centred: whether the library subtracts `b_dec` from its (scaled) input. If not, that moves into the encoder's bias:
        x W + b = (x - b_dec) W + (b + b_dec W).
    scale: factor on raw activations; all other parameters are in units of the scaled input.
    k: features active per row, where the source says so; else the number of features, which is merely a bound.
    facts: fields of SAEConfig; foreign dictionaries read tokens unless told otherwise.
    """
    if not 0 < float(torch.tensor(scale, dtype=torch.float32)) < math.inf:
        raise IntegrityError(f"the input scale is {scale}, which is not a positive number in float32", where=str(where))
    d, f = w_enc_DF.shape
    if k is not None and k > f:
        raise IntegrityError(f"k = {k} is greater than the {f} features there are", where=str(where))
    config = SAEConfig.model_validate({"unit": "token", **facts, "d_model": d, "n_features": f, "k": k or f})
    if not centred:
        b_enc_F = (b_enc_F.double() + b_dec_D.double() @ w_enc_DF.double()).float()
    sae = SparseAutoencoder(config)
    sae.load_state_dict(
        {
            "w_enc_DF": w_enc_DF,
            "b_enc_F": b_enc_F,
            "w_dec_FD": w_dec_FD,
            "b_dec_D": b_dec_D,
            "threshold_F": torch.zeros(f) if threshold_F is None else threshold_F.expand(f),
            "scale": torch.tensor(scale),
        }
    )
    for name, tensor in sae.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(f"{name} is not finite once everything is folded into it", where=str(where))
    return sae


def fold_gate(
    w_enc_DF: Tensor, r_mag_F: Tensor, b_mag_F: Tensor, b_gate_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(w_enc, b_enc, threshold) of a gated encoder.

    Its gate opens where c W + b_gate > 0; its magnitude is exp(r) (c W) + b_mag. So with pre the magnitude, the gate
    is open exactly where pre > b_mag - exp(r) b_gate.
    """
    gain_F = r_mag_F.double().exp()
    threshold_F = b_mag_F.double() - gain_F * b_gate_F.double()
    return (w_enc_DF.double() * gain_F).float(), b_mag_F, threshold_F.float()


def decoder_norms(w_dec_FD: Tensor) -> Tensor:
    """(F,), with 1 for a row of zeros, which no scaling can change."""
    norm_F = w_dec_FD.double().norm(dim=1)
    return torch.where(norm_F > 0, norm_F, torch.ones_like(norm_F))


def unit_rows(
    w_enc_DF: Tensor, b_enc_F: Tensor, w_dec_FD: Tensor, threshold_F: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same reconstructions from decoder rows of norm 1: the norms go into encoder, bias and threshold."""
    norm_F = decoder_norms(w_dec_FD)
    return (
        (w_enc_DF.double() * norm_F).float(),
        (b_enc_F.double() * norm_F).float(),
        (w_dec_FD.double() / norm_F[:, None]).float(),
        None if threshold_F is None else (threshold_F.double() * norm_F).float(),
    )


def with_unit_decoder(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The same function from unit decoder rows. ConfigError for top-k, whose choice of features would change."""
    if sae.config.architecture == "topk":
        norm_F = decoder_norms(sae.w_dec_FD)
        if not torch.allclose(norm_F, torch.ones_like(norm_F), atol=1e-4):
            raise ConfigError(
                "the decoder of a top-k dictionary cannot be given unit norm: other features would be the k largest",
                fix="convert it as it is",
            )
        return sae
    unit = SparseAutoencoder(sae.config)
    w_enc_DF, b_enc_F, w_dec_FD, threshold_F = unit_rows(sae.w_enc_DF, sae.b_enc_F, sae.w_dec_FD, sae.threshold_F)
    changed = {"w_enc_DF": w_enc_DF, "b_enc_F": b_enc_F, "w_dec_FD": w_dec_FD, "threshold_F": threshold_F}
    unit.load_state_dict({**sae.state_dict(), **changed})
    return unit
