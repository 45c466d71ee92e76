"""What a sparse autoencoder is and what it was trained on: the whole content of `sae.json` but for its version."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from turnscope.artifacts import Config

Architecture = Literal["batchtopk", "topk", "relu", "jumprelu", "gated", "matryoshka"]
Unit = Literal["turn", "token"]


class SAEConfig(Config):
    """Shape and provenance of one dictionary.

    The provenance fields travel with the weights, so that activations read under another site, span policy or token
    set can be told apart from the ones this dictionary was trained on. They are empty for a dictionary trained on a
    source that has no such origin (a test, a synthetic set).
    """

    d_model: int = Field(ge=1)
    """Width of the activations it reads."""
    n_features: int = Field(ge=1)
    """Dictionary elements."""
    k: int = Field(ge=1)
    """Mean number of active features per row it was trained for (exact for `topk`)."""
    architecture: Architecture = "batchtopk"
    """How it was trained. When it reads, `topk` keeps the k largest of a row, all others what exceeds a threshold."""
    unit: Unit = "turn"
    """Rows are turn means or single tokens."""

    site: str = ""
    """Where the activations were read, as `str(Site)`: "resid.3"."""
    roles: tuple[str, ...] = ()
    span_policy: str = ""
    token_set: str = ""
    subject: str = ""
    """Name or path of the language model."""
    subject_fingerprint: str = ""
    input_fingerprint: str = ""
    """Fingerprint of the activations it was trained on."""
