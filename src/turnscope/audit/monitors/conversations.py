"""Conversations out of files, folders and standard input, one at a time, in whatever format the readers know."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from turnscope.artifacts import ConfigError, DataError
from turnscope.transcripts.conversation import Conversation, RecordError
from turnscope.transcripts.readers.files import BadLines, LineError, parse_line, read_records
from turnscope.transcripts.readers.registry import Row, reader_for

STDIN = Path("-")
_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".eval", ".txt")
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_MOST_BYTES = 64 << 20


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files as named, and of a folder those below it whose endings are known, in order of name.

    Raises ConfigError for no file, and for standard input beside files.
    """
    found = list[Path]()
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_known(file.name.lower()))
            if not inside:
                raise ConfigError(
                    "no chat file in this folder", where=path, fix=f"known endings: {', '.join(_ENDINGS)}"
                )
            found += inside
        else:
            found.append(path)
    if not found:
        raise ConfigError("no conversations named", fix="name files, or - for standard input")
    if STDIN in found and len(found) > 1:
        raise ConfigError("standard input goes by itself", fix="name files, or - alone")
    return found


def _is_known(name: str) -> bool:
    plain = next((name.removesuffix(ending) for ending in _PACKED if name.endswith(ending)), name)
    return not name.startswith(".") and plain.endswith(_ENDINGS)


def conversations(
    files: Iterable[Path], counts: Counter[str], *, chat_format: str | None = None, allow_bad_lines: bool = False,
    stdin: BinaryIO | None = None,
) -> Iterator[Conversation]:  # fmt: skip
    """The conversations of all files, each with an id: its own, or its source and row.

    What cannot be read is counted by reason. Of standard input, JSON lines are read as they come.

    Raises:
        StorageError: no such file.
        DataError: an empty, damaged or unknown file; more than 1 % bad lines in a file, unless these are allowed.
    """
    for file in files:
        if file == STDIN:
            bad = BadLines("standard input", allow=True)  # a stream has no end at which to find out
            source, rows = "stdin", _lines(stdin or sys.stdin.buffer, bad)
        else:
            bad = BadLines(str(file), allow=allow_bad_lines)
            source, rows = file.name, read_records(file, bad)
        yield from _read(rows, source, bad.file, chat_format, counts)
        counts["bad_lines"] += bad.bad
        bad.check()


def _read(
    rows: Iterator[Row], source: str, where: str, chat_format: str | None, counts: Counter[str]
) -> Iterator[Conversation]:
    first = next(rows, None)
    if first is None:
        if where == "standard input":
            return
        raise DataError("no conversation in this file", where=where)
    reader = reader_for(first[1], chat_format, where)
    for row, made in reader.read_all(chain([first], rows)):
        if isinstance(made, RecordError):
            counts[f"dropped_{made.reason}"] += 1
        elif not made.turns or all(turn.is_blank for turn in made.turns):
            counts["dropped_no_words"] += 1
        else:
            yield replace(made, id=made.id or f"{source}/{row}", source=made.source or source)


def _lines(stream: BinaryIO, bad: BadLines) -> Iterator[Row]:
    for row, line in enumerate(iter(lambda: stream.readline(_MOST_BYTES), b"")):
        if line.isspace():
            continue
        bad.read += 1
        try:
            record, _ = parse_line(line)
        except LineError as error:
            bad.add(row + 1, str(error))
            continue
        yield row, record
