"""`turnscope spans`: which tokens of a chat are held for which turn, shown so that a reader can judge."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.artifacts.text import visible

if TYPE_CHECKING:
    from turnscope.transcripts.conversation import Conversation
    from turnscope.transcripts.spans import Rendered

_SHOWN = 3  # conversations on a screen


def spans(
    file: Path, /, *, model: str, limit: int | None = None,
    id: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),  # noqa: A002
    chat_format: Annotated[str | None, Parameter(name="--format")] = None, template: str | None = None,
    policy: Literal["full_render", "as_of_turn"] = "full_render",
    control_tokens: Literal["neutralise", "keep"] = "neutralise",
    full: bool = False, trust_remote_code: bool = False, json: bool = False,
) -> None:  # fmt: skip
    """Show conversations as the model reads them, every token coloured by the turn and section it is held for.

    Only the tokenizer is loaded. Below each conversation stands a table: the token range of every turn's words,
    how many of them go into its mean, whether the range is proven (exact) and how it was found.

    Example: turnscope spans chats.jsonl --model Qwen/Qwen2.5-0.5B-Instruct

    Example: turnscope spans runs/mine/transcripts --model minilm --template plain --id chat-17 --full

    Parameters
    ----------
    file
        A chat file, or a transcripts artifact (turnscope import).
    model
        Hub name (ORG/NAME), local folder, or minilm.
    limit
        At most this many conversations, from the start of the file: 3 when not given, all of them with --json.
    id
        Only the conversations of these ids.
    chat_format
        Chat format; told from the file when not given.
    template
        The tokenizer's own chat template when not given; plain; auto (its own, else plain); or the text of one.
    policy
        Render the whole chat once, or show each turn as the model had it when the turn was written.
    control_tokens
        What becomes of control tokens that a chat's text spells: said letter by letter, or left as they are.
    full
        Show every token; without it the middle of long turns and of long conversations is left out.
    trust_remote_code
        Run code that ships with the model.
    json
        Print a list instead: per conversation id, token_ids, and turns with half-open ranges of tokens.
    """
    from turnscope.transcripts.spans import TurnRenderer

    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be 1 or more, not {limit}")
    conversations = _conversations(file, chat_format, limit or (None if json else _SHOWN), id)
    # The first one comes before the tokenizer is loaded: a wrong path is told at once.
    conversations = chain([next(conversations)], conversations)
    tokenizer = _tokenizer(model, template, trust_remote_code=trust_remote_code)
    renderer = TurnRenderer(tokenizer, policy=policy, chat_template=template, control_tokens=control_tokens)
    if renderer.choice.notice:
        print(f"note: {renderer.choice.notice}", file=sys.stderr)
    refusals: Counter[str] = Counter()  # by reason; the empty one is that of conversations that were not refused

    def pairs() -> Iterator[tuple[Conversation, Rendered]]:
        for conversation in conversations:
            rendered = renderer.render(conversation)
            refusals[rendered.reason] += 1
            yield conversation, rendered

    if json:
        _print_json(pairs())
    else:
        _print_coloured(pairs(), tokenizer, full=full)
    if "" not in refusals:
        raise DataError(
            f"the chat template takes none of the {refusals.total()} conversations: {next(iter(refusals))}",
            where=file, fix="try --template plain, or other conversations",
        )  # fmt: skip


def _conversations(
    file: Path, chat_format: str | None, limit: int | None, ids: Sequence[str]
) -> Iterator[Conversation]:
    """The first conversations, or those of the ids, of a chat file or an artifact."""
    if file.is_dir():
        from turnscope.transcripts.store import open_transcripts

        store = open_transcripts(file)
        yield from map(store.get, ids) if ids else islice(store, limit)
        return
    if not ids:
        yield from islice(chat_file(file, chat_format), limit)
        return
    missing = set(ids)
    for conversation in chat_file(file, chat_format):
        if conversation.id in missing:
            missing.remove(conversation.id)
            yield conversation
        if not missing:
            return
    names = ", ".join(map(repr, sorted(missing)))
    raise ConfigError(f"no conversation {names}", where=file, fix="--id takes ids as they stand in the file")


def chat_file(file: Path, chat_format: str | None) -> Iterator[Conversation]:
    """The conversations of a chat file, as the import would read them; what is left out is told.

    Raises:
        StorageError: there is no such file.
        DataError: the file is damaged, of no known format, or holds no conversation.
    """
    from turnscope.transcripts.conversation import RecordError
    from turnscope.transcripts.readers.files import BadLines, read_records
    from turnscope.transcripts.readers.registry import reader_for

    bad = BadLines(str(file))
    left_out: Counter[str] = Counter()
    found = False
    try:
        rows = read_records(file, bad)
        first = next(rows, None)
        if first is not None:
            reader = reader_for(first[1], chat_format, str(file))
            print(f"{file}: read as {reader.name}", file=sys.stderr)
            for row, made in reader.read_all(chain([first], rows)):
                if isinstance(made, RecordError):
                    left_out[made.reason] += 1
                elif not made.turns:
                    left_out["no_turns"] += 1
                else:
                    found = True
                    yield replace(made, id=made.id or f"{made.source or file.name}/{row}")
        if not found:
            bad.check()
            raise DataError("no conversation in the file", where=file, fix="check the file and its --format")
    finally:
        # Also when enough was read and this generator is closed in the middle of the file.
        for line, reason in bad.shown:
            print(f"{file}, line {line}: {visible(reason)}", file=sys.stderr)
        for reason, count in left_out.items():
            print(f"{file}: left out {count} ({reason})", file=sys.stderr)
        if bad.surrogates:
            print(f"{file}: lone surrogates replaced by U+FFFD: {bad.surrogates}", file=sys.stderr)


def _tokenizer(model: str, template: str | None, *, trust_remote_code: bool) -> Any:
    from turnscope.models.load import load_tokenizer

    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    if template is None and not tokenizer.chat_template:
        raise ConfigError(
            "the tokenizer has no chat template", where=model,
            fix="--template plain (each turn as its role, a line break, its text), or --template auto",
        )  # fmt: skip
    return tokenizer


def _print_coloured(pairs: Iterable[tuple[Conversation, Rendered]], tokenizer: Any, *, full: bool) -> None:
    from turnscope.cli._spans_view import console, show

    screen = console()
    for conversation, rendered in pairs:
        show(conversation, rendered, tokenizer, screen, full=full)


def _print_json(pairs: Iterable[tuple[Conversation, Rendered]]) -> None:
    """One strict JSON list on standard output, a conversation a line; ASCII only, so that no text reaches a terminal
    as a control sequence.
    """
    import json

    between = "["
    for conversation, rendered in pairs:
        print(between + json.dumps(_record(conversation, rendered), allow_nan=False), end="")
        between = ",\n "
    print("]")


def _record(conversation: Conversation, rendered: Rendered) -> dict[str, Any]:
    from turnscope.cli._spans_view import all_counts

    record = {
        "id": conversation.id,
        **_tokens(rendered),
        "status": rendered.status,
        "counts": all_counts(conversation, rendered),
    }
    if rendered.prefix_stable is not None:
        record["prefix_stable"] = rendered.prefix_stable
        record["reruns"] = [_tokens(rerun) for rerun in rendered.reruns]
    return {**record, "reason": rendered.reason} if rendered.reason else record


def _tokens(rendered: Rendered) -> dict[str, Any]:
    from turnscope.cli._spans_view import runs

    turns = [
        {
            "index": span.index, "role": span.role, "start": span.start, "end": span.end, "status": span.status,
            "method": span.method, "boundary": list(span.boundary), "forged": span.forged,
        }
        for span in rendered.turns
    ]  # fmt: skip
    return {"token_ids": rendered.token_ids, "turns": turns, "sections": [run._asdict() for run in runs(rendered)]}
