"""Sparse autoencoders at inference: encoder and decoder, sparse codes, files."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.sae.codes import Padded as Padded
    from turnscope.sae.codes import SparseCodes as SparseCodes
    from turnscope.sae.config import SAEConfig as SAEConfig
    from turnscope.sae.sparse_autoencoder import SparseAutoencoder as SparseAutoencoder

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Padded": "codes",
        "SAEConfig": "config",
        "SparseAutoencoder": "sparse_autoencoder",
        "SparseCodes": "codes",
    },
)
