"""`turnscope label`: what features are said to mean, from a file into an index."""

from __future__ import annotations

from pathlib import Path

from turnscope.artifacts.errors import ConfigError


def label(index: Path, file: Path, /, *, source: str = "", merge: bool = False, replace: bool = False) -> None:
    """Give features of an index explanations: turnscope search and query find them by their words.

    Example: turnscope label runs/mine/features/turn explanations.jsonl

    with lines such as {"feature": 12, "text": "polite refusal", "source": "gpt-4o-mini"}. A CSV file has a header with
    these names, a Parquet file columns. A feature may have several explanations.

    Parameters
    ----------
    index
        A feature index (turnscope index).
    file
        Explanations as .jsonl, .csv or .parquet.
    source
        Where explanations come from that do not say so themselves; the name of the file when not given.
    merge
        Keep the explanations that are there, but for those of the same feature and source.
    replace
        Remove the explanations that are there.
    """
    from turnscope.features.labelling import merged, read_explanations
    from turnscope.features.store import open_index

    if merge and replace:
        raise ConfigError("--merge keeps what is there and --replace removes it", fix="give one of the two")
    opened = open_index(index)
    new, old = read_explanations(file, source), opened.explanations()
    if len(old) and not (merge or replace):
        raise ConfigError(
            f"the index has {len(old):,} explanations already", where=index, fix="say --merge or --replace"
        )
    table = merged(old, new) if merge and len(old) else new
    opened.set_explanations(table)
    n_features = len(set(table["feature"].to_pylist()))
    print(f"{len(table):,} explanations of {n_features:,} features: {index}")
