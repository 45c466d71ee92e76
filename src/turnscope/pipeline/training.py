"""A training recipe: settings of one or several dictionaries as a TOML file, and `--set NAME=VALUE` on top.

source = "activations/resid.15"     # or [harvest]: model, transcripts, ... and rows are harvested while training
out = "saes/turn"
k = 64

[[saes]]                            # several over one pass: each changes what is above, in the folder out/NAME
name = "wide"
n_features = 4096
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from turnscope.artifacts import ConfigError, StorageError
from turnscope.harvest.config import HarvestConfig
from turnscope.training.config import TrainConfig

_NAMES = tuple(TrainConfig.model_fields)


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """Dictionaries, and the harvest that feeds them where no store does; `sites` are then theirs, one each."""

    configs: tuple[TrainConfig, ...]
    harvest: HarvestConfig | None = None
    sites: tuple[str, ...] = ()
    buffer_rows: int = 1 << 16


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as fields of a `TrainConfig`; values are written as in TOML, and bare words are strings.

    Raises ConfigError, in one line with the nearest names, for a name that is none.

    >>> settings(["k=64", "schedule=cosine", "prefixes=[0.25, 0.5]"])
    {'k': 64, 'schedule': 'cosine', 'prefixes': [0.25, 0.5]}
    """
    found = dict[str, Any]()
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ConfigError(f"--set {pair}: NAME=VALUE is wanted, as --set k=64")
        check_name(name, f"--set {pair}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


def check_name(name: str, where: str) -> None:
    """Raise ConfigError, with the nearest names, unless `TrainConfig` has such a field."""
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=3, cutoff=0.5) or _NAMES
        raise ConfigError(f"{where}: there is no setting {name!r}; near it: {', '.join(near)}")


def read_train_recipe(path: Path, changes: Mapping[str, Any]) -> TrainRecipe:
    """The recipe of a TOML file; `changes` replace its entries. Paths in the file are relative to the file.

    Raises StorageError for a missing file, ConfigError for a bad one, naming the entry.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StorageError("cannot read the recipe", where=str(path), fix="check the path") from error
    except ValueError as error:
        raise ConfigError(f"the recipe is not valid TOML: {error}", where=str(path)) from error
    live, each = table.pop("harvest", None), table.pop("saes", None) or [{}]
    tables = isinstance(each, list) and all(isinstance(entry, dict) for entry in cast("list[Any]", each))
    if not isinstance(live, dict | None) or not tables:
        raise ConfigError("harvest is a table and saes a list of tables", where=str(path))
    buffer_rows, site = table.pop("buffer_rows", 1 << 16), table.pop("site", None)
    for name in table:
        check_name(name, str(path))
    common = _relative(table, path.parent, ("source", "out")) | dict(changes)
    configs, sites = list[TrainConfig](), list[str]()
    for number, entry in enumerate(cast("list[dict[str, Any]]", each)):
        own = _relative(entry, path.parent, ("source", "out"))
        name, own_site = own.pop("name", None), own.pop("site", site)
        for field in own:
            check_name(field, f"{path}, saes {number}")
        merged = common | own | dict(changes)
        if isinstance(merged.get("out"), str | Path) and (name or len(each) > 1):
            folder = str(name or number)
            if folder in (".", "..") or "/" in folder or "\\" in folder:
                raise ConfigError(f"saes {number}: the name {folder!r} is not that of a folder", where=str(path))
            merged["out"] = Path(merged["out"]) / folder
        configs.append(TrainConfig.model_validate(merged))
        sites.append(own_site or "")
    if live is None:
        return TrainRecipe(tuple(configs))
    return _live(cast("dict[str, Any]", live), path, configs, sites, buffer_rows)


def _live(
    live: dict[str, Any], path: Path, configs: Sequence[TrainConfig], sites: Sequence[str], buffer_rows: int
) -> TrainRecipe:
    from turnscope.pipeline.pipeline import default_site

    if any(config.source for config in configs):
        raise ConfigError("source and harvest: rows come from a store or from a model, not from both", where=str(path))
    table = _relative(live, path.parent, ("transcripts",))
    if str(table.get("model", "")).startswith(("./", "../")):
        table["model"] = str(path.parent / table["model"])
    resolved = [site or default_site(str(table.get("model", ""))) for site in sites]
    wanted = {"sites": tuple(dict.fromkeys(resolved)), "out": configs[0].out, **table}
    return TrainRecipe(tuple(configs), HarvestConfig.model_validate(wanted), tuple(resolved), buffer_rows)


def _relative(table: Mapping[str, Any], folder: Path, names: Sequence[str]) -> dict[str, Any]:
    return {
        name: folder / value if name in names and isinstance(value, str) else value for name, value in table.items()
    }
