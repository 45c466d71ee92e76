"""Activations made of known atoms."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Planted(NamedTuple):
    """Rows, each a positive combination of a few unit atoms around a common mean."""

    x_ND: NDArray[np.float32]
    atoms_FD: NDArray[np.float64]


def planted(n: int, d: int, f: int, k: int, *, seed: int = 0, noise: float = 0.02) -> Planted:
    """`k` of `f` atoms on each of `n` rows, with weights in [0.5, 1.5], a mean of norm 3, and noise."""
    rng = np.random.default_rng(seed)
    atoms_FD = rng.normal(size=(f, d))
    atoms_FD /= np.linalg.norm(atoms_FD, axis=1, keepdims=True)
    active_NK = np.argsort(rng.random((n, f)), axis=1)[:, :k]
    z_NF = np.zeros((n, f))
    np.put_along_axis(z_NF, active_NK, rng.uniform(0.5, 1.5, (n, k)), axis=1)
    mean_D = 3 * rng.normal(size=d) / np.sqrt(d)
    return Planted((z_NF @ atoms_FD + mean_D + noise * rng.normal(size=(n, d))).astype(np.float32), atoms_FD)
