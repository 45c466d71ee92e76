"""`turnscope query` finds turns by features; `turnscope search` finds features by what they are said to mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from turnscope.features.query.result import QueryResult

Form = Literal["table", "jsonl", "parquet"]
_SHOWN = 20
_WORDS = 400  # characters of a turn that a table shows
_ENDINGS: dict[str, Form] = {".jsonl": "jsonl", ".parquet": "parquet"}


def query(
    index: Path, question: Annotated[str, Parameter(allow_leading_hyphen=True)], /, *,
    transcripts: Path | None = None, limit: int | None = None, offset: int = 0, by: str | None = None,
    count: bool = False, context: int = 0, text: bool = True,
    output_format: Annotated[Form | None, Parameter(name="--format")] = None, out: Path | None = None,
) -> None:  # fmt: skip
    """Find turns by features, fields and labels, and by what stands next to them (docs/query.md).

    Put the query in single quotes: shells have plans of their own for ! & < >.

    Example: turnscope query runs/mine/features/turn 'F12 > 0.4 & !F77 & role = assistant & next(F9)'

    Example: turnscope query runs/mine/features/turn '"polite refusal" > p90 & topic = "law"' --context 1

    Example: turnscope query runs/mine/features/turn 'within(3, F5) & any(F9)' --out found.parquet

    Parameters
    ----------
    index
        A feature index (turnscope index).
    question
        What is asked: F12 or "words of an explanation", > 0.4, p90 or 0.5max; role, split, turn, tokens, conversation,
        labels; ! & | and brackets; next(Q), prev(Q), within(3, Q); any(Q), all(Q), count(Q) > 2.
    transcripts
        Those that the index was made from, where they do not lie in the same run folder.
    limit
        At most this many turns; in a table 20 when not given, else all.
    offset
        Leave out so many at the beginning.
    by
        Order by this feature (F12), the strongest first, instead of by place.
    count
        Print only how many there are.
    context
        Show so many turns before and after each, too.
    text
        Show the words.
    output_format
        table, jsonl or parquet; told by the ending of --out when not given.
    out
        A file to write instead of printing.
    """
    from turnscope.features.query.result import Querier
    from turnscope.features.store import open_index

    form = output_format or (_ENDINGS.get(out.suffix.lower(), "table") if out else "table")
    if form == "table" and out:
        raise ConfigError("a table is printed, not written", where=out, fix="end --out in .jsonl or .parquet")
    if form == "parquet" and not out and not count:
        raise ConfigError("Parquet is written, not printed", fix="name a file with --out")
    if count and out:
        raise ConfigError("--count prints a number and writes no turns", where=out, fix="leave out --count or --out")
    opened = open_index(index, transcripts)
    result = Querier(opened).find(question)
    for notice in result.notices:
        print(f"note: {visible(notice)}", file=sys.stderr)
    if count:
        return _print_count(result, as_json=form == "jsonl")
    if text and opened.transcripts is None:
        print("note: no transcripts beside the index, so no words; name them with --transcripts", file=sys.stderr)
    limit = _SHOWN if limit is None and form == "table" else limit
    words = text and opened.transcripts is not None
    tables = result.batches(limit, offset=offset, by=by, context=context, texts=words)
    if out:
        _write(tables, out, form)
    elif form == "jsonl":
        _unbroken(lambda: _print_lines(tables))
    else:
        _unbroken(lambda: _print_table(tables))
    _tell(result, limit, offset, out)
    return None


def search(
    index: Path, words: str, /, *, by: Literal["words", "meaning"] = "words", limit: int = _SHOWN,
    output_format: Annotated[Literal["table", "jsonl"], Parameter(name="--format")] = "table",
) -> None:  # fmt: skip
    """Find features by the words of their explanations, or by their meaning.

    Words are cut to their stems, the last one may be the beginning of a word; without a feature that has them all,
    those that have some are shown. By meaning, the explanations nearest to the words are shown, with their cosine.

    Example: turnscope search runs/mine/features/turn 'polite refusal'

    Example: turnscope search runs/mine/features/turn 'says that it will not help' --by meaning

    Parameters
    ----------
    index
        A feature index (turnscope index).
    words
        What to look for.
    by
        words, or meaning: by sentence embeddings (extra minilm), made once and kept beside the explanations.
    limit
        At most this many features.
    output_format
        table or jsonl.
    """
    from turnscope.features.query.explanations import searching, without_twins
    from turnscope.features.store import EXPLANATIONS, open_index

    opened = open_index(index)
    explanations = opened.explanations()
    if not len(explanations):
        raise ConfigError(
            "no feature of this index has an explanation", where=index, fix="give it some: turnscope label"
        )
    if by == "meaning":
        from turnscope.features.meaning import MeaningSearch
        from turnscope.models.sentences import MODEL, MiniLM

        found = MeaningSearch(explanations, opened.artifact.path, MiniLM(), MODEL).find(words, limit)
    else:
        with searching(explanations, opened.artifact.path / EXPLANATIONS) as held:
            found = held.find(words, limit)
    best = list(without_twins(found).values())
    known = opened.features.select(["feature", "n_turns", "density", "max"]).to_pylist()
    facts = {row["feature"]: row for row in known}
    rows = [{**facts.get(each.feature, {"feature": each.feature}), "explanation": each.text, "source": each.source,
             "score": each.score} for each in best]  # fmt: skip
    if output_format == "jsonl":
        return _unbroken(lambda: _lines(rows, sys.stdout))
    return _unbroken(lambda: _print_features(rows, f"{len(rows):,} of {len(facts):,} features", opened.n_turns))


def print_rows(rows: list[dict[str, Any]], title: str, *, as_jsonl: bool) -> None:
    """Features with what is known of each, as a table or as JSON lines; the title goes to standard error."""
    if as_jsonl:
        return _unbroken(lambda: _lines(rows, sys.stdout))

    def table() -> None:
        from rich.text import Text

        shown = _new_table([name.replace("_", " ") for name in rows[0]])
        for row in rows:
            shown.add_row(
                *(Text(f"F{value}" if name == "feature" else _cell(name, value)) for name, value in row.items())
            )
        _screen().print(shown)

    if rows:
        _unbroken(table)
    print(title, file=sys.stderr)
    return None


def _print_count(result: QueryResult, *, as_json: bool) -> None:
    if not as_json:
        print(_summary(result))
        return
    facts = {
        "query": result.query, "turns": len(result), "of_turns": result.n_turns,
        "conversations": result.n_conversations, "of_conversations": result.of_conversations,
    }  # fmt: skip
    _lines([facts], sys.stdout)


def _summary(result: QueryResult) -> str:
    share = len(result) / max(1, result.n_turns)
    return (
        f"{len(result):,} of {result.n_turns:,} turns ({share:.2%}), "
        f"in {result.n_conversations:,} of {result.of_conversations:,} conversations"
    )


def _tell(result: QueryResult, limit: int | None, offset: int, out: Path | None) -> None:
    left = max(0, len(result) - offset)
    shown = left if limit is None else min(limit, left)
    part = "" if shown == len(result) else f"; shown {shown:,} (--limit, --offset)"
    print(_summary(result) + part + (f": {out}" if out else ""), file=sys.stderr)


def _unbroken(show: Callable[[], None]) -> None:
    """Print, and take no offence when whoever reads has seen enough."""
    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(tables: Iterator[pa.Table], out: Path, form: Form) -> None:
    from turnscope.artifacts.atomic import atomic_path

    with atomic_path(out) as temp:
        if form == "jsonl":
            with temp.open("w", encoding="ascii") as file:
                for table in tables:
                    _lines(table.to_pylist(), file)
            return
        import pyarrow.parquet as pq

        first = next(tables)
        with pq.ParquetWriter(temp, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _print_lines(tables: Iterator[pa.Table]) -> None:
    for table in tables:
        _lines(table.to_pylist(), sys.stdout)


def _lines(rows: list[dict[str, Any]], file: Any) -> None:
    """Strict JSON, ASCII only, so that no text reaches a terminal as a control sequence."""
    import json
    import math

    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[name] = None
        print(json.dumps(row, allow_nan=False), file=file)


def _print_table(tables: Iterator[pa.Table]) -> None:
    from rich.text import Text

    screen, table, last = _screen(), None, None
    for each in tables:
        names = [name for name in each.column_names if name != "hit"]
        if table is None:
            table = _new_table(["tokens" if name == "n_tokens" else visible(name) for name in names])
        for row in each.to_pylist():
            if last is not None and row.get("hit") != last:
                table.add_row()  # apart from the turns around the hit before
            last = row.get("hit")
            style = "dim" if row.get("offset") else ""
            table.add_row(*(Text(_cell(name, row[name]), style=style) for name in names))
    if table is not None and table.row_count:
        screen.print(table)


def _print_features(rows: list[dict[str, Any]], title: str, n_turns: int) -> None:
    from rich.text import Text

    table = _new_table(["feature", f"turns of {n_turns:,}", "max", "explanation", "source", "score"])
    for row in rows:
        cells = [f"F{row['feature']}", f"{row.get('n_turns') or 0:,}", _cell("max", row.get("max"))]
        said = visible(row["explanation"]), visible(row["source"]), f"{row['score']:.3g}"
        table.add_row(*(Text(cell) for cell in (*cells, *said)))
    if rows:
        _screen().print(table)
    print(title, file=sys.stderr)


def _screen() -> Any:
    from turnscope.cli._spans_view import console

    return console()


def _new_table(names: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        is_number = name in ("turn", "offset", "tokens", "max") or name.startswith("turns of") or name[1:].isdigit()
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    return table


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if name == "text" and len(text) > _WORDS:
        text = text[:_WORDS] + "…"
    return visible(text)
