"""`turnscope index`, `turnscope features split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from turnscope.cli._output import print_json, show_counts


def index(
    activations: Path, /, *, sae: Path, transcripts: Path, out: Path,
    splits: Annotated[
        tuple[Literal["train", "explain", "eval", "locked"], ...], Parameter(consume_multiple=True)
    ] = ("train", "explain", "eval"),
    pool: Literal["max", "mean", "sum"] = "max",
    neighbours: int = 10, cofiring_turns: int = 100_000, word_turns: int = 20_000, outlier_norm: float = 10.0,
    model: str = "", logits: bool = True, scramble_turns: int = 0, neuron_turns: int = 0,
    map: Literal["pca", "umap"] = "pca",  # noqa: A002
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
    pool
        A turn's value of a token feature: the largest one of its tokens, their mean or their sum.
    neighbours
        Decoder neighbours and co-firing partners kept for each feature.
    cofiring_turns
        Turns, drawn at random, on which it is counted which features fire together.
    word_turns
        Turns, drawn at random, on which words are held against features.
    outlier_norm
        Tokens whose norm is so many times the median are attention sinks and get no codes.
    model
        The model that was harvested, for the tokens that each feature promotes and suppresses. Only its unembedding is
        read, unless turns are scrambled or neurons read.
    logits
        With --model, those tokens; --no-logits for an encoder, which has no unembedding.
    scramble_turns
        With --model: read at most so many turns again with their tokens in random order, and tell which features
        still fire.
    neuron_turns
        With --model: correlate features with the neurons of earlier blocks on at most so many turns.
    map
        How features are laid out in the plane: pca, or umap (extra map).
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
        activations=activations, sae=sae, transcripts=transcripts, out=out, splits=splits, pool=pool,
        neighbours=neighbours,
        cofiring_turns=cofiring_turns, word_turns=word_turns, outlier_norm=outlier_norm, model=model, map=map,
        logits=logits, scramble_turns=scramble_turns, neuron_turns=neuron_turns, seed=seed,
        block_turns=block_turns, memory_entries=memory_entries,
    )  # fmt: skip
    artifact = run(config).artifact
    show_counts("features", artifact.path, artifact.manifest.counts, as_json=json)


def split_features(
    first: Path, second: Path, /, *, saes: tuple[Path, Path], out: Path | None = None, cosine: float = 0.7,
    jaccard: float = 0.65, json: bool = False,
) -> None:  # fmt: skip
    """Two dictionaries side by side: which features stay, split, merge, die and are born.

    Example: turnscope features split runs/a/features/small runs/a/features/large --saes runs/a/saes/small
    runs/a/saes/large

    Parameters
    ----------
    first
        Index of the first dictionary (turnscope index).
    second
        Index of the second one, over activations of the same transcripts.
    saes
        The two dictionaries, in this order.
    out
        JSON file that receives every feature's fate.
    cosine
        Features are one when their directions are at least so near,
    jaccard
        and they fire on the same turns at least so much.
    json
        Print every feature's fate as JSON.
    """
    from collections import Counter

    from turnscope.artifacts import write_json
    from turnscope.artifacts.errors import IntegrityError
    from turnscope.features.encode import Dictionary
    from turnscope.features.splitting import Limits, compare
    from turnscope.features.store import open_index

    indexes, dictionaries = [open_index(first), open_index(second)], [Dictionary(folder) for folder in saes]
    for index, dictionary in zip(indexes, dictionaries, strict=True):
        if index.artifact.manifest.inputs["sae"] != dictionary.artifact.fingerprint:
            raise IntegrityError(
                "the index was made of another dictionary", where=str(dictionary.artifact.path), fix="name its own"
            )
    decoders = [dictionary.decoder_FD() for dictionary in dictionaries]
    rows = compare(indexes[0], indexes[1], decoders[0], decoders[1], Limits(cosine, jaccard)).to_pylist()
    if out is not None:
        write_json(out, {"features": rows})
    if json:
        return print_json({"features": rows})
    for fate, count in Counter(row["fate"] for row in rows).most_common():
        print(f"{fate:<7} {count:>7,}")
    return None


features = App(
    name="features",
    help="""Indexes of features, held side by side.

Example: turnscope features split runs/a/features/small runs/a/features/large --saes runs/a/saes/small
runs/a/saes/large""",
    help_format="plaintext",
)
features.command(split_features, name="split")
