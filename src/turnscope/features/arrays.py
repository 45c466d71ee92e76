"""Long arrays on disk: plain `.npy` files, written piece by piece and read through memory maps."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from turnscope.artifacts import Artifact, IntegrityError, atomic_path

_FIX = "run turnscope index again into an empty folder"


class Column(NamedTuple):
    """A file to be written: its type and how many values it will hold."""

    dtype: DTypeLike
    length: int


class ArrayWriter:
    """Appends to one `.npy` file whose length is known beforehand."""

    def __init__(self, file: BinaryIO, column: Column) -> None:
        self._file, self._dtype, self._left = file, np.dtype(column.dtype), column.length
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (column.length,)}
        np.lib.format.write_array_header_1_0(file, header)

    def append(self, values: NDArray[Any]) -> None:
        """Values in order; they are cast to the file's type."""
        self._left -= len(values)
        self._file.write(np.ascontiguousarray(values, self._dtype).data)

    def finish(self) -> None:
        """Raises ValueError when other than the promised number of values came."""
        if self._left:
            raise ValueError(f"{self._left} values are missing")


@contextmanager
def write_arrays(folder: Path, columns: Mapping[str, Column]) -> Generator[dict[str, ArrayWriter], None, None]:
    """Writers for several files `NAME.npy` that appear together at the end of the block. Raises StorageError."""
    with ExitStack() as stack:
        writers = dict[str, ArrayWriter]()
        for name, column in columns.items():
            temp = stack.enter_context(atomic_path(folder / f"{name}.npy"))
            writers[name] = ArrayWriter(stack.enter_context(temp.open("wb")), column)
        yield writers
        for writer in writers.values():
            writer.finish()


def open_array(artifact: Artifact, name: str) -> NDArray[Any]:
    """A file of a finished artifact, mapped. IntegrityError when it is missing, cut or no array of one dimension."""
    path, record = artifact.path / name, artifact.manifest.files.get(name)
    try:
        if record is None or path.stat().st_size != record.size:
            raise ValueError("it is not of the size that the manifest names")
        return map_array(path)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{name} is missing or cut: {error}", where=str(artifact.path), fix=_FIX) from error


def map_array(path: Path) -> NDArray[Any]:
    """A `.npy` file of one dimension, mapped. Raises OSError, ValueError."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    if len(shape) != 1 or fortran or dtype.hasobject or path.stat().st_size != start + shape[0] * dtype.itemsize:
        raise ValueError("not a whole array of one dimension")
    if not shape[0]:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r", offset=start, shape=shape)


def gather(
    arrays: Mapping[str, NDArray[Any]], direction: str, column: str, which: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Several runs of postings, run after run, as (ptr, places, values)."""
    ptr = arrays[f"{direction}.ptr"]
    firsts, sizes = np.asarray(ptr[which], np.int64), np.asarray(ptr[which + 1] - ptr[which], np.int64)
    out = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    at_E = np.arange(out[-1]) + np.repeat(firsts - out[:-1], sizes)
    places, values = arrays[f"{direction}.{column}"][at_E], arrays[f"{direction}.values"][at_E]
    return out, np.array(places, np.int64), np.array(values, np.float32)
