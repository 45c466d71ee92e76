"""The yardstick of every activation store: a model's bare forward passes over full rows, stopped at its block.

Runs in every environment: needs torch and transformers only.

Legend: B rows, T tokens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

CONTEXT = 512
ROWS = 16


class StopError(Exception):
    """Ends a forward pass."""


def load(model: str) -> Any:
    """The model in float32."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().requires_grad_(False)


def cut_rows(ids: Path) -> Tensor:
    """All chats one after another, cut into rows (B, T) wherever a row is full."""
    flat = [token for chat in json.loads(ids.read_text()) for token in chat]
    n_rows = max(ROWS, len(flat) // CONTEXT)
    endless = itertools.islice(itertools.cycle(flat), n_rows * CONTEXT)
    return torch.tensor(list(endless)).view(n_rows, CONTEXT)


class Bare:
    """Forward passes over such rows, 16 at a time, in which nothing is kept."""

    def __init__(self, model: str, ids: Path, block: int) -> None:
        self._model, self._rows_BT = load(model), cut_rows(ids)
        self._model.model.layers[block].register_forward_hook(self._stop)

    def _stop(self, *_: Any) -> None:
        raise StopError

    @torch.no_grad()
    def rate(self, n_tokens: int) -> float:
        """Tokens per second over at least so many."""
        done, start = 0, time.perf_counter()
        for rows_BT in itertools.cycle(self._rows_BT.split(ROWS)):
            with contextlib.suppress(StopError):
                self._model(input_ids=rows_BT, use_cache=False)
            done += rows_BT.numel()
            if done >= n_tokens:
                break
        return done / (time.perf_counter() - start)


class TokensSeen:
    """Counts tokens that go into embeddings, without padding; what a store serves from a buffer is not counted."""

    def __init__(self, pad_id: int) -> None:
        self.count, self._pad_id = 0, pad_id
        nn.modules.module.register_module_forward_pre_hook(self._look)

    def _look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if type(module).__name__ not in ("Embedding", "Embed") or not inputs:
            return
        ids = inputs[0]
        if isinstance(ids, Tensor) and not ids.is_floating_point() and ids.dim() == 2:
            self.count += int((ids != self._pad_id).sum())
