"""Settings of a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from turnscope.artifacts import Config

FormatName = Literal[
    "turnscope", "saelens", "sparsify", "gemma-scope", "gemma-scope-2", "llama-scope", "dictionary-learning",
    "qwen-scope",
]  # fmt: skip
Target = Literal["turnscope", "saelens", "sparsify"]


class ConvertConfig(Config):
    """One dictionary, from any known format to ours, SAELens' or sparsify's."""

    source: Path
    out: Path
    format: FormatName | None = None
    """Told from the files when None."""
    to: Target = "turnscope"
    k: int | None = Field(default=None, ge=1)
    """Features active per row, where no file says it."""
    input_scale: float | None = Field(default=None, gt=0)
    """Factor on raw activations, where a file asks for one without giving it."""
    unit_norm: bool = False
    """Give decoder rows norm 1, by scaling encoder, bias and threshold: codes change, reconstructions do not."""
    site: str | None = None
    """Where it reads the model, in place of what the files say."""
    model: str | None = None
    """The model it was trained on, in place of what the files say."""
