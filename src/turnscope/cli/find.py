"""`turnscope find`: features by example, from turns of an index, new texts, or sets of both."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError, DataError, StorageError
from turnscope.artifacts.text import visible
from turnscope.cli._llm import LLMFlags

if TYPE_CHECKING:
    from turnscope.features.find import By, Codes
    from turnscope.features.fresh import FreshReader
    from turnscope.features.store import FeatureIndex
    from turnscope.transcripts.conversation import Conversation

_SHOWN = 20
_FEW = 5  # examples of a side, below which much passes the filter by chance
_FILES = {".txt", ".json", ".jsonl", ".parquet", ".gz", ".zst", ".csv"}


def find(
    index: Path, /, *,
    like: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    prompt: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    turn: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    positive: str | None = None, negative: str | None = None, topic: str | None = None, examples: int = 10,
    role: str | None = None, last: bool = False, least: float = 0.8, most: float = 0.2,
    by: Literal["surprise", "value", "rarity"] = "surprise", limit: int = _SHOWN,
    activations: Path | None = None, sae: Path | None = None, model: str | None = None, device: str = "cpu",
    trust_remote_code: bool = False, llm: LLMFlags | None = None,
    output_format: Annotated[Literal["table", "jsonl"], Parameter(name="--format")] = "table",
) -> None:  # fmt: skip
    """Find features by example: those that stand out on a text or turn, or that tell two sets apart (docs/find.md).

    Example: turnscope find runs/mine/features/turn --like "I'm sorry, I cannot help with that." --role assistant

    Example: turnscope find runs/mine/features/turn --turn chat-17:3

    Example: turnscope find runs/mine/features/turn --positive 'topic = "law"' --negative other.txt

    Example: turnscope find runs/mine/features/turn --topic "asks for medical advice" --llm gpt-4o-mini --max-usd 0.1

    Parameters
    ----------
    index
        A feature index (turnscope index).
    like
        Texts, each a conversation of one turn.
    prompt
        Files of conversations: JSON messages or any known chat format, or .txt with a text in each line.
    turn
        Indexed turns as CONVERSATION:TURN, turns counted from 0.
    positive
        Examples that the features should fire on: a file as for --prompt, or a query (docs/query.md).
    negative
        Examples that they should not fire on, likewise.
    topic
        Let the language model --llm write both sets.
    examples
        With --topic: how many texts of each set.
    role
        Role of texts (user when not given), and of the turns of conversations that count (all when not given).
    last
        Of each conversation only its last turn counts.
    least
        Share of the positives on which a feature fires at least.
    most
        Share of the negatives on which it fires at most.
    by
        Order of features on a text or turn: surprise (value x -log2 of density), value, or rarity of that value.
    limit
        At most this many features.
    activations
        The activations that the index was made of, when they are not in the run folder.
    sae
        Its dictionary, likewise.
    model
        The model that was harvested, when neither the activations nor the run folder say where it is.
    device
        Of the model, for new texts.
    trust_remote_code
        Run code that ships with the model.
    llm
        Which language model is asked.
    output_format
        table or jsonl.
    """
    from turnscope.features.find import Codes
    from turnscope.features.store import open_index

    given = [name for name, value in (("--like", like), ("--prompt", prompt), ("--turn", turn)) if value]
    sets = [name for name, value in (("--positive", positive), ("--negative", negative), ("--topic", topic)) if value]
    if bool(given) == bool(sets):
        raise ConfigError(
            "give examples (--like, --prompt, --turn) or sets (--positive, --negative, --topic), one of the two"
        )
    if topic and (positive or negative):
        raise ConfigError("--topic writes both sets", fix="leave out --positive and --negative")
    if negative and not positive:
        raise ConfigError("negative examples alone find nothing", fix="give --positive as well")
    if limit < 1:
        raise ConfigError(f"limit must be 1 or more, not {limit}")
    opened = open_index(index)
    reading = _Reading(opened, role, last, activations, sae, model, device, trust_remote_code=trust_remote_code)
    if given:
        return _show_active(opened, reading, like, prompt, turn, by, limit, output_format)
    if topic:
        ups, downs = _written(reading, topic, examples, llm or LLMFlags())
    else:
        sides = [(text, flag) for text, flag in ((positive, "--positive"), (negative, "--negative")) if text]
        # queries and files before the model: a slip in the second set should not cost the reading of the first
        sets_read = [reading.examples(text, flag) for text, flag in sides]
        ups, *rest = [each if isinstance(each, Codes) else reading.one_each(each) for each in sets_read]
        downs = rest[0] if rest else None
    return _show_shared(opened, ups, downs, least, most, limit, output_format)


class _Reading:
    """Examples of every kind as codes; the model is loaded when a new text comes, and once."""

    def __init__(
        self, index: FeatureIndex, role: str | None, last: bool, activations: Path | None, sae: Path | None,
        model: str | None, device: str, *, trust_remote_code: bool,
    ) -> None:  # fmt: skip
        self.index, self.role, self.last = index, role, last
        self._how: dict[str, Any] = {
            "activations": activations, "sae": sae, "model": model, "device": device,
            "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        self._reader: FreshReader | None = None

    def conversations(self, conversations: list[Conversation]) -> tuple[Codes, list[str]]:
        """Codes of the turns that count, and where each is."""
        codes, where, _ = self._turns(conversations)
        return codes, where

    def texts(self, texts: list[str]) -> list[Conversation]:
        """Each text as a conversation of one turn."""
        from turnscope.transcripts.conversation import Conversation

        if not all(text.strip() for text in texts):
            raise ConfigError("an empty text has no features", fix="give words")
        messages = ([{"role": self.role or "user", "content": text}] for text in texts)
        return [Conversation.from_messages(each, id=f"text {i}") for i, each in enumerate(messages, 1)]

    def one_each(self, conversations: list[Conversation]) -> Codes:
        """Codes of conversations as examples: of each feature the largest value of their turns."""
        from turnscope.features.find import strongest

        codes, _, number_N = self._turns(conversations)
        lost = len(conversations) - len(set(number_N))
        if lost:
            print(f"note: {lost} of {len(conversations)} examples have no turn that can be read", file=sys.stderr)
        return strongest(codes, number_N)

    def examples(self, value: str, flag: str) -> Codes | list[Conversation]:
        """The conversations of a file, or the codes of the turns that satisfy a query."""
        path = Path(value)
        if path.suffix.lower() in _FILES or (len(value) < 4096 and path.is_file()):
            return self.file(path)
        from turnscope.features.find import codes_of

        found = self.index.query(value)
        for notice in found.notices:
            print(f"note: {visible(notice)}", file=sys.stderr)
        if not len(found):
            raise ConfigError(f"{flag}: no turn satisfies the query", where=value, fix="widen it")
        return codes_of(self.index, found.rows)

    def file(self, path: Path) -> list[Conversation]:
        """Conversations of a file. Raises StorageError, DataError."""
        if path.suffix.lower() == ".txt":
            texts = [line.strip() for line in _text(path).splitlines() if line.strip()]
            if not texts:
                raise DataError("no text in it", where=path, fix="put a text into each line")
            return self.texts(texts)
        if path.suffix.lower() == ".json":
            bare = _bare(path)
            if bare and all(isinstance(each, str) for each in bare):
                return self.texts(bare)
            if bare and isinstance(bare[0], dict) and "role" in bare[0] and "content" in bare[0]:
                from turnscope.transcripts.conversation import Conversation

                return [Conversation.from_messages(bare, id=path.name)]
        from turnscope.cli.spans import chat_file

        return list(chat_file(path, None))

    def _turns(self, conversations: list[Conversation]) -> tuple[Codes, list[str], list[int]]:
        from turnscope.features.find import picked

        if self._reader is None:
            from turnscope.features.fresh import FreshReader

            self._reader = FreshReader(self.index, **self._how)
        fresh = self._reader.read(conversations)
        number_N = fresh.conversation_N.tolist()
        kept = [i for i, turn in enumerate(fresh.turns) if self.role is None or turn.role == self.role]
        if self.last:
            kept = list({number_N[i]: i for i in kept}.values())
        if not kept:
            raise DataError(f"no turn of the role {self.role} can be read", fix="name another --role, or none")
        where = [f"{conversations[number_N[i]].id}:{fresh.turns[i].turn}" for i in kept]
        return picked(fresh.codes, kept), where, [number_N[i] for i in kept]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=path, fix="name a file that is there") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}", where=path) from error


def _bare(path: Path) -> list[Any] | None:
    """The list that a JSON file holds, without a record around it; None for anything else."""
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        return None  # lines of JSON, perhaps: the readers of chat files say what is wrong
    return value if isinstance(value, list) else None


def _written(reading: _Reading, topic: str, n: int, flags: LLMFlags) -> tuple[Codes, Codes]:
    from turnscope.llm import open_client
    from turnscope.llm.examples import write_examples

    run_folder = reading.index.artifact.path.resolve().parents[1]
    with open_client(flags.config(run_folder)) as client:
        written = write_examples(client, topic, n, role=reading.role or "user")
        spent = "" if client.ledger.unpriced else f", {client.spent_usd:.4f} USD"
    counts = f"{len(written.positive)} positive and {len(written.negative)} negative texts"
    print(f"{counts} from {flags.llm} ({client.n_calls} calls{spent})", file=sys.stderr)
    for sign, texts in (("+", written.positive), ("-", written.negative)):
        for text in texts:
            print(f"  {sign} {json.dumps(text, ensure_ascii=True)[1:-1][:150]}", file=sys.stderr)
    return reading.one_each(reading.texts(written.positive)), reading.one_each(reading.texts(written.negative))


def _show_active(
    index: FeatureIndex, reading: _Reading, like: tuple[str, ...], prompt: tuple[Path, ...], turn: tuple[str, ...],
    by: By, limit: int, form: str,
) -> None:  # fmt: skip
    from turnscope.features.find import codes_of, find_active, joined, row_of_turn

    parts, where = list[Any](), list[str]()
    if turn:
        parts.append(codes_of(index, [row_of_turn(index, *_place(each)) for each in turn]))
        where += turn
    conversations = reading.texts(list(like)) if like else []
    conversations += [
        replace(each, id=each.id if len(prompt) == 1 else f"{path.name}/{each.id}")
        for path in prompt
        for each in reading.file(path)
    ]
    if conversations:
        codes, places = reading.conversations(conversations)
        parts.append(codes)
        where += places
    rows = find_active(index, joined(parts), by=by, limit=limit).to_pylist()
    for row in rows:
        row["turn"] = where[row.pop("example")]
    if len(where) == 1:
        for row in rows:
            del row["turn"]
    _show(index, rows, form, f"{len(rows):,} features active on {_turns(len(where))}, by {by}")


def _turns(n: int) -> str:
    return "one turn" if n == 1 else f"{n:,} turns"


def _place(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition(":")
    if not name or not number.isdigit():
        raise ConfigError(f"not a turn: {text!r}", fix="--turn CONVERSATION:TURN, turns counted from 0")
    return name, int(number)


def _show_shared(
    index: FeatureIndex, ups: Codes, downs: Codes | None, least: float, most: float, limit: int, form: str
) -> None:
    from turnscope.features.find import find_shared

    rows = find_shared(index, ups, downs, least=least, most=most, limit=limit).to_pylist()
    sizes = f"{len(ups):,} positives" + (f" and {len(downs):,} negatives" if downs is not None else "")
    if min(len(ups), _FEW if downs is None else len(downs)) < _FEW:
        print(f"note: of few examples ({sizes}) many features pass by chance; give more", file=sys.stderr)
    passed = f"on {least:.0%} or more of {sizes}" if downs is None else f">= {least:.0%} and <= {most:.0%} of {sizes}"
    if not rows:
        print("note: no feature passes; lower --least or raise --most", file=sys.stderr)
    _show(index, rows, form, f"{len(rows):,} features fire {passed}")


def _show(index: FeatureIndex, rows: list[dict[str, Any]], form: str, title: str) -> None:
    from turnscope.cli.query import print_rows
    from turnscope.features.query.explanations import best_explanations

    said = best_explanations(index.explanations(), [row["feature"] for row in rows])
    for row in rows:
        if said:
            row["explanation"] = said.get(row["feature"], "")
    print_rows(rows, title, as_jsonl=form == "jsonl")
