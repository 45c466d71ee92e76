"""Explanations from a file (JSON lines, CSV or Parquet) into an index. No torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from turnscope.artifacts import DataError, StorageError
from turnscope.features.store import EXPLANATION_SCHEMA

_COLUMNS = tuple(EXPLANATION_SCHEMA.names)
_LONGEST = 10_000  # characters of an explanation
_MOST_FEATURES = 1 << 31


def read_explanations(path: Path, source: str = "") -> pa.Table:
    """The explanations of a file: feature (12 or F12), text, and where it came from.

    Args:
        path: ends in .jsonl, .csv (with a header) or .parquet.
        source: for those that name none; the name of the file when not given.

    A row that is there twice is taken once. Raises StorageError, DataError naming the line.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError("not a file of explanations", where=path, fix="end it in .jsonl, .csv or .parquet")
    found: dict[tuple[int, str, str], None] = {}
    try:
        for place, row in reader(path):
            try:
                found[_checked(row, source or path.stem)] = None
            except (ValueError, TypeError, LookupError) as error:
                fix = "each needs a feature (12 or F12), a text, and may name its source"
                raise DataError(f"{place}: {error}", where=path, fix=fix) from None
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror or error}", where=path) from error
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"cannot be read: {(str(error).splitlines() or [''])[0]}", where=path) from error
    if not found:
        fix = 'write lines such as {"feature": 12, "text": "polite refusal"}'
        raise DataError("no explanation in it", where=path, fix=fix)
    columns = zip(*found, strict=True)
    return pa.table(dict(zip(_COLUMNS, map(list, columns), strict=True)), EXPLANATION_SCHEMA)


def merged(old: pa.Table, new: pa.Table) -> pa.Table:
    """`new`, and those of `old` about whose (feature, source) the new ones say nothing."""
    keys = new.select(["feature", "source"]).group_by(["feature", "source"]).aggregate([])
    keys = keys.append_column("new", pa.array([True] * len(keys)))
    numbered = old.append_column("place", pa.array(range(len(old))))
    both = numbered.join(keys, ["feature", "source"], join_type="left outer").sort_by("place")
    kept = both.filter(pc.call_function("is_null", [both["new"]])).select(_COLUMNS)
    return pa.concat_tables([kept.cast(EXPLANATION_SCHEMA), new]).sort_by([("feature", "ascending")])


def _checked(row: dict[str, Any], source: str) -> tuple[int, str, str]:
    for name in ("feature", "text"):
        if name not in row:
            raise ValueError(f"no {name!r} in it, but {', '.join(map(repr, row)) or 'nothing'}")
    said, text = row["feature"], row["text"]
    digits = said[1:] if isinstance(said, str) and said[:1] in ("F", "f") else said
    if isinstance(digits, bool) or not isinstance(digits, int | str) or not str(digits).strip().isdecimal():
        raise ValueError(f"not a feature: {said!r}")
    feature = int(digits)
    if feature >= _MOST_FEATURES:
        raise ValueError(f"no feature has the number {feature}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an explanation without words")
    if len(text) > _LONGEST:
        raise ValueError(f"an explanation of {len(text):,} characters; {_LONGEST:,} are allowed")
    given = row.get("source")
    if given is not None and not isinstance(given, str):
        raise ValueError("the source is no text")
    return feature, _clean(text.strip()), _clean((given or source).strip())


def _clean(text: str) -> str:
    """Text that a table can hold: a lone surrogate has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"line {number} is no JSON: {error}", where=path) from None
            if not isinstance(value, dict):
                raise DataError(f"line {number} is no object", where=path)
            yield f"line {number}", cast("dict[str, Any]", value)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            yield f"line {reader.line_num}", {name: value for name, value in row.items() if name in _COLUMNS}


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    file, number = pq.ParquetFile(path), 0
    for batch in file.iter_batches(columns=[name for name in _COLUMNS if name in file.schema_arrow.names]):
        for row in batch.to_pylist():
            yield f"row {number}", row
            number += 1
