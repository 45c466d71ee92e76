"""`turnscope train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from turnscope.cli._output import print_json


def train(
    activations: Path, /, *, out: Path, unit: Literal["turn", "token"] = "turn", features: int | None = None,
    k: int | None = None, lr: float | None = None, epochs: float | None = None, batch_size: int | None = None,
    architecture: Literal["batchtopk", "topk"] = "batchtopk", shuffle_gib: float = 1.0, seed: int = 0,
    json: bool = False,
) -> None:  # fmt: skip
    """Activations in, a sparse autoencoder out. What is not given is chosen by the data and shown.

    Example: turnscope train runs/mine/activations/resid.15 --out runs/mine/saes/turn

    Parameters
    ----------
    activations
        Activations of one site (turnscope harvest).
    out
        Folder of the dictionary.
    unit
        Rows are turn means, or single tokens.
    features
        Dictionary size.
    k
        Mean number of active features of a row.
    lr
        Learning rate.
    epochs
        Passes over the data.
    batch_size
        Rows of a step.
    architecture
        batchtopk, or topk: exactly k in every row.
    shuffle_gib
        Memory for rows being shuffled: all of them if they fit, else blocks of them.
    seed
        Of shuffle and start.
    json
        Print the last metrics as JSON.
    """
    from turnscope.training.config import TrainConfig
    from turnscope.training.train import run

    result = run(
        TrainConfig(
            source=activations, out=out, unit=unit, n_features=features, k=k, lr=lr, epochs=epochs,
            batch_size=batch_size, architecture=architecture, shuffle_memory=int(shuffle_gib * 2**30), seed=seed,
        )
    )  # fmt: skip
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if json:
        return print_json(result.metrics)
    print(f"sae: {result.path}")
    for name, value in result.metrics.items():
        print(f"  {name:<20} {value:.5g}" if isinstance(value, float) else f"  {name:<20} {value}")
    return None
