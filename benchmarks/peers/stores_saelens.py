"""SAELens: `ActivationsStore`, over HookedTransformer (its default) and over a transformers model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from peers.bare import CONTEXT, ROWS, cut_rows, load
from peers.job import StoreJob
from sae_lens.load_model import HookedProxyLM
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoConfig, AutoTokenizer

TRAIN_BATCH = 2048


def hooked_transformer(job: StoreJob) -> Iterator[Any]:
    """Random weights of the same shape: its loader knows models of the hub by name only."""
    lm = AutoConfig.from_pretrained(job.model)
    config = HookedTransformerConfig(
        n_layers=lm.num_hidden_layers, d_model=lm.hidden_size, n_ctx=lm.max_position_embeddings,
        d_head=lm.hidden_size // lm.num_attention_heads, n_heads=lm.num_attention_heads,
        n_key_value_heads=lm.num_key_value_heads, d_mlp=lm.intermediate_size, d_vocab=lm.vocab_size, act_fn="silu",
        gated_mlp=True, normalization_type="RMS", positional_embedding_type="rotary",
        rotary_dim=lm.hidden_size // lm.num_attention_heads, final_rms=True, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(job.model))
    return batches(model, config.d_model, f"blocks.{job.block}.hook_resid_post", tokenised(job))


def transformers_model(job: StoreJob) -> Iterator[Any]:
    model = proxy(job)
    return batches(model, model.model.config.hidden_size, f"model.layers.{job.block}", tokenised(job))


def chat_template(job: StoreJob) -> Iterator[Any]:
    """Over a transformers model, rendering and tokenising chats as it goes."""
    chats = [json.loads(line) for line in Path(job.chats).read_text(encoding="utf-8").splitlines()]
    model = proxy(job)
    dataset = datasets.Dataset.from_list(chats)
    return batches(model, model.model.config.hidden_size, f"model.layers.{job.block}", dataset, chat=True)


def proxy(job: StoreJob) -> HookedProxyLM:
    hook_names = [f"model.layers.{job.block}"]
    return HookedProxyLM(load(job.model), AutoTokenizer.from_pretrained(job.model), hook_names=hook_names)


def tokenised(job: StoreJob) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"input_ids": cut_rows(Path(job.ids)).tolist()})


def batches(model: Any, d_model: int, hook: str, dataset: datasets.Dataset, *, chat: bool = False) -> Iterator[Any]:
    """With a buffer of the default 20 contexts."""
    store = ActivationsStore(
        model=model, dataset=dataset, streaming=False, hook_name=hook, hook_head_index=None, context_size=CONTEXT,
        d_in=d_model,
        n_batches_in_buffer=20, total_training_tokens=1, store_batch_size_prompts=ROWS,
        train_batch_size_tokens=TRAIN_BATCH, prepend_bos=False, normalize_activations="none",
        device=torch.device("cpu"), dtype="float32", use_chat_formatting=chat,
    )  # fmt: skip
    while True:
        yield next(store)
