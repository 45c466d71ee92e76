"""The one place where a pickle is opened: weights of libraries that save nothing else, when `turnscope convert` asks.

Three walls. The archive is looked at first: the plain layout that torch writes, nothing compressed, no more bytes than
the file has. Then torch's restricted unpickler (`weights_only`, sound from torch 2.6 on: CVE-2025-32434) reads it onto
the meta device, where tensors take no memory, and names and shapes are judged. Only then is it read in earnest.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from turnscope.artifacts import IntegrityError, StorageError
from turnscope.sae.formats._tensors import Expected, as_float32, refuse

_MAX_RECORDS = 1024
_MAX_PICKLE_BYTES = 1 << 20


def pickled_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a file saved by torch, without reading its data. Raises IntegrityError, StorageError."""
    _check_archive(path)
    tensors = _load(path, "meta")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
        raise refuse(path, "its tensors claim more bytes than the file has")
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def read_pickle(path: Path, expected: Expected, sizes: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Tensors of a file saved by torch, in float32."""
    expected.check(pickled_shapes(path), sizes, path)
    tensors = _load(path, "cpu")
    return {name: as_float32(path, name, tensor) for name, tensor in tensors.items() if name not in expected.ignored}


def _check_archive(path: Path) -> None:
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise refuse(path, "it is no archive of torch 1.6 or later") from error
    pickles = [record for record in records if record.filename.endswith(".pkl")]
    if len(records) > _MAX_RECORDS or len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise refuse(path, f"it has {len(records)} records, {len(pickles)} of them pickled, or too large a pickle")
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or sum(record.file_size for record in records) > size:
        raise refuse(path, "its records are compressed or overlap, which torch never writes")


def _load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        stored: Any = torch.load(path, map_location=device, weights_only=True)  # noqa: TID251  (see the module's head)
    except Exception as error:  # whatever the unpickler refuses, it refuses in its own way
        said = type(error).__name__
        raise IntegrityError(
            f"{path.name} is refused: it holds more than plain tensors, or is damaged ({said})",
            where=str(path),
            fix="take the weights from a source that you trust; nothing in this file was run",
        ) from error
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in cast("dict[Any, Any]", stored).items()
    ):
        raise refuse(path, "it is not a table of tensors")
    tensors = cast("dict[str, Tensor]", stored)
    if odd := [name for name, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_complex()]:
        raise refuse(path, f"tensor {odd[0]!r:.42} is sparse or complex")
    return tensors
