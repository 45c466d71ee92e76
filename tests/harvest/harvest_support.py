"""A tiny chat model on disk, and transcripts without an import: what every harvest test needs."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, PreTrainedTokenizerFast

from turnscope.harvest import HarvestConfig
from turnscope.transcripts.conversation import Conversation

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIALS = ["<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
CONTEXT = 256


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIALS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>")
    tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, *, template: str | None = TEMPLATE, width: int = 16) -> Path:
    """A random Llama of three blocks with that tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2, vocab_size=263,
        max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(6)
    model.save_pretrained(folder)
    make_tokenizer(template).save_pretrained(folder)
    return folder


def make_encoder(folder: Path) -> Path:
    """A random BERT of two blocks and 64 positions, without a chat template; [CLS] and [SEP] as BERT has them."""
    from tokenizers.processors import TemplateProcessing

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=263,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer = make_tokenizer(None)
    tokenizer.add_special_tokens({"cls_token": "<|system|>", "sep_token": "<|tool|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A <|tool|>", special_tokens=[("<|system|>", 3), ("<|tool|>", 6)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def chats(n: int, seed: int = 0, *, words: int = 6) -> list[dict[str, Any]]:
    """``n`` chats as plain records: id, split and messages."""
    rng = random.Random(seed)
    lexicon = [
        "sun",
        "rain",
        "tea",
        "boat",
        "lamp",
        "seven",
        "green",
        "¿qué?",
        "木",
        "fig",
        "quartz",
        "no",
        "yes",
        "maybe",
    ]
    out: list[dict[str, Any]] = []
    for i in range(n):
        messages = [
            {"role": role, "content": " ".join(rng.choices(lexicon, k=rng.randint(1, words)))}
            for role in (["system"] if i % 5 == 0 else []) + ["user", "assistant"] * rng.randint(1, 2)
        ]
        out.append({"id": f"chat-{i:03d}", "split": ("train", "eval", "explain")[i % 3], "messages": messages})
    return out


class ListStore:
    """A transcripts store read from a JSON file."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self._conversations = [
            Conversation.from_messages(
                record["messages"], record["id"], split=record["split"], group=record.get("group", record["id"])
            )
            for record in json.loads(data)
        ]

    def __len__(self) -> int:
        return len(self._conversations)

    def __iter__(self) -> Iterator[Conversation]:
        return iter(self._conversations)


def write_chats(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def config(folder: Path, model: Path, **settings: Any) -> HarvestConfig:
    """A harvest into ``folder/out`` of the chats in ``folder/chats.json``."""
    return HarvestConfig(
        **{
            "transcripts": folder / "chats.json", "model": str(model), "sites": ("resid.1",), "out": folder / "out",
            "shard_turns": 10, **settings,
        }
    )  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every visible file under a folder, run.log aside."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.log" and not path.name.startswith(".")
    }


def plain_means(model_folder: Path, records: list[dict[str, Any]], block: int) -> dict[tuple[str, int], np.ndarray]:
    """Turn means by the plainest loop: one conversation at a time, tokens found by their text, hidden states from
    transformers.
    """
    tokenizer = make_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    out: dict[tuple[str, int], np.ndarray] = {}
    for record in records:
        ids, ranges = [1], []
        for message in record["messages"]:
            ids += tokenizer(f"<|{message['role']}|>\n")["input_ids"]
            content = tokenizer(message["content"].strip())["input_ids"]
            ranges.append((len(ids), len(ids) + len(content)))
            ids += content + tokenizer("<|end|>\n")["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[block + 1][0]
        for i, (a, b) in enumerate(ranges):
            if record["messages"][i]["role"] != "system":
                out[record["id"], i] = states[a:b].double().mean(0).numpy()
    return out
