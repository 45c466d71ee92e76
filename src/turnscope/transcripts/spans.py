"""Turn spans: which tokens of a rendered chat belong to which turn. Read docs/design/spans.md for the why.

Every piece of text gets a pair of private-use sentinels just inside its outer white space. The chat template renders
the conversation plain and marked; where the marked render without its marks is the plain one, character for character,
the marks tell where each piece stands. The plain render is tokenised once. What cannot be proven so is found by weaker
methods and says so in `status`; nothing is dropped without a count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from turnscope.artifacts.errors import ConfigError
from turnscope.transcripts._fallbacks import common_prefix, one_turn_at_a_time, ordered_search
from turnscope.transcripts._marks import Found, Marker, MarksRunOutError, private_use, read_marks, texts_of
from turnscope.transcripts._span_edges import with_edges
from turnscope.transcripts._span_types import (
    METHODS,
    Method,
    PartSpan,
    Policy,
    Rendered,
    Status,
    TokenSet,
    TurnSpan,
    token_rows,
)
from turnscope.transcripts._tokens import Tokenised, TokenRange, Verifier, token_range, tokenise
from turnscope.transcripts.conversation import (
    Conversation,
    JsonDict,
    MessageForm,
    Part,
    Turn,
    turns_to_messages,
)
from turnscope.transcripts.templates import TemplateChoice, choose_template

__all__ = [
    "Method",
    "PartSpan",
    "Policy",
    "Rendered",
    "Status",
    "TokenSet",
    "TurnRenderer",
    "TurnSpan",
    "render",
    "render_many",
    "token_rows",
]

_WORST_FIRST: tuple[Status, ...] = ("ambiguous", "unverified", "dropped", "exact", "empty")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PROBE = "turnscopeprobe"


def render(
    tokenizer: Any, conversation: Conversation, *, policy: str = "full_render", chat_template: str | None = None
) -> Rendered:
    """Render one conversation and locate its turns; see `TurnRenderer` for the arguments and errors."""
    return TurnRenderer(tokenizer, policy=policy, chat_template=chat_template).render(conversation)


def render_many(
    tokenizer: Any,
    conversations: Iterable[Conversation],
    *,
    policy: str = "full_render",
    chat_template: str | None = None,
) -> list[Rendered]:
    """`render` for several conversations with one call of the tokenizer."""
    return TurnRenderer(tokenizer, policy=policy, chat_template=chat_template).render_many(conversations)


@dataclass(slots=True)
class _Draft:
    """A conversation on its way: rendered and located in characters, not yet in tokens."""

    conversation: Conversation
    plain: str
    found: list[Found]
    methods: dict[int, Method]
    counts: Counter[str]
    reason: str = ""


class TurnRenderer:
    """Renders conversations with one tokenizer and one chat template.

    Args:
        tokenizer: a transformers tokenizer; one without offsets ("slow") works, slower.
        policy: `full_render` (the whole chat once). `as_of_turn` (as the model stood at each turn) is not there yet.
        chat_template: see `choose_template`.

    Raises:
        ConfigError: unknown policy, or no chat template and none chosen.
    """

    def __init__(self, tokenizer: Any, *, policy: str = "full_render", chat_template: str | None = None) -> None:
        if policy == "as_of_turn":
            raise ConfigError("the span policy as_of_turn is not there yet", fix="use full_render")
        if policy != "full_render":
            raise ConfigError(f"no such span policy: {policy}", fix=f"one of {', '.join(get_args(Policy))}")
        self.tokenizer = tokenizer
        self.choice: TemplateChoice = choose_template(tokenizer, chat_template)
        self._verifier = Verifier(tokenizer)
        self._template_private = set(private_use([self.choice.template]))
        self._controls = _control_tokens(tokenizer)
        self._takes_parts = self._shows_probe([{"type": "text", "text": _PROBE}])
        # Decided by a probe, not by the chat at hand, so that a turn is rendered alike wherever it stands.
        self._takes_string = self._shows_probe(_PROBE) or not self._takes_parts

    def render(self, conversation: Conversation) -> Rendered:
        """One conversation. A template that refuses it gives status `refused`, never an exception."""
        return self.render_many([conversation])[0]

    def render_many(self, conversations: Iterable[Conversation]) -> list[Rendered]:
        """Several conversations, in order, with one call of the tokenizer."""
        drafts = [self._locate(conversation) for conversation in conversations]
        texts = [draft.plain for draft in drafts if not draft.reason]
        tokenised = iter(tokenise(self.tokenizer, texts))
        return [self._refused(draft) if draft.reason else self._finish(draft, next(tokenised)) for draft in drafts]

    # Characters

    def _locate(self, conversation: Conversation) -> _Draft:
        counts: Counter[str] = Counter()
        conversation = _without_surrogates(conversation, counts)
        draft = _Draft(conversation, "", [], {}, counts)
        turns = conversation.turns
        if not turns:
            draft.reason = "no turns"
            return draft
        texts = texts_of(turns)
        private = private_use(texts)
        used = self._template_private.union(private)
        _add(counts, "private_use_in_text", len(private))
        if self._controls is not None:
            _add(counts, "control_tokens_in_text", sum(len(self._controls.findall(text)) for text in texts))
        images = sum(part.kind == "image" for turn in turns for part in turn.parts)
        parts = self._takes_parts and (images > 0 or not self._takes_string)
        form = MessageForm("parts" if parts else "string")
        if not parts:
            _add(counts, "images_left_out", images)
        if not self._sentinels(draft, used, form) and any(p.kind == "tool_call" for t in turns for p in t.parts):
            # Some templates paste the arguments of a call in as they are, and want them as text.
            self._sentinels(draft, used, MessageForm(form.content, "text"))
        return draft

    def _sentinels(self, draft: _Draft, used: set[str], form: MessageForm) -> bool:
        """Render plain and marked and read the marks; False, with `draft.reason`, where the template refuses."""
        turns = draft.conversation.turns
        messages = turns_to_messages(turns, form)
        marker = Marker(used)
        marked: str | None = None
        try:
            plain, marked = self._apply([messages, turns_to_messages(turns, form, marker)])
        except (MarksRunOutError, *_template_errors()):
            # The marks may be what it stumbled over; the plain chat decides.
            plain = self._try(messages, draft)
            if plain is None:
                return False
        draft.plain, draft.reason = plain, ""
        if marked is not None:
            stripped, found = read_marks(marked, marker.pieces)
            if stripped == plain:
                draft.found = found
                draft.methods = {turn.index: "sentinel" for turn in turns}
                return True
        self._fall_back(draft, used, form)
        return True

    def _fall_back(self, draft: _Draft, used: set[str], form: MessageForm) -> None:
        turns, plain = draft.conversation.turns, draft.plain

        def attempt(messages: list[JsonDict]) -> str | None:
            return self._try(messages, None)

        proven, rest = one_turn_at_a_time(turns, plain, used, form, attempt)
        searched, left = ordered_search(rest, plain, proven)
        guessed = common_prefix(left, turns, plain, form, attempt)
        draft.found = sorted([*proven, *searched, *guessed], key=lambda found: found.piece.turn)
        for turn in turns:
            if turn in left:
                draft.methods[turn.index] = "common_prefix"
            else:
                draft.methods[turn.index] = "ordered_search" if turn in rest else "sentinel_per_turn"
        draft.counts["fallback"] += 1

    def _apply(self, chats: list[list[JsonDict]]) -> list[str]:
        return self.tokenizer.apply_chat_template(chats, chat_template=self.choice.template, tokenize=False)

    def _try(self, messages: list[JsonDict], draft: _Draft | None) -> str | None:
        try:
            return self._apply([messages])[0]
        except _template_errors() as error:
            if draft is not None:
                draft.reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return None

    def _shows_probe(self, content: str | list[JsonDict]) -> bool:
        text = self._try([{"role": "user", "content": content}], None)
        # A list that a template pastes in whole shows the probe too, with its braces.
        return text is not None and _PROBE in text and "'type'" not in text and '"type"' not in text

    # Tokens

    def _refused(self, draft: _Draft) -> Rendered:
        turns = tuple(
            TurnSpan(turn.index, turn.role, 0, 0, 0, 0, "dropped", method="none") for turn in draft.conversation.turns
        )
        draft.counts["template_refused" if turns else "no_turns"] += 1
        return Rendered([], turns, "refused", "none", dict(draft.counts), "", draft.reason, self.choice.notice)

    def _finish(self, draft: _Draft, tokenised: Tokenised) -> Rendered:
        counts = draft.counts
        offsets = tokenised.offsets
        if offsets is None:
            counts["no_offsets"] += 1
        starts = [start for start, _ in offsets or ()]
        ends = [end for _, end in offsets or ()]
        by_turn: dict[int, list[Found]] = {turn.index: [] for turn in draft.conversation.turns}
        for found in draft.found:
            by_turn[found.piece.turn].append(found)
        spans: list[TurnSpan] = []
        for turn in draft.conversation.turns:
            method = draft.methods[turn.index]
            places = by_turn[turn.index]
            for found in places:
                if found.status != "exact":
                    counts[f"{found.status}_{found.piece.kind}"] += 1
            if offsets is None:
                spans.append(TurnSpan(turn.index, turn.role, 0, 0, 0, 0, "unverified", method=method))
                continue
            shown = sorted((f for f in places if f.end > f.start), key=lambda f: f.start)
            ranges = [token_range(starts, ends, f.start, f.end) for f in shown]
            status = self._status(turn, places, shown, ranges, draft.plain, tokenised.token_ids)
            spans.append(_turn_span(turn, shown, ranges, status, method))
        spans = with_edges(spans, tokenised.token_ids, getattr(self.tokenizer, "bos_token_id", None))
        for span in spans:
            counts[f"turns_{span.status}"] += 1
            _add(counts, "straddling_or_between", len(span.boundary))
        worst: Status = next(status for status in _WORST_FIRST if any(span.status == status for span in spans))
        ranks = [METHODS.index(span.method) for span in spans]
        method = METHODS[max(ranks)]  # the weakest one used
        return Rendered(
            tokenised.token_ids, tuple(spans), worst, method, dict(counts), draft.plain, "", self.choice.notice
        )

    def _status(
        self,
        turn: Turn,
        places: Sequence[Found],
        shown: Sequence[Found],
        ranges: Sequence[TokenRange],
        plain: str,
        token_ids: Sequence[int],
    ) -> Status:
        if turn.is_blank or all(part.kind == "image" for part in turn.parts):
            return "empty"
        if not places:
            # A call without a string among its arguments: nothing to put a mark on.
            return "unverified"
        if any(found.status == "ambiguous" for found in places):
            return "ambiguous"
        if not shown:
            return "dropped"
        inside = token_ids[min(r.touch_start for r in ranges) : max(r.touch_end for r in ranges)]
        if not inside:
            return "empty"
        texts = [plain[found.start : found.end].strip() for found in shown]
        holds = self._verifier.holds(self._verifier.decode(inside), inside, texts)
        if not holds and len(shown) > 1:
            # What lies between two parts may be more than the tokenizer can write; each part is asked for itself.
            pieces = [token_ids[r.touch_start : r.touch_end] for r in ranges]
            holds = all(
                self._verifier.holds(self._verifier.decode(ids), ids, [text])
                for ids, text in zip(pieces, texts, strict=True)
            )
        return "exact" if holds and all(found.status == "exact" for found in shown) else "unverified"


def _turn_span(
    turn: Turn, shown: Sequence[Found], ranges: Sequence[TokenRange], status: Status, method: Method
) -> TurnSpan:
    if not ranges:
        return TurnSpan(turn.index, turn.role, 0, 0, 0, 0, status, method=method)
    start, end = min(r.start for r in ranges), max(r.end for r in ranges)
    inside = {token for r in ranges for token in range(r.start, r.end)}
    inside.difference_update(token for r in ranges for token in r.straddling)
    boundary = tuple(token for token in range(start, end) if token not in inside)
    if not inside and status == "exact":
        status = "empty"
    parts = tuple(
        PartSpan(
            found.piece.part, found.piece.kind, r.start, r.end, "exact" if found.status == "exact" else "unverified"
        )
        for found, r in zip(shown, ranges, strict=True)
    )
    return TurnSpan(turn.index, turn.role, start, end, start, end, status, boundary, method, parts)


def _without_surrogates(conversation: Conversation, counts: Counter[str]) -> Conversation:
    """Lone surrogates have no UTF-8 and no tokenizer takes them: U+FFFD stands in for each, counted."""
    if not any(_SURROGATE.search(text) for text in texts_of(conversation.turns)):
        return conversation

    def clean(text: str) -> str:
        text, changed = _SURROGATE.subn("\ufffd", text)
        _add(counts, "surrogates_replaced", changed)
        return text

    turns = tuple(
        Turn(
            turn.index,
            clean(turn.role),
            tuple(Part(p.kind, clean(p.text), p.name, p.call_id, p.extra) for p in turn.parts),
            turn.labels,
        )
        for turn in conversation.turns
    )
    return Conversation(conversation.id, turns)


def _control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    tokens: set[str] = set(getattr(tokenizer, "all_special_tokens", ()))
    tokens.update(str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values())
    # An added word without any punctuation ("hello") is vocabulary, not control.
    tokens = {token for token in tokens if len(token) > 2 and not token.isalnum()}
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))) if tokens else None


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2.exceptions import TemplateError

    # The last ones are what Python raises inside a template that did not expect such a message.
    return (
        TemplateError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        ZeroDivisionError,
    )


def _add(counts: Counter[str], name: str, number: int) -> None:
    if number:
        counts[name] += number
