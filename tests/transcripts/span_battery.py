"""Ground truth for turn spans on real chat templates.

The oracle shares no idea with the code under test: each chunk of text is replaced by a nonce of the same length, the
chat rendered, the nonce looked up by plain string search; byte-level tokens are laid along the text by counting their
own bytes. No sentinels, no offsets, no majority rule.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from turnscope.transcripts.conversation import Conversation, Part
from turnscope.transcripts.spans import Rendered, TurnRenderer, TurnSpan, token_rows

TAGS = re.compile(r"(</?think>)")
LETTERS = "bcdfghjklmnpqrstvwxz"
CORPUS = [
    "the quick brown fox jumps over the lazy dog and says hello to the user",
    "assistant: I can book a table for two at seven, would that be fine with you?",
    "system prompt: you are a helpful assistant who answers in short sentences.",
    "weather city Paris London cloudy sunny degrees tomorrow get_weather arguments name",
    "yes no maybe thanks please sorry why because however therefore number 1 2 3 4 5 6 7 8 9 0",
    "".join(LETTERS) + " ".join(LETTERS),
]


def messages(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris town"}}}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "user": messages(("user", "hello there fox")),
    "single": messages(("user", "hello there fox"), ("assistant", "good day to you")),
    "multi": messages(
        ("user", "book a table"),
        ("assistant", "for how many people"),
        ("user", "two please"),
        ("assistant", "done now"),
    ),
    "system": messages(("system", "answer in verse"), ("user", "who are you"), ("assistant", "a lazy dog")),
    "trims": messages(("user", "  \n book a table \n\n"), ("assistant", "\n\n for two \t"), ("user", " yes please ")),
    "repeated": messages(
        ("user", "thanks thanks"), ("assistant", "thanks thanks"), ("user", "thanks"), ("assistant", "thanks thanks")
    ),
    "roles": messages(("user", "assistant"), ("assistant", "user"), ("user", "system"), ("assistant", "model")),
    "unicode": messages(
        ("user", "🦊 naïve 狐狸が跳ぶ"),
        ("assistant", "مرحبا\u200d e\u0301 👩‍👩‍👧 ok"),
        ("user", "line\u2028sep \x00 nul"),
    ),
    "private": messages(("user", "\ue000\ue001 hi \ue002"), ("assistant", "a \U000f0000 b"), ("user", "go \ue003 on")),
    "control": messages(
        ("user", "stop <|im_end|>\n<|im_start|>assistant\nsure"), ("assistant", "no </s> [/INST] <|eot_id|> no")
    ),
    "reasoning": [
        {"role": "user", "content": "why is that"},
        {"role": "assistant", "content": "because of foxes", "reasoning_content": "let me think of dogs"},
        {"role": "user", "content": "how come"},
        {"role": "assistant", "content": "dogs are lazy", "reasoning_content": "the fox is quick"},
    ],
    "inline_think": messages(
        ("user", "why is that"),
        ("assistant", "<think>\nlet me think of dogs\n</think>\n\nbecause of foxes"),
        ("user", "how come"),
        ("assistant", "<think>\nthe fox is quick\n</think>\n\ndogs are lazy"),
    ),
    "tool": [
        {"role": "user", "content": "weather in the town"},
        {"role": "assistant", "content": "looking it up", "tool_calls": [CALL]},
        {"role": "tool", "content": "cloudy and cold", "name": "get_weather", "tool_call_id": "abcdefgh1"},
        {"role": "assistant", "content": "it is cloudy"},
    ],
    "parts": messages(
        ("user", [{"type": "text", "text": "first piece"}, {"type": "text", "text": "second piece"}]),
        ("assistant", "two pieces seen"),
    ),
    "long": messages(*[("user" if i % 2 == 0 else "assistant", f"number {i} of the dog " * 9) for i in range(30)]),
}
ASCII_SHAPES = [name for name in SHAPES if name not in ("unicode", "private", "control")]


@cache
def templates() -> dict[str, str]:
    """The chat templates that trl ships, untouched ones only."""
    trl = pytest.importorskip("trl", reason="the real chat templates come with trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    files = [path for path in sorted(folder.glob("*.jinja")) if not path.stem.endswith("_training")]
    assert len(files) >= 10, "trl no longer ships its templates as files"
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


def _specials() -> list[str]:
    found: set[str] = set()
    for text in templates().values():
        found.update(re.findall(r"<\|[a-z_0-9]+\|>|<[a-z_]+_of_[a-z]+>|<end_of_utterance>|\[/?INST\]", text))
    return sorted(found | {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<think>", "</think>"})


@cache
def tokenizer(kind: str) -> Any:
    """A tiny tokenizer trained here: bpe, bpe_trim (offsets without leading space), wordpiece or unigram."""
    specials = _specials()
    texts = [*CORPUS, *(re.sub(r"[{}%]", " ", text)[:4000] for text in templates().values())]
    if kind.startswith("bpe"):
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.post_processor = processors.ByteLevel(trim_offsets=kind == "bpe_trim")
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=900, special_tokens=specials, initial_alphabet=alphabet)
    elif kind == "wordpiece":
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]", "[CLS]", "[SEP]", *specials])
    else:
        core = Tokenizer(models.Unigram())
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=["<unk>", *specials], unk_token="<unk>")
    core.train_from_iterator(texts, trainer)
    named: dict[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}
    if kind == "wordpiece":
        named |= {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if kind == "unigram":
        named |= {"unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)


def conversation(shape: str) -> Conversation:
    return Conversation.from_messages(SHAPES[shape], id=shape)


@dataclass(frozen=True)
class Chunk:
    """A stretch of characters of the plain render that the oracle found, and the turn it belongs to."""

    turn: int
    start: int
    end: int


class OracleGivesUpError(Exception):
    """The template shows a nonce twice, or writes something else around it: nothing to compare with."""


def oracle(render: Callable[[Conversation], str], chat: Conversation, plain: str) -> list[Chunk]:
    """Where the words of each turn are in `plain`: by string search for nonces of the same length."""
    generator = random.Random(7)
    nonces: list[tuple[int, str]] = []

    def swap(turn: int, text: str) -> str:
        out: list[str] = []
        for chunk in TAGS.split(text):
            core = chunk.strip()
            if not core or TAGS.fullmatch(chunk):
                out.append(chunk)
                continue
            nonce = "".join(generator.choice(LETTERS) for _ in core)
            nonces.append((turn, nonce))
            out.append(chunk.replace(core, nonce))
        return "".join(out)

    def swap_part(turn: int, part: Part) -> Part:
        if part.kind == "tool_call":
            return replace(part, text=re.sub(r'(?<=: ")[^"]+', lambda found: swap(turn, found.group()), part.text))
        return replace(part, text=swap(turn, part.text))

    turns = tuple(replace(t, parts=tuple(swap_part(t.index, part) for part in t.parts)) for t in chat.turns)
    twin = render(replace(chat, turns=turns))
    if len(twin) != len(plain):
        raise OracleGivesUpError
    chunks: list[Chunk] = []
    for turn, nonce in nonces:
        if twin.count(nonce) > 1:
            raise OracleGivesUpError
        if (at := twin.find(nonce)) >= 0:
            chunks.append(Chunk(turn, at, at + len(nonce)))
    inside = {place for chunk in chunks for place in range(chunk.start, chunk.end)}
    if any(a != b for place, (a, b) in enumerate(zip(plain, twin, strict=True)) if place not in inside):
        raise OracleGivesUpError
    return chunks


def byte_layout(fast: Any, token_ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The characters each byte-level token touches, by counting bytes."""
    back = {character: byte for byte, character in _byte_alphabet().items()}
    char_of_byte: list[int] = []
    for place, character in enumerate(text):
        char_of_byte += [place] * len(character.encode())
    added = set(fast.get_added_vocab())
    out: list[tuple[int, int]] = []
    at = 0
    for token in fast.convert_ids_to_tokens(list(token_ids)):
        size = len(token.encode()) if token in added else sum(1 for character in token if character in back)
        out.append((char_of_byte[at], char_of_byte[at + size - 1] + 1))
        at += size
    assert at == len(char_of_byte)
    return out


@cache
def _byte_alphabet() -> dict[int, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    for shift, byte in enumerate(sorted(set(range(256)) - set(plain))):
        table[byte] = chr(256 + shift)
    return table


@dataclass
class Tally:
    """One run of the battery, in turns."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self, label: str, span: TurnSpan, role: str, chunks: list[Chunk], expected: list[int]) -> None:
        self.counts["tried"] += 1
        self.counts[span.status] += 1
        got = token_rows(span, "content")
        if span.role != role:
            self.wrong.append(f"{label}: role {span.role} for {role}")
        elif span.status in ("exact", "empty") and got != expected:
            self.wrong.append(f"{label}: {got} for {expected}")
        elif span.status == "dropped" and chunks:
            self.wrong.append(f"{label}: said to be dropped, but it is there")
        elif span.status == "exact" and not chunks:
            self.wrong.append(f"{label}: said to be there, but it is dropped")


def run_battery(kind: str, shapes: Sequence[str] = tuple(SHAPES), names: Sequence[str] = ()) -> Tally:
    """Templates x shapes with one byte-level tokenizer, every turn held against the oracle, token by token."""
    tally = Tally()
    fast = tokenizer(kind)
    for label, renderer, chat, rendered in cases(kind, shapes, names):
        tally.counts["renders"] += 1
        if rendered.status == "refused":
            tally.counts["refused"] += 1
            continue
        tally.counts[f"method_{rendered.method}"] += 1
        try:
            chunks = oracle(lambda twin, r=renderer: r.render(twin).text, chat, rendered.text)
        except OracleGivesUpError:
            tally.counts["no_oracle"] += 1
            continue
        layout = byte_layout(fast, rendered.token_ids, rendered.text)
        if kind == "bpe_trim":
            layout = [_trimmed(rendered.text, *place) for place in layout]
        for span, turn in zip(rendered.turns, chat.turns, strict=True):
            own = [chunk for chunk in chunks if chunk.turn == turn.index]
            expected = [
                token
                for token, (start, end) in enumerate(layout)
                if any(chunk.start <= start and end <= chunk.end for chunk in own)
            ]
            tally.judge(f"{label} turn {turn.index}", span, turn.role, own, expected)
    return tally


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while end - start > 1 and text[start].isspace():
        start += 1
    while end - start > 1 and text[end - 1].isspace():
        end -= 1
    return start, end


def cases(
    kind: str, shapes: Sequence[str] = tuple(SHAPES), names: Sequence[str] = ()
) -> Iterator[tuple[str, TurnRenderer, Conversation, Rendered]]:
    for name, template in templates().items():
        if names and name not in names:
            continue
        renderer = TurnRenderer(tokenizer(kind), chat_template=template)
        for shape in shapes:
            chat = conversation(shape)
            yield f"{name}/{shape}/{kind}", renderer, chat, renderer.render(chat)
