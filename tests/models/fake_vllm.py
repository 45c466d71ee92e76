"""A stand-in for vLLM that keeps the parts of its interface that are documented for the extraction of hidden states.

https://docs.vllm.ai/en/latest/features/speculative_decoding/extract_hidden_states/ says: layer ids as `hf_config` of a
draft model, where id i is what the first i blocks make of the embedding and the last is taken before the final norm;
one safetensors file for each request with `token_ids` and `hidden_states` (tokens, layers, width); its path in
`kv_transfer_params`; read by `load_hidden_states`, which waits for it; no chunked prefill. The states come from
transformers' own `hidden_states`, not from our hooks.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector"


@dataclass
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    detokenize: bool = True


@dataclass
class KVTransferConfig:
    kv_connector: str
    kv_role: str
    kv_connector_extra_config: dict[str, Any]


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    kv_transfer_params: dict[str, Any] | None


class EngineDeadError(Exception):
    """What vLLM raises when the process of its engine is gone."""


class LLM:
    """Refuses what vLLM refuses, and what would spoil a harvest without a word."""

    started: Sequence[LLM] = ()
    fault = ""

    def __init__(self, *, model: str, max_model_len: int, kv_transfer_config: KVTransferConfig, **given: Any) -> None:
        if given["enable_chunked_prefill"] or given["enable_prefix_caching"]:
            raise ValueError("hidden states of chunks and of cached prefixes would be missing")
        if given["load_format"] != "safetensors":
            raise ValueError("pickled weights")
        asked = given["speculative_config"]
        assert (asked["method"], asked["num_speculative_tokens"]) == ("extract_hidden_states", 1)
        assert (kv_transfer_config.kv_connector, kv_transfer_config.kv_role) == (
            "ExampleHiddenStatesConnector",
            "kv_producer",
        )
        if LLM.fault == "unknown architecture":
            raise ValueError("Model does not support EAGLE3 interface")
        self.layers = set(asked["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"])
        self.folder = Path(kv_transfer_config.kv_connector_extra_config["shared_storage_path"])
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, given["dtype"])).eval()
        self.max_model_len, self.prompts = max_model_len, []
        LLM.started = [*LLM.started, self]

    def generate(
        self, prompts: list[dict[str, list[int]]], params: SamplingParams, *, use_tqdm: bool
    ) -> list[RequestOutput]:
        assert (params.max_tokens, params.detokenize, use_tqdm) == (1, False, False)
        if LLM.fault == "died":
            raise EngineDeadError("EngineCore encountered an issue.")
        outputs: dict[int, RequestOutput] = {}
        for number in sorted(range(len(prompts)), key=lambda i: -i):  # requests finish in any order
            ids = prompts[number]["prompt_token_ids"]
            if len(ids) + params.max_tokens > self.max_model_len:
                raise ValueError(f"a prompt of {len(ids)} tokens leaves no room to generate in {self.max_model_len}")
            path = self.folder / f"{len(self.prompts)}-{number}.safetensors"
            self.write(path, ids)
            outputs[number] = RequestOutput(ids, {"hidden_states_path": str(path)})
        self.prompts += [prompt["prompt_token_ids"] for prompt in prompts]
        order = sorted(outputs, reverse=LLM.fault == "order")
        if LLM.fault == "no path":
            return [RequestOutput([], None) for _ in order]
        return [outputs[number] for number in order]  # as vLLM does: in the order of the prompts

    def write(self, path: Path, ids: list[int]) -> None:
        last: list[torch.Tensor] = []
        handle = self.model.model.layers[-1].register_forward_hook(
            lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            states = self.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        handle.remove()
        states = [*states[:-1], last[0].reshape(states[-1].shape)]  # the last one is normed: taken before
        # The forward pass appends as it goes, so layers come in their own order, however they were asked for.
        found_nKD = torch.stack([state[0] for i, state in enumerate(states) if i in self.layers], dim=1)
        if LLM.fault == "cut":
            found_nKD = found_nKD[: len(ids) // 2]
        save_file({"hidden_states": found_nKD.contiguous(), "token_ids": torch.tensor(ids)}, path)
        Path(f"{path}.lock").touch()


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Make ``import vllm`` find this."""
    parts = CONNECTOR.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))] + ["vllm.config", "vllm.config.kv_transfer"]
    modules: dict[str, Any] = {}
    for name in names:
        modules[name] = types.ModuleType(name)
        modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        modules[name].__path__ = []
        monkeypatch.setitem(sys.modules, name, modules[name])
    modules["vllm"].LLM, modules["vllm"].SamplingParams = LLM, SamplingParams
    modules["vllm.config.kv_transfer"].KVTransferConfig = KVTransferConfig
    modules[CONNECTOR].load_hidden_states = load_file
    monkeypatch.setattr(LLM, "started", ())
    monkeypatch.setattr(LLM, "fault", "")
    return LLM
