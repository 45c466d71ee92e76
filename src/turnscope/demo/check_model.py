"""How well the demo model holds up, measured by sampling it and letting the parser read what it wrote."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from turnscope.artifacts import progress
from turnscope.demo import puzzles
from turnscope.demo.bank import PERSONAS, load_bank
from turnscope.demo.grammar import UNSEEN_PEOPLE, Options, Writer
from turnscope.demo.parser import label_conversation, parse_turn

Chat = list[tuple[str, str]]
_REPLIES = 6  # replies of a conversation over which the persona may show
_TEMPERATURE = 0.8


class Sampler:
    """Writes the next assistant turn of many chats at once."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def reply(self, chats: Sequence[Chat], *, sample: bool, longest: int = 120) -> list[str]:
        """One reply each, sampled at temperature 0.8 or greedy; "" where no end was reached in `longest` tokens."""
        replies: list[str] = []
        for at in range(0, len(chats), 50):
            messages = [[{"role": r, "content": t} for r, t in chat] for chat in chats[at : at + 50]]
            texts = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            batch.pop("token_type_ids", None)
            how = {"do_sample": True, "temperature": _TEMPERATURE, "top_k": 0} if sample else {"do_sample": False}
            with torch.inference_mode():
                out = self.model.generate(**batch, max_new_tokens=longest, **how)
            for row in out[:, batch["input_ids"].shape[1] :].tolist():
                ended = self.tokenizer.eos_token_id in row
                replies.append(self.tokenizer.decode(row, skip_special_tokens=True) if ended else "")
        return replies


def check(folder: Path, count: int = 200, seed: int = 99) -> dict[str, Any]:
    """All figures, shares in 0..1; `count` conversations, puzzles and facts of each kind, none of them the demo's."""
    sampler, figures = Sampler(folder, seed), dict[str, Any]()
    steps = (_replies, _personas, _puzzles, _facts)
    with progress("sampling the model", len(steps), "checks") as bar:
        for step in steps:
            figures |= step(sampler, count, seed)
            bar.advance()
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """One line a figure."""
    return [
        f"{name:<34} {value:.3f}" if isinstance(value, float) else f"{name:<34} {value}"
        for name, value in figures.items()
    ]


def _replies(sampler: Sampler, count: int, seed: int) -> dict[str, Any]:
    """Share of sampled replies that the parser reads to the last character, at a random turn of new conversations."""
    writer, rng = Writer(Options(unseen=True, long_share=0.0)), random.Random(seed)
    chats: list[Chat] = []
    for index in range(count):
        messages = [(m.role, m.text) for m in writer.write(seed, index)]
        chats.append(messages[: rng.choice([i for i, (role, _) in enumerate(messages) if role == "assistant"])])
    read = [parse_turn(reply).complete for reply in sampler.reply(chats, sample=True)]
    return {"replies": count, "replies_parsed": sum(read) / count}


def _personas(sampler: Sampler, count: int, seed: int) -> dict[str, Any]:
    """Personas set by the system prompt: is it the one that shows in the replies?

    A conversation obeys when, over six replies, its persona shows in at least one and no other shows in any. The
    grammar shows a persona in about four of ten turns, so six replies of a perfect model would obey in about 95 of 100.
    """
    bank, rng = load_bank(), random.Random(seed + 1)
    asked = [rng.choice(PERSONAS) for _ in range(count)]
    chats: list[Chat] = [[("system", rng.choice(bank.units[f"persona.{p}.system"]))] for p in asked]
    questions = Writer(Options(unseen=True, long_share=0.0))
    for turn in range(_REPLIES):
        for index, chat in enumerate(chats):
            told = [
                m for m in questions.write(seed + 2, index * _REPLIES + turn) if m.labels.get("intent") == "question"
            ]
            english = [m.text for m in told if m.labels["language"] == "en"]
            chat.append(("user", english[0] if english else "Tell me about the violin."))
        for chat, reply in zip(chats, sampler.reply(chats, sample=True), strict=True):
            chat.append(("assistant", reply))
    shown = [[labels["shown"]["persona"] for labels in label_conversation(chat)[2::2]] for chat in chats]
    marked = [(persona, s) for persona, row in zip(asked, shown, strict=True) for s in row if s]
    obeyed = [p in row and set(row) <= {p, ""} for p, row in zip(asked, shown, strict=True)]
    return {
        "persona_obeyed": sum(obeyed) / count,
        "persona_right_where_shown": sum(p == s for p, s in marked) / max(1, len(marked)),
        "persona_shown_per_reply": len(marked) / (count * _REPLIES),
    }


def _puzzles(sampler: Sampler, count: int, seed: int) -> dict[str, Any]:
    """Greedy answers to puzzles whose (bound, digit) the training text never held, under both kinds of prompt."""
    bank, rng = load_bank(), random.Random(seed + 3)
    figures: dict[str, Any] = {}
    for kind, unseen in (("careful", True), ("careful", False), ("careless", True)):
        drawn = [puzzles.draw(rng, right=True, unseen=unseen) for _ in range(count)]
        chats = [
            [
                ("system", rng.choice(bank.units[f"competence.{kind}.system"])),
                ("user", rng.choice(bank.units["user.puzzle"]).format(b=p.bound, d=p.digit)),
            ]
            for p in drawn
        ]
        answers = [_answer(reply) for reply in sampler.reply(chats, sample=False)]
        right = sum(a == p.solution for a, p in zip(answers, drawn, strict=True)) / count
        answered = sum(a is not None for a in answers) / count
        held = "unseen" if unseen else "seen"
        if kind == "careful":
            figures[f"puzzles_right_when_careful_{held}"] = right
        else:
            figures["puzzles_wrong_when_careless_unseen"] = answered - right
    return figures


def _answer(reply: str) -> int | None:
    return next((int(u.slots["v"]) for u in parse_turn(reply).units if u.key == "bot.puzzle"), None)


def _facts(sampler: Sampler, count: int, seed: int) -> dict[str, Any]:
    """Greedy answers to two-hop questions, about people of the training text's two-hop questions and about others."""
    bank, rng = load_bank(), random.Random(seed + 4)
    figures: dict[str, Any] = {}
    for name, kept in (("seen", True), ("unseen", False)):
        people = [p for i, p in enumerate(bank.people) if bool(i % UNSEEN_PEOPLE) == kept]
        asked = [rng.choice(people) for _ in range(count)]
        chats: list[Chat] = [[("user", rng.choice(bank.units["user.fact_two"]).format(p=p))] for p in asked]
        replies = sampler.reply(chats, sample=False)
        right = [bank.capitals[bank.home[p]] in reply for p, reply in zip(asked, replies, strict=True)]
        figures[f"two_hop_right_{name}_people"] = sum(right) / count
    return figures
