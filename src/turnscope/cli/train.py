"""`turnscope train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from turnscope.artifacts.errors import ConfigError
from turnscope.cli._output import print_json


def train(
    activations: Path, /, *, out: Path, unit: Literal["turn", "token", "nested"] = "turn", features: int | None = None,
    k: int | None = None, lr: float | None = None, epochs: float | None = None, batch_size: int | None = None,
    architecture: Literal["batchtopk", "topk", "relu", "jumprelu", "gated", "matryoshka"] = "batchtopk",
    turn_k: int | None = None, turn_share: float = 0.5, turn_weight: float = 0.8, detach_turn: bool = False,
    shuffle_gib: float = 1.0, seed: int = 0, mesh: str | None = None, device: Literal["cpu", "cuda"] = "cpu",
    json: bool = False,
) -> None:  # fmt: skip
    """Activations in, a sparse autoencoder out. What is not given is chosen by the data and shown.

    Example: turnscope train runs/mine/activations/resid.15 --out runs/mine/saes/turn

    Example: turnscope train runs/mine/activations/resid.15 --unit nested --out runs/mine/saes/nested

    Example: torchrun --nproc-per-node 4 -m turnscope train runs/mine/activations/resid.15 --mesh 2x2 --out DIR

    Parameters
    ----------
    activations
        Activations of one site (turnscope harvest).
    out
        Folder of the dictionary.
    unit
        Rows are turn means, or single tokens; nested: a block of features for each (needs stored tokens).
    features
        Dictionary size.
    k
        Mean number of active features of a row; of nested, of a token.
    lr
        Learning rate.
    epochs
        Passes over the data.
    batch_size
        Rows of a step; of nested, turns.
    architecture
        Which features of a row are active, and how that is trained; topk: exactly k in every row. Nested: batchtopk.
    turn_k
        Of nested: mean number of active turn features of a turn; as many as k when not given.
    turn_share
        Of nested: share of the features that form the turn block.
    turn_weight
        Of nested: weight of the error of turn means in the loss; that of tokens has the rest.
    detach_turn
        Of nested: keep the error of tokens from the turn block.
    shuffle_gib
        Memory for rows being shuffled: all of them if they fit, else blocks of them.
    seed
        Of shuffle and start.
    mesh
        Under torchrun: processes along the batch x along the features; default 1xN (docs/distributed.md).
    device
        Under torchrun: cpu, or cuda for one GPU to a process.
    json
        Print the last metrics as JSON.
    """
    from turnscope.training.config import TrainConfig
    from turnscope.training.train import run

    try:
        rows, columns = (int(side) for side in (mesh or "1x1").split("x"))
    except ValueError:
        raise ConfigError(f"mesh is {mesh!r}", fix="give processes along batch and features, such as 2x4") from None
    result = run(
        TrainConfig(
            source=activations, out=out, unit=unit, n_features=features, k=k, lr=lr, epochs=epochs,
            batch_size=batch_size, architecture=architecture, turn_k=turn_k, turn_share=turn_share,
            turn_weight=turn_weight, detach_turn=detach_turn, shuffle_memory=int(shuffle_gib * 2**30), seed=seed,
            mesh=(rows, columns) if mesh else None, device=device,
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
