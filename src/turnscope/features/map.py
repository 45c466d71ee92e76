"""Features in the plane, near one another when their decoder directions are. F features, D width."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import DependencyError

_NEIGHBOURS = 15


def feature_map(decoder_FD: NDArray[np.float32], method: Literal["pca", "umap"], seed: int) -> pa.Table:
    """A table (feature, x, y); features whose direction is zero have no place (null).

    PCA takes the two directions in which the unit decoder vectors vary most; signs are fixed so that the largest entry
    of each is positive, and the same dictionary gives the same map. UMAP (cosine, 15 neighbours, fixed seed) keeps
    neighbourhoods and not distances; it repeats itself on one machine and version only.

    Raises DependencyError when umap-learn is missing.
    """
    alive_F = np.abs(decoder_FD).sum(1) > 0
    places_F2 = np.full((len(decoder_FD), 2), np.nan)
    rows_MD = decoder_FD[alive_F].astype(np.float64)
    if method == "umap" and len(rows_MD) > _NEIGHBOURS:
        places_F2[alive_F] = _umap(rows_MD, seed)
    elif len(rows_MD):
        places_F2[alive_F] = _pca(rows_MD)
    return pa.table(
        {
            "feature": np.arange(len(decoder_FD), dtype=np.int32),
            "x": pa.array(places_F2[:, 0].astype(np.float32), from_pandas=True),
            "y": pa.array(places_F2[:, 1].astype(np.float32), from_pandas=True),
        }
    )


def _pca(rows_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    centred_MD = rows_MD - rows_MD.mean(0)
    _, vectors_DD = np.linalg.eigh(centred_MD.T @ centred_MD)
    axes_D2 = vectors_DD[:, ::-1][:, :2]
    axes_D2 = axes_D2 * np.where(axes_D2[np.abs(axes_D2).argmax(0), range(axes_D2.shape[1])] < 0, -1, 1)
    places = centred_MD @ axes_D2
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _umap(rows_MD: NDArray[np.float64], seed: int) -> Any:
    try:
        umap: Any = importlib.import_module("umap")
    except ImportError as error:
        raise DependencyError(
            "the map by UMAP needs umap-learn", fix="pip install 'turnscope[map]', or use the map pca"
        ) from error
    return umap.UMAP(n_neighbors=_NEIGHBOURS, metric="cosine", random_state=seed, n_jobs=1).fit_transform(rows_MD)
