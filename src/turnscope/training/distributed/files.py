"""Sharded tensors to the same files that one process writes, and back: no process ever holds a whole parameter.

Blocks of rows are put together by DTensor, and the first process writes each to its place. The bytes are those of
`sae.weights.write_weights`, so a run may go on with another number of processes, or with one.

Legend: D width, F features, S shards of the features.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from turnscope.artifacts import IntegrityError, StorageError, atomic_path
from turnscope.sae.weights import Layout, stored_layout
from turnscope.training.distributed.mesh import Mesh

BLOCK_BYTES = 1 << 26
_BYTES = {"F32": 4, "I64": 8}


def sharded_dim(name: str) -> int | None:
    """Which dimension of a tensor runs over features, by the shape suffix of its name: `w_enc_DF` 1, `b_dec_D` None."""
    place = name.split(".")[0].rsplit("_", 1)[-1].find("F")
    return None if place < 0 else place


def write_shards(
    path: Path, tensors: Mapping[str, Tensor], layout: Layout, mesh: Mesh, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of which every process has its features, atomically. All processes call it; the first one writes.

    `layout` is that of the whole file. StorageError, on every process, when the file cannot be written.
    """
    blocks = _blocks(tensors, layout, mesh)

    def write() -> None:
        header, begins = _header(layout, metadata)
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                file.write(header)
                for name, offset, block in blocks:
                    file.seek(len(header) + begins[name] + offset)
                    file.write(block.detach().cpu().contiguous().numpy().data)
        finally:
            deque(blocks, maxlen=0)  # the others still send when writing has failed

    if not mesh.is_first and mesh.batch.rank == 0:
        deque(blocks, maxlen=0)
    mesh.first(write)


def read_shards(path: Path, layout: Layout, mesh: Mesh) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The caller's features of a file that holds exactly `layout`, and the file's metadata.

    Raises IntegrityError for a damaged file, StorageError when it cannot be read.
    """
    found = stored_layout(path)
    if found != layout:
        names = sorted(name for name in {*found, *layout} if found.get(name) != layout.get(name))
        raise _refuse(path, f"these tensors are missing, or of another shape or type: {', '.join(names)[:200]}")
    tensors = dict[str, Tensor]()
    try:
        with safe_open(path, framework="pt") as file:
            for name, (_, shape) in layout.items():
                dim = sharded_dim(name)
                share = slice(None) if dim is None else mesh.share(shape[dim])
                part = file.get_slice(name)
                whole = (slice(None),) * (dim or 0)
                tensors[name] = (part[*whole, share] if shape else file.get_tensor(name)).clone().to(mesh.device)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise _refuse(path, str(error)) from error
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _refuse(path, f"tensor {name!r} holds NaN or infinite values")
    return tensors, metadata


def there(path: Path, mesh: Mesh) -> bool:
    """Whether a file exists, on all processes alike. StorageError when only some of them see it."""
    (seen,) = mesh.everyone.sums(float(path.exists()))
    if 0 < seen < mesh.everyone.size:
        raise StorageError(
            f"{path.name} is seen by {seen:.0f} of {mesh.everyone.size} processes",
            where=str(path),
            fix="write to a folder that all nodes share",
        )
    return seen > 0


def _header(layout: Layout, metadata: Mapping[str, str] | None) -> tuple[bytes, dict[str, int]]:
    """Head of a safetensors file, and where each tensor begins after it: larger types first, then by name."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begins, position = dict[str, int](), 0
    for name in sorted(layout, key=lambda name: (-_BYTES[layout[name][0]], name)):
        dtype, shape = layout[name]
        end = position + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        begins[name], position = position, end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, begins


def _blocks(
    tensors: Mapping[str, Tensor], layout: Layout, mesh: Mesh
) -> Generator[tuple[str, int, Tensor], None, None]:
    """(name, offset in bytes, content) of whole tensors, piece by piece; every process of a mesh's row takes part."""
    for name, (dtype, shape) in layout.items():
        local, dim = tensors[name], sharded_dim(name)
        row_bytes = _BYTES[dtype] * math.prod(shape[1:])
        if dim is None:
            yield name, 0, local
        elif dim == 0:
            for row, block in _row_blocks(local, shape[0], row_bytes, mesh):
                yield name, row * row_bytes, block
        else:
            size = max(1, BLOCK_BYTES // row_bytes)
            for start in range(0, shape[0], size):
                # Features first, so that they are put together as everywhere, then back.
                block_FD = mesh.whole(local[start : start + size].t().contiguous(), shape[1])
                yield name, start * row_bytes, block_FD.t()


def _row_blocks(
    local: Tensor, n_features: int, row_bytes: int, mesh: Mesh
) -> Generator[tuple[int, Tensor], None, None]:
    """(first feature, rows) of all shards, some of each at a time."""
    most = -(-n_features // mesh.features.size)
    size = max(1, BLOCK_BYTES // max(1, row_bytes * mesh.features.size))
    for start in range(0, most, size):
        mine = local[start : start + size]
        padded = local.new_zeros(min(size, most - start), *local.shape[1:])
        padded[: len(mine)] = mine
        for shard, block in enumerate(mesh.features.gather(padded)):
            first = shard * most + start
            rows = min(len(block), min(n_features, (shard + 1) * most) - first)
            if rows > 0:
                yield first, block[:rows]


def _refuse(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{path.name} is refused: {reason}", where=str(path), fix="delete the half-done folder and train again"
    )
