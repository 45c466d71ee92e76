"""Records out of chat files, one at a time, in bounded memory.

JSON lines (plain, .gz, .zst) and Parquet. Lines end at LF only: chat texts contain U+2028 and its like. A line that is
no JSON object is counted with its number; a compressed file that stops in the middle is refused, since what is left
out of it cannot be counted.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from turnscope.artifacts.errors import DataError, StorageError

CHUNK = 1 << 20  # bytes
# A zstd block of a few bytes can hold 128 KiB, so compressed input is fed in small bites to bound what comes out.
_ZST_BITE = 4096  # bytes
MAX_LINE = 64 << 20  # bytes; a longer line is counted as bad and skipped
MAX_BAD_SHARE = 0.01
_SHOWN = 20
_ROWS = 256
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")

Record = dict[str, Any]


@dataclass(slots=True)
class BadLines:
    """What could not be read of one file. `shown` holds the first few as (line number from 1, reason)."""

    file: str
    read: int = 0
    bad: int = 0
    shown: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    surrogates: int = 0

    def add(self, line: int, reason: str) -> None:
        """Count one bad line."""
        self.bad += 1
        if len(self.shown) < _SHOWN:
            self.shown.append((line, reason))

    def check(self, allow: bool) -> None:
        """`DataError` when more than 1% of the lines are bad, unless told to go on."""
        if self.bad > MAX_BAD_SHARE * self.read and not allow:
            line, reason = self.shown[0]
            raise DataError(
                f"{self.bad} of {self.read} lines are bad; the first is line {line}: {reason}",
                where=self.file,
                fix="mend the file, or allow bad lines (allow_bad_lines) to skip them",
            )


def read_records(path: Path, bad: BadLines) -> Iterator[tuple[int, Record]]:
    """(row from 0, record) of a chat file.

    Args:
        path: a JSON-lines or Parquet file; what it is is read from its first bytes, not its name.
        bad: filled while reading.

    Raises:
        StorageError: there is no such file or it cannot be read.
        DataError: the file is empty, cut short, or no such file format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            if not head:
                raise DataError("the file is empty", where=str(path), fix="name a file with one conversation a line")
            if head == b"PAR1":
                yield from _parquet_rows(file, bad)
            else:
                yield from _json_lines(_chunks(file, head), bad)
    except FileNotFoundError:
        raise StorageError("no such file", where=str(path), fix="check the path of the chat file") from None
    except OSError as error:
        # gzip says a truncated or damaged file in an OSError of its own.
        if isinstance(error, gzip.BadGzipFile):
            raise _cut_short(path, str(error)) from None
        raise StorageError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    except (EOFError, zlib.error, _ZstError) as error:
        raise _cut_short(path, str(error)) from None


class _ZstError(Exception):
    pass


def _cut_short(path: Path, why: str) -> DataError:
    return DataError(f"the compressed file is cut short or damaged ({why})", where=str(path), fix="fetch it again")


def _chunks(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    if head[:2] == b"\x1f\x8b":
        with gzip.open(file) as unpacked:
            while chunk := unpacked.read(CHUNK):
                yield chunk
    elif head == b"\x28\xb5\x2f\xfd":
        yield from _unzstd(file)
    else:
        while chunk := file.read(CHUNK):
            yield chunk


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    import zstandard

    # stream_reader takes a truncated frame for its end without a word; the object below knows whether it saw the end.
    frame = None
    try:
        while data := file.read(_ZST_BITE):
            while data:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 30).decompressobj()
                if out := frame.decompress(data):
                    yield out
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise _ZstError(str(error)) from None
    if frame is not None:
        raise _ZstError("it ends inside a frame")


def _lines(chunks: Iterator[bytes]) -> Generator[bytes | None]:
    """Lines without their LF; None for one over `MAX_LINE` bytes."""
    kept: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            if size + len(line) > MAX_LINE:
                yield None
            else:
                yield b"".join([*kept, line]) if kept else line
            kept, size = [], 0
        size += len(rest)
        # Once too long, only the length is kept: the line is thrown away as it comes.
        kept = [*kept, rest] if size <= MAX_LINE and rest else kept if size <= MAX_LINE else []
    if size > MAX_LINE:
        yield None
    elif kept:
        yield b"".join(kept)


def _json_lines(chunks: Iterator[bytes], bad: BadLines) -> Iterator[tuple[int, Record]]:
    for row, line in enumerate(_lines(chunks)):
        if line is None:
            bad.read += 1
            bad.add(row + 1, f"longer than {MAX_LINE >> 20} MiB")
            continue
        if row == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        bad.read += 1
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            bad.add(row + 1, "not UTF-8")
            continue
        except RecursionError:
            bad.add(row + 1, "nested too deep")
            continue
        except ValueError as error:
            bad.add(row + 1, f"not JSON ({error})")
            continue
        if not isinstance(record, dict):
            kind = "a list; one record per line is needed" if isinstance(record, list) else type(record).__name__
            bad.add(row + 1, f"no JSON object but {kind}")
            continue
        if _SURROGATE_ESCAPE.search(line):
            try:
                record = _without_surrogates(record, bad)
            except RecursionError:
                bad.add(row + 1, "nested too deep")
                continue
        yield row, cast("Record", record)


def _without_surrogates(value: object, bad: BadLines) -> Any:
    if isinstance(value, str):
        value, changed = _SURROGATE.subn("\ufffd", value)
        bad.surrogates += changed
        return value
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {_without_surrogates(key, bad): _without_surrogates(item, bad) for key, item in items}
    if isinstance(value, list):
        return [_without_surrogates(item, bad) for item in cast("list[object]", value)]
    return value


def _parquet_rows(file: BinaryIO, bad: BadLines) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        row = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS):
            for record in batch.to_pylist():
                bad.read += 1
                yield row, record
                row += 1
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"not a readable Parquet file ({reason})", where=bad.file, fix="write it again") from None
    if not row:
        raise DataError("the file has no rows", where=bad.file, fix="name a file with one conversation a row")
