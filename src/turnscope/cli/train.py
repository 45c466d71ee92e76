"""`turnscope train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError
from turnscope.cli._output import print_json

if TYPE_CHECKING:
    from turnscope.training import TrainConfig, TrainResult


def train(
    activations: Path, /, *, out: Path | None = None, unit: Literal["turn", "token", "nested"] | None = None,
    features: int | None = None, k: int | None = None, lr: float | None = None, epochs: float | None = None,
    batch_size: int | None = None,
    architecture: Literal["batchtopk", "topk", "relu", "jumprelu", "gated", "matryoshka"] | None = None,
    turn_k: int | None = None, turn_share: float | None = None, turn_weight: float | None = None,
    detach_turn: bool | None = None, shuffle_gib: float | None = None, seed: int | None = None,
    mesh: str | None = None, device: Literal["cpu", "cuda"] | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (), json: bool = False,
) -> None:  # fmt: skip
    """Activations in, a sparse autoencoder out. What is not given is chosen by the data and shown.

    Example: turnscope train runs/mine/activations/resid.15 --out runs/mine/saes/turn

    Example: turnscope train runs/mine/activations/resid.15 --unit nested --out runs/mine/saes/nested

    Example: turnscope train recipe.toml --set k=64 --set schedule=cosine

    Example: torchrun --nproc-per-node 4 -m turnscope train runs/mine/activations/resid.15 --mesh 2x2 --out DIR

    Parameters
    ----------
    activations
        Activations of one site (turnscope harvest), or a recipe (a .toml file; docs/sweeps.md).
    out
        Folder of the dictionary.
    unit
        Rows are turn means (the default), or single tokens; nested: a block of features for each (needs stored tokens).
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
    set_
        NAME=VALUE, for any setting of TrainConfig; may be given again. Over the recipe and the other options.
    json
        Print the last metrics as JSON.
    """
    from turnscope.pipeline.training import TrainRecipe, read_train_recipe, settings
    from turnscope.training.config import TrainConfig
    from turnscope.training.several import run_several

    flags = {
        "out": out, "unit": unit, "n_features": features, "k": k, "lr": lr, "epochs": epochs, "batch_size": batch_size,
        "architecture": architecture, "turn_k": turn_k, "turn_share": turn_share, "turn_weight": turn_weight,
        "detach_turn": detach_turn, "seed": seed, "device": device, "mesh": _sides(mesh),
        "shuffle_memory": None if shuffle_gib is None else int(shuffle_gib * 2**30),
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None} | settings(set_)
    if activations.suffix == ".toml":
        recipe = read_train_recipe(activations, given)
    else:
        recipe = TrainRecipe((TrainConfig.model_validate({"source": activations, **given}),))
    if recipe.harvest is None:
        results = run_several(recipe.configs)
    else:
        from turnscope.pipeline.live import train_live

        wanted = list(zip(recipe.sites, recipe.configs, strict=True))
        results = train_live(recipe.harvest, wanted, buffer_rows=recipe.buffer_rows)
    for result in results:
        for note in result.notes:
            print(f"note: {note}", file=sys.stderr)
    if json:
        many = {"saes": [{"path": str(result.path), **result.metrics} for result in results]}
        return print_json(results[0].metrics if len(results) == 1 else many)
    for config, result in zip(recipe.configs, results, strict=True):
        _show(config, result)
    return None


def _show(config: TrainConfig, result: TrainResult) -> None:
    from turnscope.training.defaults import RATE_RULE

    print(f"sae: {result.path}")
    rule = "" if config.lr else f" = {RATE_RULE}"
    print(f"  {'lr':<20} {result.config.lr:.3g}{rule}")
    for name, value in result.metrics.items():
        print(f"  {name:<20} {value:.5g}" if isinstance(value, float) else f"  {name:<20} {value}")


def _sides(mesh: str | None) -> tuple[int, int] | None:
    if mesh is None:
        return None
    try:
        rows, columns = (int(side) for side in mesh.split("x"))
    except ValueError:
        raise ConfigError(f"mesh is {mesh!r}", fix="give processes along batch and features, such as 2x4") from None
    return rows, columns
