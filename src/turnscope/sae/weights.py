"""Safetensors files that are checked before they are read.

The header of a safetensors file is attacker-sized: 8 bytes of length, then JSON that names any number of tensors at any
offsets. `read_weights` therefore looks at the header alone first and refuses, without allocating for it, anything but
exactly the tensors it was told to expect: dtype, shape, byte ranges that tile the file with no hole and no overlap.
Only then are the tensors read, and each is checked for NaN and infinity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from turnscope.artifacts import IntegrityError, StorageError, atomic_path

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 64
_BYTES = {"F32": 4, "F64": 8, "I64": 8, "I32": 4, "F16": 2, "BF16": 2}
_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32"}


class Layout(dict[str, tuple[str, tuple[int, ...]]]):
    """Tensor name -> (safetensors dtype, shape): what a file must hold."""

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Layout:
        return Layout({name: (_NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()})


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (and string metadata) atomically. The same tensors give the same bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(contiguous, dict(metadata) if metadata else None)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def stored_layout(path: Path) -> Layout:
    """What a file of unknown content says that it holds, from its header alone: names and shapes can be judged first.

    The data is not looked at; `read_weights` with this layout does that. Raises as `read_weights` does.
    """
    entries, _, _ = _read_header(path)
    layout = Layout()
    for name, entry in entries.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape)} if dtype in _BYTES and all(_is_size(n) for n in shape):
                layout[name] = (dtype, tuple(shape))
            case _:
                raise _refuse(path, f"tensor {name!r:.42} has no shape, or a dtype that is not for weights")
    return layout


def read_weights(path: Path, layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that holds exactly `layout`.

    Raises IntegrityError naming the file and the tensor, StorageError when the file cannot be read.
    """
    entries, metadata, data_bytes = _read_header(path)
    _check_entries(path, entries, data_bytes, layout)
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    except SafetensorError as error:  # it is stricter than JSON: metadata that is not text, other encodings, NaN
        raise _refuse(path, "its header is not one of safetensors") from error
    for name in sorted(tensors):
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise _refuse(path, f"tensor {name!r} holds NaN or infinite values")
    return tensors, metadata


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """(tensor entries, metadata, bytes of data) of a file, none of them checked against each other."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little") if size >= 8 else -1
            if not 0 < header_bytes <= min(MAX_HEADER_BYTES, size - 8):
                raise _refuse(path, f"its header claims {header_bytes} bytes (the file has {size}, the limit is 1 MB)")
            header = file.read(header_bytes)
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    try:
        entries: Any = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _refuse(path, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _refuse(path, "its header is not a table of tensors")
    metadata: Any = entries.pop("__metadata__", {})
    if len(entries) > MAX_TENSORS:
        raise _refuse(path, f"it names {len(entries)} tensors (the limit is {MAX_TENSORS})")
    return entries, metadata if isinstance(metadata, dict) else {}, size - 8 - header_bytes


def _check_entries(path: Path, entries: dict[str, Any], data_bytes: int, layout: Layout) -> None:
    missing, extra = sorted(layout.keys() - entries.keys()), sorted(entries.keys() - layout.keys())
    if missing or extra:
        strange = [name[:40] for name in extra] or "none"
        raise _refuse(path, f"tensors missing: {missing or 'none'}; not expected: {strange}")
    ranges: list[tuple[int, int]] = []
    for name, (dtype, shape) in layout.items():
        entry = entries[name]
        if not isinstance(entry, dict) or entry.get("dtype") != dtype:
            found = entry.get("dtype") if isinstance(entry, dict) else entry
            raise _refuse(path, f"tensor {name!r} has dtype {found!s:.20}, expected {dtype}")
        if entry.get("shape") != list(shape):
            raise _refuse(path, f"tensor {name!r} has shape {entry.get('shape')!s:.60}, expected {list(shape)}")
        match entry.get("data_offsets"):
            case [int(start), int(end)] if end - start == math.prod(shape) * _BYTES[dtype]:
                ranges.append((start, end))
            case offsets:
                raise _refuse(path, f"tensor {name!r} has data offsets {offsets!s:.60}, which do not fit its shape")
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            raise _refuse(path, f"its data has {'an overlap' if start < position else 'a hole'} at byte {position}")
        position = end
    if position != data_bytes:
        raise _refuse(path, f"its tensors take {position} bytes, but the file holds {data_bytes}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _refuse(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{path.name} is refused: {reason}",
        where=str(path),
        fix="take the file from its source again, or make it again",
    )
