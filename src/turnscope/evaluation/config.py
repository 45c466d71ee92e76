"""Settings of the evaluation against known traits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from turnscope.artifacts import Config


class Trait(Config):
    """One thing that is known of turns: the label `key` has `value` (or, for a list of labels, holds it).

    A turn without the key, or with None, is not eligible: neither positive nor negative. `pair` names a conversation
    label: conversations with the same value of it differ in the trait and in nothing that the turn's words show, and
    the AUROC is taken within such pairs only (the chance that the positive one of a pair scores higher).
    """

    name: str
    family: str
    key: str
    value: bool | str
    pair: str = ""
    without: str = ""
    """Conversations that carry this conversation label are left out."""
    within: dict[str, str] = Field(default_factory=dict[str, str])
    """Only turns that have these other labels are eligible."""


class PlantedConfig(Config):
    """Hold one dictionary's features against labelled turns."""

    transcripts: Path
    activations: Path
    """Turn activations of the site the dictionary reads (with tokens for a token dictionary)."""
    sae: Path
    embedding: tuple[Path, Path] | None = None
    """(activations, sae) of the embedding layer: what word identity alone gives through the same pipeline."""
    random_model: tuple[Path, Path] | None = None
    """(activations, sae) of a random-weight model: what the architecture alone gives."""
    out: Path
    model: str = Field(exclude=True)
    """Whose tokenizer counts the words for the baselines; a name that `models.load` takes."""
    traits: tuple[Trait, ...] = ()
    """Empty: one for each value of each turn label with enough positives."""
    min_positives: int = Field(default=25, ge=5)
    """Fewest positives a trait needs in each of the two splits; others are named as withheld."""
    choose_on: tuple[Literal["train", "explain"], ...] = ("explain",)
    """Splits on which the feature is chosen. Figures always come from `eval`."""
    probe_rows: int = Field(default=8000, ge=100)
    """Most turns of `train` that the probes and word baselines are fitted on."""
    permutations: int = Field(default=20, ge=2)
    n_boot: int = Field(default=500, ge=100)
    pool: Literal["max", "mean", "sum"] = "max"
    """How a token dictionary's codes become one vector a turn (METHODS 1.5: max is the best of them)."""
    block: Literal["turn", "token"] | None = None
    """Of a nested dictionary: which of its blocks is evaluated; the turn block when not given."""
    examples: int = Field(default=5, ge=0)
    """Top turns kept for each chosen feature."""
    seed: int = 0
