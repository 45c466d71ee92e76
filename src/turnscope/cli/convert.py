"""`turnscope convert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible
from turnscope.cli._output import print_json

if TYPE_CHECKING:
    from turnscope.sae.formats.convert import ConvertResult

Format = Literal[
    "auto", "turnscope", "saelens", "sparsify", "gemma-scope", "gemma-scope-2", "llama-scope", "dictionary-learning",
    "qwen-scope",
]  # fmt: skip


def convert(
    source: Path, /, *, out: Path, from_format: Annotated[Format, Parameter(name="--format")] = "auto",
    to: Literal["turnscope", "saelens", "sparsify"] = "turnscope", k: int | None = None,
    input_scale: float | None = None, unit_norm: bool = False, site: str | None = None, model: str | None = None,
    probe: Path | None = None, json: bool = False,
) -> None:  # fmt: skip
    """A dictionary of another library to ours, or ours to another library's.

    This is the one command that opens pickled weights, and only plain tensors in them. docs/formats.md lists what is
    read, what is refused and why.

    Example: turnscope convert gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82 --out saes/gemma-12

    Example: turnscope convert runs/mine/saes/turn --to saelens --out exported

    Parameters
    ----------
    source
        A dictionary's folder or file.
    out
        Folder to write.
    from_format
        Told from the files when auto.
    to
        What to write.
    k
        Features active per row, where no file says it.
    input_scale
        Factor on raw activations, where a file asks for one without giving it.
    unit_norm
        Give decoder rows norm 1. Codes change, reconstructions do not. Not for top-k.
    site
        Where it reads the model (resid.12), in place of what the files say.
    model
        The model it was trained on, in place of what the files say.
    probe
        Activations of its site: says whether the dictionary explains less than nothing of them, and is transposed.
    json
        Print what was made as JSON.
    """
    from turnscope.sae.formats.config import ConvertConfig
    from turnscope.sae.formats.convert import run

    result = run(
        ConvertConfig(
            source=source, out=out, format=None if from_format == "auto" else from_format, to=to, k=k,
            input_scale=input_scale, unit_norm=unit_norm, site=site, model=model,
        )
    )  # fmt: skip
    if probe is not None and to == "turnscope":
        _probe(result.path, probe)
    if json:
        config = result.config.model_dump(mode="json")
        return print_json(
            {"path": str(result.path), "format": result.format, "config": config, "notes": list(result.notes)}
        )
    return _show(result)


def _probe(sae: Path, activations: Path) -> None:
    from turnscope.harvest.source import StoreSource
    from turnscope.harvest.store import open_activations
    from turnscope.sae import SparseAutoencoder
    from turnscope.training.probe import doubt
    from turnscope.training.sources import take

    dictionary = SparseAutoencoder.load(sae)
    unit = "token" if dictionary.config.unit == "token" else "turn"
    source = StoreSource(open_activations(activations), unit, "explain")
    if source.d_model != dictionary.config.d_model:
        said = f"the dictionary has width {dictionary.config.d_model}, these activations {source.d_model}"
        raise ConfigError(said, where=str(activations), fix="probe with activations of its own model and site")
    said = doubt(dictionary, take(source, 1024)) or "the dictionary explains something of these rows"
    print(visible(f"probe: {said}"), file=sys.stderr)


def _show(result: ConvertResult) -> None:
    config = result.config
    origin = ", ".join(filter(None, (config.subject, config.site))) or "of an unknown model and site"
    print(visible(f"read as {result.format}: {config.architecture}, {config.n_features:,} features of width "
                  f"{config.d_model:,}, reads {config.unit}s; {origin}"))  # fmt: skip
    for file in result.files:
        print(visible(f"  {file}"))
    for note in result.notes:
        print(visible(f"note: {note}"), file=sys.stderr)
