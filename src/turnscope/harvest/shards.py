"""The files of an activation artifact: one safetensors file per shard, and the table of turns beside it.

Reading maps the file into memory and copies only the rows asked for; it imports no torch, and reads bfloat16, which
numpy lacks.

Shapes: N turns, T stored tokens, D model width.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from turnscope.artifacts import IntegrityError

TURNS = "turns.parquet"
STATS = "stats.json"
MAX_HEADER = 1 << 20
MAX_TENSORS = 64

TURN_SCHEMA = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("turn", pa.int32()),
        ("role", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("n_tokens", pa.int32()),
        ("status", pa.string()),
        ("norm", pa.float32()),
    ]
)

_TYPES: dict[str, str] = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
}


def shard_name(index: int) -> str:
    """File name of a shard's tensors."""
    return f"shard-{index:05d}.safetensors"


def piece_name(index: int) -> str:
    """File name of a shard's turns while the harvest is under way; it is written last and marks the shard as
    finished.
    """
    return f"turns-{index:05d}.parquet"


@dataclass(frozen=True)
class Mapped:
    """One tensor of a safetensors file, mapped into memory."""

    data: NDArray[Any]
    bfloat16: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def take(self, rows: NDArray[np.int64] | slice) -> NDArray[Any]:
        """A copy of some rows; floating types come as float32, whole numbers as they are."""
        part = np.asarray(self.data[rows])
        if self.bfloat16:
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32) if part.dtype.kind == "f" else part.copy()


def map_tensors(path: Path) -> dict[str, Mapped]:
    """Map every tensor of a safetensors file.

    Raises IntegrityError when the file is torn, is not safetensors, has an outsized header or a type that we never
    write.
    """
    fix = "run the harvest again into a fresh folder"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, size - 8):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = cast("dict[str, dict[str, Any]]", json.loads(file.read(length)))
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            raise ValueError(f"{len(header)} tensors")
        found: dict[str, Mapped] = {}
        for name, entry in header.items():
            kind, shape = (
                np.dtype(_TYPES[entry["dtype"]]),
                tuple(int(n) for n in entry["shape"]),
            )
            start, end = entry["data_offsets"]
            if end - start != kind.itemsize * int(np.prod(shape)) or 8 + length + end > size:
                raise ValueError(f"tensor {name} does not fit its place")
            if end == start:  # memmap refuses an empty range
                data: NDArray[Any] = np.zeros(shape, kind)
            else:
                data = np.memmap(path, kind, "r", offset=8 + length + start, shape=shape)
            found[name] = Mapped(data, entry["dtype"] == "BF16")
        return found
    except FileNotFoundError as error:
        raise IntegrityError(f"missing shard {path.name}", where=str(path.parent), fix=fix) from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise IntegrityError(f"damaged shard {path.name}: {error}", where=str(path.parent), fix=fix) from error


def read_turns(path: Path) -> pa.Table:
    """A table of turns; raises IntegrityError if it is damaged or lacks a column."""
    try:
        table = pq.read_table(path, schema=TURN_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(
            f"cannot read {path.name}: {reason}",
            where=str(path.parent),
            fix="run the harvest again",
        ) from error
    return table
