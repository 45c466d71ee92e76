"""Settings of the feature index and of the tools that read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from turnscope.artifacts import Config

Split = Literal["train", "explain", "eval", "locked"]


class IndexConfig(Config):
    """Index one dictionary over one set of activations."""

    activations: Path
    """Activations of the site that the dictionary reads; with tokens for a token or nested dictionary."""
    sae: Path
    transcripts: Path
    """What was harvested: labels and texts come from here."""
    out: Path
    splits: tuple[Split, ...] = Field(default=("train", "explain", "eval"), min_length=1)
    """Turns that are indexed. `locked` is for the last test of a finished claim, so it is left out unless named."""
    pool: Literal["max", "mean", "sum"] = "max"
    """A turn's value of a token feature: the largest one of its stored tokens, their mean (silent tokens count with 0),
    or their sum."""
    dense: float = Field(default=0.5, gt=0, le=1)
    """A feature that fires on more than this share of turns is flagged dense."""
    outlier_norm: float = Field(default=10.0, gt=1)
    """Tokens whose norm is so many times the median are attention sinks and get no codes; turns likewise are marked
    as outliers and serve as no example. The first token of a rendered conversation is always a sink."""
    bins: int = Field(default=20, ge=2, le=200)
    """Of each feature's histogram, from 0 to its maximum."""
    neighbours: int = Field(default=10, ge=1, le=100)
    """Decoder neighbours, and co-firing partners by each measure, kept for a feature."""
    cofiring_turns: int = Field(default=100_000, ge=100)
    """Turns, drawn at random, on which co-firing is counted."""
    duplicate_cosine: float = Field(default=0.95, gt=0, le=1)
    duplicate_jaccard: float = Field(default=0.5, gt=0, le=1)
    """A feature with a lower-numbered one this near, by decoder and by firing, is its duplicate."""
    word_turns: int = Field(default=20_000, ge=100)
    """Turns, drawn at random, on which words are held against features."""
    vocabulary: int = Field(default=20_000, ge=10)
    """Words, and pairs of words, that are held against features: the most frequent ones."""
    model: str = Field(default="", exclude=True)
    """The model that was harvested, for logit weights, scrambled turns and neurons; none of them when not named."""
    logits: bool = True
    """With `model`: logit weights. An encoder has no unembedding, so none."""
    scramble_turns: int = Field(default=0, ge=0)
    """With `model`: at most so many turns read again with their tokens in random order; 0 for none."""
    neuron_turns: int = Field(default=0, ge=0)
    """With `model`: at most so many turns on which features are correlated with neurons; 0 for none."""
    map: Literal["pca", "umap"] = "pca"
    """How features are laid out in the plane, by their directions; umap needs the extra."""
    logit_tokens: int = Field(default=10, ge=1, le=100)
    """Tokens of each sign kept as logit weights."""
    seed: int = 0
    block_turns: int = Field(default=2048, ge=1)
    """Turns encoded at a time: the unit of going on after a kill."""
    block_tokens: int = Field(default=65_536, ge=1)
    """Most tokens of such a block, but for a turn that is longer by itself."""
    memory_entries: int = Field(default=8_000_000, ge=1_000, exclude=True)
    """Entries sorted in memory at a time (about 40 bytes each)."""
