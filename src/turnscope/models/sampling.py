"""How a model is let write: settings alone, no torch."""

from __future__ import annotations

from pydantic import Field

from turnscope.artifacts import Config


class Sampling(Config):
    """Everything that decides what a model writes, but for the prompts and the model. Nothing is taken from the model's
    own defaults: no top-k, no penalty for repetition.
    """

    max_new_tokens: int = Field(default=200, ge=1)
    """A reply is cut here, and says so."""
    temperature: float = Field(default=1.0, ge=0)
    """0: always the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this share."""
    seed: int = 0
