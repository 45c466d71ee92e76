"""`turnscope index`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from turnscope.cli._output import show_counts


def index(
    activations: Path, /, *, sae: Path, transcripts: Path, out: Path,
    splits: Annotated[
        tuple[Literal["train", "explain", "eval", "locked"], ...], Parameter(consume_multiple=True)
    ] = ("train", "explain", "eval"),
    neighbours: int = 10, cofiring_turns: int = 100_000, word_turns: int = 20_000, outlier_norm: float = 10.0,
    seed: int = 0, block_turns: int = 2048, memory_entries: int = 8_000_000, json: bool = False,
) -> None:  # fmt: skip
    """A dictionary over a set of turns: which turns each feature fires on, and what is known of each feature.

    Example: turnscope index runs/mine/activations/resid.3 --sae runs/mine/saes/turn --transcripts runs/mine/transcripts
    --out runs/mine/features/turn

    Stopped? Run the same command again: it goes on after the last finished block of turns.

    Parameters
    ----------
    activations
        The activations that the dictionary reads; with tokens for a token or nested dictionary.
    sae
        The dictionary.
    transcripts
        The transcripts that were harvested; texts and labels come from here.
    out
        Folder of the index.
    splits
        Turns that are indexed. The locked ones are left out unless named.
    neighbours
        Decoder neighbours and co-firing partners kept for each feature.
    cofiring_turns
        Turns, drawn at random, on which it is counted which features fire together.
    word_turns
        Turns, drawn at random, on which words are held against features.
    outlier_norm
        Tokens whose norm is so many times the median are attention sinks and get no codes.
    seed
        Of these draws.
    block_turns
        Turns encoded at a time: the unit of going on.
    memory_entries
        Entries of the postings sorted in memory at a time; about 40 bytes each.
    json
        Print the counts as JSON.
    """
    from turnscope.features.config import IndexConfig
    from turnscope.features.index import run

    config = IndexConfig(
        activations=activations, sae=sae, transcripts=transcripts, out=out, splits=splits, neighbours=neighbours,
        cofiring_turns=cofiring_turns, word_turns=word_turns, outlier_norm=outlier_norm, seed=seed,
        block_turns=block_turns, memory_entries=memory_entries,
    )  # fmt: skip
    artifact = run(config).artifact
    show_counts("features", artifact.path, artifact.manifest.counts, as_json=json)
