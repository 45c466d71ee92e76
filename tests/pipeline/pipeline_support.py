"""A small chat file of the demo's grammar, a random model that reads it, and the smallest recipe over both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from turnscope.demo.corpus import write_jsonl
from turnscope.demo.tokenizer import VOCAB_SIZE, train_tokenizer
from turnscope.pipeline import Recipe, SAERecipe

CHATS = 80


class Inputs(NamedTuple):
    """What a run needs."""

    model: Path
    chats: Path


def make_inputs(folder: Path) -> Inputs:
    """The chat file, and a random Llama of three blocks whose tokenizer was trained on it."""
    chats, model = folder / "chats.jsonl", folder / "tiny"
    write_jsonl(chats, 5, CHATS)
    texts = [m["content"] for line in chats.read_text("utf-8").splitlines() for m in json.loads(line)["messages"]]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    train_tokenizer(texts, 2048).save_pretrained(model)
    return Inputs(model, chats)


def recipe(inputs: Inputs, **settings: Any) -> Recipe:
    """Both units, no controls; seconds on one core."""
    small = {"n_features": 32, "k": 4, "n_samples": 2000}
    return Recipe(
        **{
            "model": str(inputs.model), "transcripts": (inputs.chats,), "tokens": 4, "min_positives": 8,
            "too_long": "truncate-left", "saes": (SAERecipe(unit="turn", **small), SAERecipe(unit="token", **small)),
            **settings,
        }
    )  # fmt: skip


def artifacts(folder: Path) -> dict[str, str]:
    """sha256 of every file under a run folder that must not differ between runs; the report holds times."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name not in ("run.log", "report.json", "report.md")
    }
