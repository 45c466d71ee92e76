"""What is measured on the data before the first step, and the weights that follow from it.

Legend: N rows, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from turnscope.artifacts import DataError
from turnscope.training.step import Tensors

_BLOCK_FEATURES = 1 << 14
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Statistics:
    """Measured on raw rows. `scale` is rounded to float32, the precision in which the dictionary stores it."""

    mean_D: Tensor
    scale: float
    """Raw activations times this have mean squared norm D."""
    variance: float
    """Mean squared distance to the mean, in scaled units: the error per row of the best constant predictor."""


def measure(x_ND: Tensor) -> Statistics:
    """Scale and constant-predictor error of raw rows.

    Raises DataError for rows that are not finite (naming how many), or that are all alike.
    """
    power, mean_D = 0.0, torch.zeros(x_ND.shape[1], dtype=torch.float64)
    for start in range(0, len(x_ND), _BLOCK_ROWS):
        rows_ND = x_ND[start : start + _BLOCK_ROWS].double()
        finite_N = torch.isfinite(rows_ND).all(dim=1)
        if not bool(finite_N.all()):
            bad_N = ~torch.isfinite(x_ND).all(dim=1)
            raise DataError(
                f"{int(bad_N.sum())} of {x_ND.shape[0]} activation rows hold NaN or infinite values",
                where=f"first at sampled row {int(bad_N.nonzero()[0, 0])}",
                fix="harvest again, in float32 if the model overflows its own type",
            )
        power += float(rows_ND.square().sum()) / len(x_ND)
        mean_D += rows_ND.sum(0) / len(x_ND)
    # In blocks, since double precision of all rows would be the largest thing in memory; and from the mean, since the
    # difference of power and squared mean would lose what little spread there may be.
    blocks = (x_ND[start : start + _BLOCK_ROWS].double() for start in range(0, len(x_ND), _BLOCK_ROWS))
    spread = sum(float((rows_ND - mean_D).square().sum()) for rows_ND in blocks) / len(x_ND)
    # float32 rows that are one and the same vector differ from their mean by rounding: about 1e-14 of their power.
    if not spread > 1e-12 * power:
        raise DataError(
            "the activations are constant: every row is the same vector",
            where=f"{x_ND.shape[0]} rows",
            fix="check the site and the roles that were harvested",
        )
    scale = float(torch.tensor((x_ND.shape[1] / power) ** 0.5, dtype=torch.float32))
    return Statistics(mean_D, scale, spread * scale * scale)


def initial_weights(
    x_ND: Tensor, statistics: Statistics, n_features: int, data_share: float, seed: int, share: slice = slice(None)
) -> Tensors:
    """Decoder rows that already point where data lie; encoder equal to decoder; biases 0; b_dec the mean.

    A direction is p * (a centred data point) + (1 - p) * (a random direction), both of unit norm, normalised: METHODS
    3.3 and 7.14 with p = 0.8. Rows are drawn without repeat as far as they go. `share`: these features only, as they
    are among all.
    """
    generator = torch.Generator().manual_seed(seed)
    n_rows, d_model = x_ND.shape
    draws = [torch.randperm(n_rows, generator=generator) for _ in range(-(-n_features // n_rows))]
    chosen_F = torch.cat(draws)[:n_features][share]
    centred_FD = (x_ND[chosen_F].double() - statistics.mean_D).float()
    random_FD = _normal(n_features, d_model, generator, share)
    w_dec_FD = _unit(data_share * _unit(centred_FD) + (1 - data_share) * _unit(random_FD))
    b_dec_D = (statistics.mean_D * statistics.scale).float()
    return {
        "w_enc_FD": w_dec_FD.clone(),
        "b_enc_F": torch.zeros(len(chosen_F)),
        "w_dec_FD": w_dec_FD,
        "b_dec_D": b_dec_D,
    }


def _normal(n_features: int, d_model: int, generator: torch.Generator, share: slice) -> Tensor:
    """`torch.randn(n_features, d_model)[share]`, to the bit, without room for all of it."""
    first, last, _ = share.indices(n_features)
    parts, done = list[Tensor](), 0
    while done < n_features:
        # torch draws numbers by sixteens: blocks of them go on where the last one ended, and the rest joins the last.
        size = _BLOCK_FEATURES if n_features - done >= 2 * _BLOCK_FEATURES else n_features - done
        block_FD = torch.randn(size, d_model, generator=generator)
        parts.append(block_FD[max(0, first - done) : max(0, last - done)].clone())
        done += size
    return torch.cat(parts)


def _unit(rows_FD: Tensor) -> Tensor:
    return rows_FD / rows_FD.norm(dim=1, keepdim=True).clamp_min(1e-12)
