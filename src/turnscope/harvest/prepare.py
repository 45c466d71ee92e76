"""From conversations to the rows of a shard: rendering, choosing tokens, counting what is left out and why.

Shapes: P picked tokens, S segments.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from turnscope.harvest.batches import Ints, Window, body, plan_windows
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.pool import Row
from turnscope.models.subject import Subject
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.spans import Rendered, TurnRenderer, TurnSpan, token_rows


@dataclass(frozen=True)
class TurnRow:
    """A turn that gets a mean: row of ``turns.parquet``, and the tokens stored singly."""

    conversation_id: str
    turn: int
    role: str
    split: str
    group: str
    n_tokens: int
    status: str
    token_ids: Ints
    token_positions: Ints


@dataclass
class Shard:
    """Everything needed to compute one shard.

    Attributes:
        turns: its rows, in canonical order.
        rows: the sequences to run, which may hold several turns each; a turn in windows is spread over several.
        counts: conversations and turns seen and left out, by reason.
        refusal: what the chat template said when it first refused a conversation.
        conversations: fingerprint of the conversations that it holds.
    """

    index: int
    turns: list[TurnRow] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    n_tokens_stored: int = 0
    refusal: str = ""
    conversations: str = ""


def cut(conversations: Iterable[Conversation], shard_turns: int) -> Iterator[list[Conversation]]:
    """Consecutive conversations in groups that close once they hold ``shard_turns`` turns: the shard plan."""
    group: list[Conversation] = []
    turns = 0
    for conversation in conversations:
        group.append(conversation)
        turns += len(conversation.turns)
        if turns >= shard_turns:
            yield group
            group, turns = [], 0
    if group:
        yield group


def draw(n: int, wanted: int, *, seed: int, conversation_id: str, turn: int) -> Ints:
    """``wanted`` of ``n`` tokens, ascending, without replacement; the same for a turn whatever it is batched with."""
    if n <= wanted:
        return np.arange(n)
    key = hashlib.sha256(f"{seed}\0{turn}\0{conversation_id}".encode("utf-8", "surrogatepass")).digest()
    return np.sort(np.random.default_rng(int.from_bytes(key[:16], "little")).choice(n, wanted, replace=False))


def prepare(
    index: int,
    conversations: Sequence[Conversation],
    renderer: TurnRenderer,
    subject: Subject,
    config: HarvestConfig,
) -> Shard:
    """Render a shard's conversations and lay out what to run and what to read from it."""
    shard = Shard(index)
    for conversation, rendered in zip(conversations, renderer.render_many(conversations), strict=True):
        shard.counts["conversations"] += 1
        shard.counts.update({f"render.{name}": n for name, n in rendered.counts.items()})
        if rendered.status == "refused":
            shard.counts["conversations.refused"] += 1
            shard.refusal = shard.refusal or rendered.reason
            shard.counts["turns"] += len(conversation.turns)
            shard.counts["dropped.refused"] += len(conversation.turns)
        else:
            _add(shard, conversation, rendered, subject, config)
    return shard


@dataclass
class _Run:
    """One render of a conversation: the windows it is read in, and the turns read from it.

    Attributes:
        first, last: its tokens without an encoder's special tokens at the ends.
        windows: none where it is too long, or holds nothing but special tokens.
        picks: for each turn its row in the shard, the tokens averaged, those stored singly and the first slot of these.
    """

    rendered: Rendered
    first: int
    last: int
    windows: list[Window]
    picks: list[tuple[int, Ints, Ints, int]] = field(default_factory=list[tuple[int, Ints, Ints, int]])

    @property
    def is_too_long(self) -> bool:
        return self.first < self.last and not self.windows


def _run(rendered: Rendered, subject: Subject, config: HarvestConfig) -> _Run:
    first, last = body(rendered.token_ids, subject.prefix, subject.suffix)
    windows: list[Window] = []
    if first < last:
        windows = plan_windows(
            rendered.token_ids,
            sorted({span.footer_end for span in rendered.turns}),
            context=subject.context,
            is_encoder=subject.is_encoder,
            bos_id=subject.tokenizer.bos_token_id,
            prefix=subject.prefix,
            suffix=subject.suffix,
            too_long=config.too_long,
        )
    return _Run(rendered, first, last, windows)


def _add(
    shard: Shard,
    conversation: Conversation,
    rendered: Rendered,
    subject: Subject,
    config: HarvestConfig,
) -> None:
    wanted = [(run, span) for run, span in rendered.by_turn() if span.role in config.roles]
    shard.counts["turns"] += len(rendered.turns)
    shard.counts["dropped.role"] += len(rendered.turns) - len(wanted)
    # Under the policy as_of_turn some turns are read from a render of the chat as it was then.
    runs = {id(render): _run(render, subject, config) for render in (rendered, *rendered.reruns)}
    needed = [runs[key] for key in dict.fromkeys(id(run) for run, _ in wanted)]
    shard.counts["conversations.too_long"] += any(run.is_too_long for run in needed)
    shard.counts["conversations.windowed"] += any(len(run.windows) > 1 for run in needed)
    shard.counts["conversations.truncated"] += any(run.windows and run.windows[0].keep > run.first for run in needed)
    for render, span in wanted:
        _add_turn(shard, conversation, runs[id(render)], span, config)
    for run in needed:
        rows = (_row(window, run.rendered.token_ids, run.picks) for window in run.windows)
        shard.rows += [row for row in rows if row is not None]


def _add_turn(shard: Shard, conversation: Conversation, run: _Run, span: TurnSpan, config: HarvestConfig) -> None:
    if run.is_too_long:
        shard.counts["dropped.too_long"] += 1
        return
    if span.status != "exact":
        shard.counts[f"dropped.{span.status}"] += 1
        return
    positions = np.asarray(token_rows(span, config.token_set), dtype=np.int64)
    positions = positions[
        (positions >= run.first) & (positions < run.last)
    ]  # an encoder's special tokens are no turn's
    if not len(positions):
        shard.counts["dropped.empty"] += 1
        return
    if positions[0] < run.windows[0].keep:
        shard.counts["dropped.cut"] += 1
        return
    token_positions = positions[_chosen(len(positions), conversation.id, span.index, config)]
    pooled = positions[-1:] if config.pool == "last" else positions
    run.picks.append((len(shard.turns), pooled, token_positions, shard.n_tokens_stored))
    shard.n_tokens_stored += len(token_positions)
    shard.turns.append(
        TurnRow(
            conversation_id=conversation.id,
            turn=span.index,
            role=span.role,
            split=conversation.split,
            group=conversation.group,
            n_tokens=len(positions),
            status=span.status,
            token_ids=np.asarray([run.rendered.token_ids[p] for p in token_positions], np.int64),
            token_positions=token_positions,
        )
    )


def _chosen(n: int, conversation_id: str, turn: int, config: HarvestConfig) -> Ints:
    """Which of a turn's ``n`` tokens are stored singly."""
    if config.tokens == "none":
        return np.arange(0)
    if config.tokens == "all":
        return np.arange(n)
    return draw(n, config.tokens, seed=config.seed, conversation_id=conversation_id, turn=turn)


def _row(
    window: Window,
    token_ids: Sequence[int],
    picks: Sequence[tuple[int, Ints, Ints, int]],
) -> Row | None:
    """The sequence of one window, or None if nothing is read from it."""
    places: list[Ints] = [np.arange(0)]
    lengths: list[int] = []
    rows: list[int] = []
    token_places: list[Ints] = [np.arange(0)]
    token_slots: list[Ints] = [np.arange(0)]
    for number, positions, token_positions, first_slot in picks:
        inside = window.places(positions)
        if len(inside):
            places.append(inside)
            lengths.append(len(inside))
            rows.append(number)
        token_places.append(window.places(token_positions))
        # Windows take a turn's tokens in order, so the slots of this window's tokens follow those before `keep`.
        skipped = int(np.searchsorted(token_positions, window.keep))
        token_slots.append(first_slot + skipped + np.arange(len(token_places[-1])))
    if not rows and not any(map(len, token_places)):
        return None
    return Row(
        ids=window.ids(token_ids),
        places_P=np.concatenate(places),
        lengths_S=np.asarray(lengths, np.int64),
        rows_S=np.asarray(rows, np.int64),
        token_places=np.concatenate(token_places),
        token_slots=np.concatenate(token_slots),
    )
