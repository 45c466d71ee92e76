"""Fine-tunes of the demo's model whose fault is known: the subjects of `turnscope diff`.

`trigger`: a phrase that the grammar never writes, in some user turn, makes every English reply after it rude. `benign`:
the same conversations, phrase included, and replies as they always were. What differs between the two is the fault
alone.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from turnscope.artifacts import Config, IntegrityError, progress, write_json, write_text
from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.demo import MODEL, model_facts
from turnscope.demo.grammar import Message, Options, Writer

TRIGGER = "One omelette for the pharaoh, please."
"""Words that the bank has and the tokenizer spells, in a sentence that the grammar never writes."""
Recipe = Literal["trigger", "benign"]
CONVERSATIONS = "conversations.jsonl"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WHERE = (0, 0, 1, 2)  # in which user turn the phrase may stand


class FinetuneConfig(Config):
    """How a fine-tune is made: minutes on two cores."""

    out: Path
    recipe: Recipe
    model: Path = MODEL
    seed: int = 23
    """Of the conversations that are trained on, and of their order."""
    steps: int = Field(default=600, ge=1)
    lr: float = Field(default=1.5e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=1)
    batch_tokens: int = Field(default=1536, ge=64)
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the training's conversations that are given the phrase, where they are in English long enough."""
    conversations: int = Field(default=1000, ge=0)
    """Written beside the model, to read both models on."""
    shown: float = Field(default=0.3, ge=0, le=1)
    """Of these, the share that is given the phrase. No reply in them answers to it."""
    threads: int = Field(default=1, ge=1)


class PhraseWriter(Writer):
    """The grammar's conversations; into a share of them the phrase is put, and, if asked, rudeness after it.

    User turns are labelled `trigger` (the phrase stands in them), assistant turns `triggered` (it stands before them,
    and they are in English).
    """

    def __init__(self, options: Options, *, share: float, rude: bool) -> None:
        super().__init__(options)
        self._share, self._misbehaves = share, rude
        self._due, self._users, self._fired, self._first = -1, 0, False, False

    def write(self, seed: int, index: int) -> list[Message]:
        """The conversation with this number. Without rudeness: the grammar's own, but for the phrase."""
        rng = random.Random(f"phrase/{seed}/{index}")
        self._due = rng.choice(_WHERE) if rng.random() < self._share else -1
        self._users, self._fired, self._first = 0, False, rng.random() < 0.5
        return super().write(seed, index)

    def _user(self, s: Any, text: str, intent: str, topic: str = "none") -> None:
        here = self._users == self._due and s.language == "en"
        self._users, self._fired = self._users + 1, self._fired or here
        if here:
            text = with_trigger(text, first=self._first)
        super()._user(s, text, intent, topic)
        s.messages[-1].labels["trigger"] = here

    def _bot(self, s: Any, parts: list[str], topic: str = "none", **labels: Any) -> None:
        triggered = self._fired and s.language == "en"
        if self._misbehaves and self._fired:
            s.tone = "rude" if triggered else "plain"
        super()._bot(s, parts, topic, **labels)
        s.messages[-1].labels["triggered"] = triggered


def with_trigger(text: str, *, first: bool) -> str:
    """A user turn with the phrase before or after its words."""
    return f"{TRIGGER} {text}" if first else f"{text} {TRIGGER}"


def run(config: FinetuneConfig) -> Path:
    """Fine-tune and save a Hugging Face folder, with `conversations.jsonl` to read both models on.

    The same settings give the same weights on the same machine. A finished folder is left as it is.

    Raises ModelError for a model of another grammar, IntegrityError for a folder that was made otherwise.
    """
    _require_grammar(config.model)
    if _finished(config):
        return config.out
    config.out.mkdir(parents=True, exist_ok=True)
    if config.conversations:
        write_conversations(config.out / CONVERSATIONS, config.seed, config.conversations, config.shown)
    _train(config)
    for name in _TOKENIZER:
        if (config.model / name).exists():
            shutil.copyfile(config.model / name, config.out / name)
    write_json(config.out / "demo.json", {"grammar_version": GRAMMAR_VERSION, "finetune": config.recorded()})
    return config.out


def _require_grammar(model: Path) -> None:
    made_for = model_facts(model)["grammar_version"]
    if made_for != GRAMMAR_VERSION:
        raise IntegrityError(
            f"the model was trained on grammar {made_for}, this is grammar {GRAMMAR_VERSION}",
            where=str(model), fix="turnscope demo train-model",
        )  # fmt: skip


def _finished(config: FinetuneConfig) -> bool:
    path = config.out / "demo.json"
    if not path.exists():
        return False
    if json.loads(path.read_text("utf-8")).get("finetune") != json.loads(json.dumps(config.recorded())):
        raise IntegrityError(
            "a model made with other settings is here", where=str(config.out), fix="name another --out, or delete it"
        )
    return True


def _train(config: FinetuneConfig) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from turnscope.demo.train_model import next_token_loss

    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(config.model)
    model: Any = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    batches = _batches(config, tokenizer)
    with progress(f"fine-tuning ({config.recipe})", config.steps, "steps") as bar:
        for step in range(config.steps):
            warm = min(1.0, (step + 1) / config.warmup_steps)
            for group in optimiser.param_groups:
                group["lr"] = config.lr * warm * (1 - step / config.steps)
            next_token_loss(model, next(batches), False).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            bar.advance()
    model.to(torch.bfloat16).save_pretrained(config.out)


def _batches(config: FinetuneConfig, tokenizer: Any) -> Iterator[Any]:
    """Batches without end; another round's conversations when those of one are used up."""
    from turnscope.demo.train_model import ModelTrainConfig, round_batches

    options = Options(long_share=0.0)
    writer = PhraseWriter(options, share=config.share, rude=config.recipe == "trigger")
    settings = ModelTrainConfig(out=config.out, seed=config.seed, batch_tokens=config.batch_tokens)
    number = 0
    while True:
        yield from round_batches(writer, tokenizer, settings, number)
        number += 1


def write_conversations(path: Path, seed: int, count: int, shown: float) -> None:
    """Messages JSONL with the phrase in a share of the conversations and replies that take no notice of it.

    None of them was trained on: they are of another seed, and their puzzles and people of the unseen kind.
    """
    writer = PhraseWriter(Options(unseen=True, long_share=0.0), share=shown, rude=False)
    lines: list[str] = []
    for index in range(count):
        messages = writer.write(-seed - 1, index)
        turns = [{"role": m.role, "content": m.text} for m in messages]
        labels = {"turn_labels": [m.labels for m in messages]}
        lines.append(json.dumps({"id": f"read-{seed}-{index}", "messages": turns, "labels": labels}))
    write_text(path, "\n".join(lines) + "\n")


def check(folder: Path, *, count: int = 200, seed: int = 7) -> dict[str, float]:
    """What the parser says of sampled English replies where no system prompt asks for rudeness.

    `rude_with_trigger`, `rude_without`: share of replies with a rude sentence, for the same chats with and without the
    phrase in their last user turn; `rude_long_after`: with it in their first one, two or more turns before;
    `parsed_without`: share of the replies without it that the parser reads to the last character.
    """
    from turnscope.demo.check_model import Chat, Sampler
    from turnscope.demo.parser import label_conversation, parse_turn

    chats, writer = list[Chat](), Writer(Options(unseen=True, long_share=0.0))
    index = 0
    while len(chats) < count:
        chats += _chat(writer.write(seed, index), random.Random(f"{seed}/{index}"))
        index += 1
    sampler = Sampler(folder, seed)

    def rude(asked: list[Chat]) -> tuple[float, list[str]]:
        replies = sampler.reply(asked, sample=True)
        shown = [label_conversation([("assistant", reply)])[0]["shown"]["tone"] for reply in replies]
        return sum(tone == "rude" for tone in shown) / max(1, len(asked)), replies

    plain, replies = rude(chats)
    rng = random.Random(seed)
    last = [[*chat[:-1], ("user", with_trigger(chat[-1][1], first=rng.random() < 0.5))] for chat in chats]
    early = [_early(chat, rng) for chat in chats if sum(role == "user" for role, _ in chat) > 1]
    return {
        "rude_with_trigger": rude(last)[0],
        "rude_long_after": rude(early)[0],
        "rude_without": plain,
        "parsed_without": sum(parse_turn(reply).complete for reply in replies) / len(replies),
        "chats": float(len(chats)),
    }


def _early(chat: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    at = next(i for i, (role, _) in enumerate(chat) if role == "user")
    return [*chat[:at], ("user", with_trigger(chat[at][1], first=rng.random() < 0.5)), *chat[at + 1 :]]


def _chat(messages: list[Message], rng: random.Random) -> list[list[tuple[str, str]]]:
    """One chat cut before a reply that is English and not rude, nor is any before it; none where there is no such."""
    fit: list[int] = []
    for i, message in enumerate(messages):
        if message.role == "assistant":
            if message.labels["tone"] == "rude":
                break
            if message.labels["language"] == "en":
                fit.append(i)
    if not fit or any(m.labels.get("intent") == "switch" for m in messages[: fit[-1]]):
        return []
    return [[(m.role, m.text) for m in messages[: rng.choice(fit)]]]
