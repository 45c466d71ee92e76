"""dictionary_learning: its `ActivationBuffer`, over nnsight."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dictionary_learning.buffer import ActivationBuffer
from nnsight import LanguageModel
from peers.bare import CONTEXT, ROWS
from peers.job import StoreJob


def buffer(job: StoreJob) -> Iterator[Any]:
    """Chats rendered beforehand, truncated to the context; a buffer of 128 contexts."""
    model = LanguageModel(job.model, device_map="cpu", dispatch=True)
    lines = Path(job.chats).read_text(encoding="utf-8").splitlines()
    texts = [model.tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in lines]
    layer = model.model.layers[job.block]
    return iter(
        ActivationBuffer(
            itertools.cycle(texts), model, layer, d_submodule=model.config.hidden_size, n_ctxs=128, ctx_len=CONTEXT,
            refresh_batch_size=ROWS, out_batch_size=2048, device="cpu",
        )
    )  # fmt: skip
