"""Weights of other libraries: names, shapes and orientation are judged before any data is read.

An adapter says which tensors it expects, each with its axes as letters ("DF"). Letters stand for sizes that the config
states or that the tensors themselves fix, the biases first, so that a transposed matrix contradicts them.

Legend: D width, F features.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from turnscope.artifacts import IntegrityError, StorageError
from turnscope.sae.weights import read_weights, stored_layout

_MAX_MEMBERS = 64
_MAX_SWELLING = 4  # an unpacked archive against the file; weights hardly compress

# What zipfile, its decompressor and numpy raise over damaged bytes; numpy reads a header as Python's own literals.
_NO_ARCHIVE = (
    zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """Tensors a file must and may hold, name -> axes. Names in `ignored` may be there and are not read."""

    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict[str, str])
    ignored: frozenset[str] = frozenset()

    def check(self, found: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int | None], path: Path) -> None:
        """Raise IntegrityError unless the tensors found are these, in shapes that agree with each other."""
        missing = sorted(self.required.keys() - found.keys())
        extra = sorted(found.keys() - self.required.keys() - self.optional.keys() - self.ignored)
        if missing or extra:
            strange = [name[:40] for name in extra[:8]] or "none"
            raise refuse(path, f"tensors missing: {missing or 'none'}; not expected: {strange}")
        known = {letter: size for letter, size in sizes.items() if size is not None}
        axes_of = {**self.optional, **self.required}
        for name in sorted(axes_of.keys() & found.keys(), key=lambda name: (len(axes_of[name]), name)):
            axes, shape = axes_of[name], found[name]
            wanted = tuple(known.get(letter) for letter in axes)
            if len(shape) != len(axes) or any(w not in (None, n) for w, n in zip(wanted, shape, strict=True)):
                raise refuse(path, _mismatch(name, axes, wanted, shape))
            if 0 in shape:
                raise refuse(path, f"tensor {name!r} is empty: its shape is {list(shape)}")
            known.update(zip(axes, shape, strict=True))


def _mismatch(name: str, axes: str, wanted: tuple[int | None, ...], shape: tuple[int, ...]) -> str:
    words = ", ".join(f"{letter}={'any' if size is None else size}" for letter, size in zip(axes, wanted, strict=True))
    said = f"tensor {name!r} has shape {list(shape)!s:.60}, expected ({words}; D width, F features)"
    turned = tuple(reversed(shape))
    if len(shape) == len(axes) == 2 and all(w in (None, n) for w, n in zip(wanted, turned, strict=True)):
        return f"{said}: it is transposed"
    return said


def read_safetensors(path: Path, expected: Expected, sizes: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Tensors of a safetensors file in float32. Raises IntegrityError, StorageError."""
    layout = stored_layout(path)
    expected.check({name: shape for name, (_, shape) in layout.items()}, sizes, path)
    tensors, _ = read_weights(path, layout)
    return {name: as_float32(path, name, tensor) for name, tensor in tensors.items() if name not in expected.ignored}


def read_npz(path: Path, expected: Expected, sizes: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Arrays of an .npz file in float32; names in lower case. Nothing pickled is opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = _members(path, archive)
            shapes = {name: _npy_shape(path, archive, member) for name, member in names.items()}
            expected.check(shapes, sizes, path)
            tensors: dict[str, Tensor] = {}
            for name in sorted(names.keys() - expected.ignored):
                with archive.open(names[name]) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                tensors[name] = as_float32(path, name, torch.from_numpy(np.ascontiguousarray(array)))
            return tensors
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    except _NO_ARCHIVE as error:
        raise refuse(path, "it is no sound .npz archive") from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > _MAX_SWELLING * path.stat().st_size:
        raise refuse(path, f"its {len(members)} members would unpack to far more than the file")
    names = {member.filename.removesuffix(".npy").lower(): member for member in members}
    if len(names) != len(members):
        raise refuse(path, "two arrays have the same name")
    return names


def _npy_shape(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, ...]:
    """Shape from the header alone, held against the member's size; only floats."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        shape, dtype = _npy_header(file, version)
        held = member.file_size - file.tell()
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise refuse(path, f"array {member.filename!r:.42} is of {dtype!s:.30}, expected floats")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != held:
        raise refuse(path, f"array {member.filename!r:.42} claims shape {list(shape)!s:.60}, which is not its size")
    return shape


def _npy_header(file: IO[bytes], version: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def as_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """A contiguous float32 copy. Raises IntegrityError when values are not finite."""
    copy = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(copy).all()):
        raise refuse(path, f"tensor {name!r:.42} holds NaN or infinite values")
    return copy


def refuse(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{path.name} is refused: {reason}",
        where=str(path),
        fix="take the file from its source again, or name its format if it was mistaken for another",
    )
