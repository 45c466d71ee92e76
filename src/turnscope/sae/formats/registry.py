"""Which format a path is in, told from the files that are there; and the way from and to each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from turnscope.artifacts import ConfigError, StorageError
from turnscope.sae.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from turnscope.sae.formats._source import Foreign, Hints
from turnscope.sae.sparse_autoencoder import CONFIG_NAME, WEIGHTS_NAME, SparseAutoencoder


def _read_native(folder: Path, hints: Hints) -> Foreign:
    return Foreign(SparseAutoencoder.load(folder), (folder / CONFIG_NAME, folder / WEIGHTS_NAME))


FORMATS: dict[str, Callable[[Path, Hints], Foreign]] = {
    "turnscope": _read_native,
    "saelens": saelens.read,
    "sparsify": sparsify.read,
    "gemma-scope": gemma_scope.read,
    "gemma-scope-2": gemma_scope_2.read,
    "llama-scope": llama_scope.read,
    "dictionary-learning": dictionary_learning.read,
    "qwen-scope": qwen_scope.read,
}
EXPORTS: dict[str, Callable[[SparseAutoencoder, Path], tuple[Path, ...]]] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
}
# Files that together tell a format; the first that are all there.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("turnscope", (CONFIG_NAME, WEIGHTS_NAME)),
    ("saelens", (saelens.CONFIG, saelens.WEIGHTS)),
    ("sparsify", (sparsify.CONFIG, sparsify.WEIGHTS)),
    ("gemma-scope", (gemma_scope.WEIGHTS,)),
    ("gemma-scope-2", (gemma_scope_2.WEIGHTS,)),
    *(("llama-scope", layout) for layout in llama_scope.LAYOUTS),
    ("dictionary-learning", (dictionary_learning.WEIGHTS,)),
)
_BY_FILE = {
    WEIGHTS_NAME: "sparsify", saelens.WEIGHTS: "saelens", gemma_scope.WEIGHTS: "gemma-scope",
    gemma_scope_2.WEIGHTS: "gemma-scope-2", dictionary_learning.WEIGHTS: "dictionary-learning",
}  # fmt: skip
_OF_ONE_FILE = ("gemma-scope", "dictionary-learning", "qwen-scope")
_SHOWN = 5


def detect(path: Path) -> str:
    """The format of a file or folder. StorageError when nothing is there, ConfigError when it cannot be told."""
    if not path.exists():
        raise StorageError("there is nothing here", where=str(path), fix="name a dictionary's folder or file")
    if path.is_file():
        if qwen_scope.NAME.fullmatch(path.name):
            return "qwen-scope"
        if path.name in _BY_FILE or path.name == CONFIG_NAME:
            return detect(path.parent)
        raise _unknown(path)
    if name := _signed(path):
        return name
    raise _unknown(path)


def read(path: Path, name: str | None = None, hints: Hints = Hints()) -> tuple[str, Foreign]:  # noqa: B008
    """(format, dictionary) of a path; the format told from the files unless it is named."""
    if name is not None and name not in FORMATS:
        raise ConfigError(f"no such format: {name!r:.40}", fix=f"the formats are: {', '.join(FORMATS)}")
    name = name or detect(path)
    if not path.exists():
        raise StorageError("there is nothing here", where=str(path), fix="name a dictionary's folder or file")
    if path.is_file() and name not in _OF_ONE_FILE:
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    foreign = FORMATS[name](path, hints)
    _agree(foreign.sae, hints, path)
    return name, foreign


def _agree(sae: SparseAutoencoder, hints: Hints, path: Path) -> None:
    """Raise ConfigError when the files say otherwise than the caller."""
    if hints.k is not None and hints.k != sae.config.k:
        raise ConfigError(f"k is {sae.config.k} by the files, not {hints.k}", where=str(path), fix="leave --k out")
    scale = float(sae.scale)
    if hints.input_scale is not None and not math.isclose(hints.input_scale, scale, rel_tol=1e-4):
        raise ConfigError(
            f"the input scale is {scale:.6g} by the files, not {hints.input_scale:.6g}",
            where=str(path),
            fix="leave --input-scale out",
        )


def export(sae: SparseAutoencoder, name: str, folder: Path) -> tuple[Path, ...]:
    """Write a dictionary in another library's format; the files written."""
    if name not in EXPORTS:
        raise ConfigError(f"no export to {name!r:.40}", fix=f"exports are: {', '.join(EXPORTS)}")
    return EXPORTS[name](sae, folder)


def _signed(folder: Path) -> str | None:
    return next((name for name, files in _SIGNS if all((folder / file).is_file() for file in files)), None)


def _unknown(path: Path) -> ConfigError:
    if path.is_dir():
        inside = [entry for entry in sorted(path.iterdir()) if qwen_scope.NAME.fullmatch(entry.name) or _signed(entry)]
        if inside:
            names = ", ".join(entry.name for entry in inside[:_SHOWN]) + (", ..." if len(inside) > _SHOWN else "")
            what = f"this folder holds {len(inside)} {'dictionary' if len(inside) == 1 else 'dictionaries'} ({names})"
            return ConfigError(what, where=str(path), fix="name one of them")
    return ConfigError(
        "no dictionary of a known format is here",
        where=str(path),
        fix=f"name its folder, or its format with --format ({', '.join(FORMATS)})",
    )
