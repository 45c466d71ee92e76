"""Dictionaries of other libraries: one file per format, each to the canonical `SparseAutoencoder`, two of them back.

An adapter folds whatever its library does beside the canonical form (another input centre, normalisation, gates,
decoder norms) into weights, thresholds and the input scale, so that the result takes raw activations. What cannot be
folded exactly is refused by name.
"""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.sae.formats.registry import FORMATS as FORMATS
    from turnscope.sae.formats.registry import detect as detect
    from turnscope.sae.formats.registry import export as export
    from turnscope.sae.formats.registry import read as read

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {"FORMATS": "registry", "detect": "registry", "export": "registry", "read": "registry"},
)
