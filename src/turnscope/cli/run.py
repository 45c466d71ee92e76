"""`turnscope run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError


def run(
    recipe: Path | None = None,
    /,
    *,
    model: str | None = None,
    transcripts: Annotated[tuple[Path, ...] | None, Parameter(consume_multiple=True)] = None,
    out: Path | None = None,
    site: str | None = None,
    limit: int | None = None,
    chat_format: Annotated[str | None, Parameter(name="--format")] = None,
    features: int | None = None,
    k: int | None = None,
    token_sae: bool = False,
    controls: bool | None = None,
    too_long: Literal["skip", "window", "truncate-left"] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    json: bool = False,
) -> None:
    """Transcripts and a model in, features and a report out. Stopped? Run the same command again.

    Example: turnscope run --model Qwen/Qwen2.5-0.5B-Instruct --transcripts chats.jsonl

    Example: turnscope run --model minilm --transcripts chats.jsonl.zst --too-long window --out runs/minilm

    Example: turnscope run recipe.toml

    Parameters
    ----------
    recipe
        A TOML file with everything below and more; flags change single entries.
    model
        Hub name (ORG/NAME), local folder in Hugging Face format, or minilm.
    transcripts
        Chat files: HF messages as JSONL or Parquet (plain, .gz, .zst), LMSYS-Chat-1M rows, hh-rlhf strings.
    out
        The run folder; runs/MODEL-FILE when not given.
    site
        Where to read: resid.3 is the output of 0-based block 3. Default: the block at two thirds of the depth.
    limit
        At most this many conversations.
    chat_format
        Chat format; told from the file when not given.
    features
        Dictionary size; chosen by the data when not given.
    k
        Mean number of active features of a turn; chosen by the width when not given.
    token_sae
        Also train a dictionary on single tokens, for comparison.
    controls
        Also train the same dictionary on the embedding layer and on a random-weight model.
    too_long
        Conversations longer than the model's context: skip (and count), read in windows, or keep the last tokens.
    device
        As torch names it: cpu, cuda, cuda:1.
    trust_remote_code
        Run code that ships with the model. Off unless asked for.
    json
        Print the report as JSON.
    """
    from turnscope.cli._output import show_run
    from turnscope.pipeline import Recipe, SAERecipe
    from turnscope.pipeline import run as run_recipe
    from turnscope.pipeline.config import read_recipe

    flags = {
        "model": model, "transcripts": transcripts, "site": site, "limit": limit, "format": chat_format,
        "controls": controls, "too_long": too_long, "device": device, "trust_remote_code": trust_remote_code or None,
    }  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if features is not None or k is not None or token_sae:
        units = ("turn", "token") if token_sae else ("turn",)
        given["saes"] = tuple(SAERecipe(unit=unit, n_features=features, k=k) for unit in units)
    if recipe is None and (model is None or not transcripts):
        raise ConfigError(
            "nothing to run", fix="give --model and --transcripts, or a recipe file; see turnscope run --help"
        )
    whole = read_recipe(recipe, **given) if recipe else Recipe.model_validate(given)
    if not whole.transcripts:
        raise ConfigError("no transcripts are named", where=str(recipe or "the command"), fix="give --transcripts FILE")
    name = recipe.stem if recipe else f"{Path(whole.model).name}-{whole.transcripts[0].name.split('.')[0]}"
    show_run(run_recipe(whole, out or Path("runs") / name), as_json=json)
