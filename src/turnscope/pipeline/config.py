"""A recipe: everything that decides what a run makes, as one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator

from turnscope.artifacts import Config, ConfigError, StorageError
from turnscope.evaluation.config import Trait
from turnscope.training.config import SizeConfig


class SAERecipe(SizeConfig):
    """One dictionary of a run."""

    unit: Literal["turn", "token"] = "turn"
    clip_norm: float = Field(default=0.01, gt=0)
    """Joint norm that gradients are scaled down to."""


class Recipe(Config):
    """A whole run. `transcripts` may be empty when conversations are handed over by the caller."""

    transcripts: tuple[Path, ...] = ()
    format: str | None = None
    """Chat format; None: told from the file."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many conversations."""
    model: str
    """Hub name, local folder, or `minilm`."""
    site: str | None = None
    """Where to read, as `resid.3`; None: the block at two thirds of the depth (METHODS 1.2: about 70 %)."""
    roles: tuple[str, ...] = ("user", "assistant")
    token_set: Literal["content", "with_header", "all"] = "content"
    too_long: Literal["skip", "window", "truncate-left"] = "skip"
    tokens: Literal["all"] | Annotated[int, Field(ge=1)] = 32
    """Tokens kept of each turn for a token dictionary: all, or so many at random."""
    batch_tokens: int = Field(default=4096, ge=1)
    saes: tuple[SAERecipe, ...] = (SAERecipe(),)
    controls: bool = False
    """Also train the same dictionaries on the embedding layer and on a random-weight model."""
    traits: tuple[Trait, ...] = ()
    """Known traits; empty: every label that enough turns carry, if any do."""
    min_positives: int = Field(default=25, ge=5)
    choose_on: tuple[Literal["train", "explain"], ...] = ("explain",)
    device: str = "cpu"
    trust_remote_code: bool = False
    seed: int = 0

    @field_validator("saes")
    @classmethod
    def _one_of_each_unit(cls, saes: tuple[SAERecipe, ...]) -> tuple[SAERecipe, ...]:
        units = [sae.unit for sae in saes]
        if not units or len(set(units)) != len(units):
            raise ValueError("name each unit (turn, token) once")
        return saes


def read_recipe(path: Path, **changes: Any) -> Recipe:
    """A recipe from a TOML file; `changes` that are not None replace its entries.

    Paths in the file are relative to the file. Raises StorageError for a missing file, ConfigError for a bad one.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError("cannot read the recipe", where=str(path), fix="check the path") from error
    except ValueError as error:
        raise ConfigError(f"the recipe is not valid TOML: {error}", where=str(path)) from error
    named = table.get("transcripts")
    if isinstance(named, str | list):
        files = [named] if isinstance(named, str) else cast("list[object]", named)
        table["transcripts"] = [str(path.parent / file) if isinstance(file, str) else file for file in files]
    model = table.get("model")
    if isinstance(model, str) and model.startswith(("./", "../")):
        table["model"] = str(path.parent / model)
    return Recipe.model_validate({**table, **{k: v for k, v in changes.items() if v is not None}})
