"""Telling a broken dictionary from a poor one: what it explains of rows, and what its transposes would."""

from __future__ import annotations

import torch
from torch import Tensor

from turnscope.sae import SparseAutoencoder
from turnscope.training.metrics import evaluate

_PROBED_ROWS = 1024


def doubt(sae: SparseAutoencoder, x_ND: Tensor) -> str | None:
    """A sentence when the dictionary explains less than nothing of raw rows; None when it explains something.

    A matrix stored as (F, D) and read as (D, F), or the other way about, has the right number of values and reads as
    noise. So each of the two, and both, are read the other way; the one that explains most is named if it explains
    anything. (Where F = D and both are transposed the dictionary explains something, and nothing is said.)
    """
    x_ND = x_ND[:_PROBED_ROWS]
    found = evaluate(sae, x_ND).nmse_centred
    if found <= 1:
        return None
    said = f"the dictionary explains less than nothing of {len(x_ND)} rows: its error is {found:.3g} times their spread"
    others = {name: evaluate(other, x_ND).nmse_centred for name, other in _transposed(sae).items()}
    best = min(others, key=lambda name: others[name])
    if others[best] < 1:
        return f"{said}; with {best} transposed it explains {1 - others[best]:.1%}: that is stored the other way about"
    return f"{said}; no transpose helps: is it of this site, model and scale?"


def _transposed(sae: SparseAutoencoder) -> dict[str, SparseAutoencoder]:
    d, f = sae.config.d_model, sae.config.n_features
    w_enc_DF = sae.w_enc_DF.contiguous().view(f, d).t()
    w_dec_FD = sae.w_dec_FD.contiguous().view(d, f).t()
    chosen = {
        "the decoder": (sae.w_enc_DF, w_dec_FD),
        "the encoder": (w_enc_DF, sae.w_dec_FD),
        "encoder and decoder": (w_enc_DF, w_dec_FD),
    }
    found = dict[str, SparseAutoencoder]()
    for name, (encoder_DF, decoder_FD) in chosen.items():
        other = SparseAutoencoder(sae.config)
        with torch.no_grad():
            other.w_enc_DF.copy_(encoder_DF)
            other.w_dec_FD.copy_(decoder_FD)
            for rest in ("b_enc_F", "b_dec_D", "threshold_F", "scale"):
                getattr(other, rest).copy_(getattr(sae, rest))
        found[name] = other
    return found
