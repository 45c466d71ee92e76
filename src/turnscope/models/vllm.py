"""Reading the residual stream out of vLLM, behind the protocol that the transformers path keeps.

vLLM's own extraction of hidden states is used (``extract_hidden_states``, by its ``ExampleHiddenStatesConnector``): the
states of each prompt are written to a safetensors file, whose path comes with the prompt's output. Nothing else of vLLM
is reached into. Prompts go in as token ids and no text comes back; prefixes are not cached and prefills not cut into
chunks, since the states of what is left out or cut would be missing. Every file is held to its prompt: the same token
ids in the same order, a state for each.

Shapes: B batch, T tokens, n tokens of one sequence, K layers asked for, D model width.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError, DependencyError, ModelError, file_sha256
from turnscope.models import _hf
from turnscope.models._folders import find_folder, weight_files
from turnscope.models.load import DTYPES, fingerprints, loading
from turnscope.models.site import Site

_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector"
_MEMORY = Path("/dev/shm")  # where files cost no disk


@dataclass(frozen=True, eq=False)
class VLLMSubject:
    """A model that vLLM runs; attributes as those of :class:`turnscope.models.subject.SubjectModel`.

    Attributes:
        sites: where this engine reads, from the lowest block up, as vLLM gives them: it is told when it starts.
    """

    name: str
    tokenizer: _hf.Tokenizer = field(repr=False)
    n_blocks: int
    d_model: int
    context: int
    fingerprint: str
    tokenizer_fingerprint: str
    template_fingerprint: str
    sites: tuple[Site, ...]
    _engine: Any = field(repr=False)
    _folder: tempfile.TemporaryDirectory[str] = field(repr=False)
    is_encoder: bool = False
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    supports_packing: bool = True

    @property
    def pad_id(self) -> int:
        """Token written into padding, which vLLM never sees."""
        return self.tokenizer.pad_token_id or 0

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Raises ConfigError for a site that was not named when the engine was started."""
        for site in sites:
            if site not in self.sites:
                raise ConfigError(f"vLLM was not started to read {site}", fix="name every site when it is loaded")

    def capture(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The activations of rows padded on the right: ``resid_BTD`` by site, on the CPU; zeros at padding."""
        lengths = attention_mask_BT.sum(1).tolist()
        rows = self._read([row[:n].tolist() for row, n in zip(input_ids_BT, lengths, strict=True)], sites)
        found: dict[Site, Tensor] = {}
        for site, states in rows.items():
            resid_BTD = states[0].new_zeros((*input_ids_BT.shape, self.d_model))
            for row_TD, state_nD in zip(resid_BTD, states, strict=True):
                row_TD[: len(state_nD)] = state_nD
            found[site] = resid_BTD
        return found

    def capture_packed(self, ids_T: Tensor, lengths: Sequence[int], sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The activations of sequences laid end to end, each read as a prompt of its own: ``resid_1TD`` by site."""
        rows = self._read([ids_n.tolist() for ids_n in ids_T.split(list(lengths))], sites)
        return {site: torch.cat(states)[None] for site, states in rows.items()}

    def _read(self, prompts: Sequence[list[int]], sites: Sequence[Site]) -> dict[Site, list[Tensor]]:
        """``state_nD`` of every prompt, in order, by site.

        Raises ModelError where vLLM stops, or gives states of other tokens than it was given, or not of all.
        """
        self.check_sites(sites)
        vllm = importlib.import_module("vllm")
        asked = vllm.SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
        try:
            outputs = self._engine.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
        except Exception as error:  # of whatever class: the engine's process may have died
            raise ModelError(
                f"vLLM stopped: {_hf.first_line(error)}", where=self.name, fix="run the same command again"
            ) from error
        read: dict[Site, list[Tensor]] = {site: [] for site in sites}
        for ids, output in zip(prompts, outputs, strict=True):
            state_nKD = self._load(ids, output)
            for site in sites:
                read[site].append(state_nKD[:, self.sites.index(site)])
        return read

    def _load(self, ids: list[int], output: Any) -> Tensor:
        """One prompt's file, which is removed."""
        path = (output.kv_transfer_params or {}).get("hidden_states_path")
        if not path:
            raise ModelError("vLLM gave no hidden states with its output", where=self.name, fix=_FIX)
        found = importlib.import_module(_CONNECTOR).load_hidden_states(path)
        for file in (Path(path), Path(f"{path}.lock")):
            file.unlink(missing_ok=True)
        state_nKD: Tensor = found["hidden_states"]
        wanted = (len(ids), len(self.sites), self.d_model)
        if tuple(state_nKD.shape) != wanted or found["token_ids"].tolist() != ids:
            raise ModelError(
                f"vLLM gave states {tuple(state_nKD.shape)} where {wanted} were wanted, or of other tokens",
                where=self.name,
                fix=_FIX,
            )
        return state_nKD


_FIX = "use --backend transformers, and tell us the version of vLLM"


def load_vllm(
    name_or_path: str, sites: Sequence[Site], *, dtype: str, device: str, trust_remote_code: bool = False
) -> VLLMSubject:
    """Start vLLM on a causal language model, named as for :func:`turnscope.models.load.load_subject`.

    Raises:
        ConfigError: a site other than ``resid.L``; a device other than ``cuda``.
        ModelError: the model cannot be found or read, or vLLM cannot run it so.
        DependencyError: vLLM is missing.
    """
    if find_spec("vllm") is None:
        raise DependencyError("--backend vllm needs the package vllm", fix='pip install "turnscope[vllm]"')
    if device != "cuda":
        raise ConfigError(f"vLLM reads hidden states on a GPU, not on {device}", fix="--device cuda")
    for site in sites:
        if site.kind != "resid":
            raise ConfigError(
                f"vLLM cannot read {site}: it gives what blocks return", fix="use resid.L, or --backend transformers"
            )
    sites = sorted(set(sites), key=lambda site: site.block)
    folder = find_folder(name_or_path, with_code=trust_remote_code)
    with loading(folder):
        config = _hf.read_config(folder.path, trust_remote_code=trust_remote_code)
        tokenizer = _hf.read_tokenizer(folder.path, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    n_blocks, positions = int(text.num_hidden_layers), getattr(text, "max_position_embeddings", None)
    if _hf.is_masked_lm(config) or getattr(config, "is_encoder_decoder", False) or not positions:
        raise ModelError(f"{name_or_path} is no decoder with a context of its own", fix="use --backend transformers")
    if beyond := [str(site) for site in sites if site.block >= n_blocks]:
        raise ConfigError(
            f"site {beyond[0]} is not in the model: it has {n_blocks} blocks",
            fix=f"use resid.0 to resid.{n_blocks - 1}",
        )
    files = weight_files(folder)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="fingerprint") as pool:
        hashes = pool.map(file_sha256, files)  # at work while vLLM loads the same files
        states = tempfile.TemporaryDirectory(prefix="turnscope-vllm-", dir=_MEMORY if _MEMORY.is_dir() else None)
        engine = _start(folder.path, sites, Path(states.name), int(positions), dtype, trust_remote_code)
        weights = {path.name: sha256 for path, sha256 in zip(files, hashes, strict=True)}
    whole, tokenizer_print, template_print = fingerprints(folder.path, tokenizer, weights)
    return VLLMSubject(
        name=folder.name,
        tokenizer=tokenizer,
        n_blocks=n_blocks,
        d_model=int(text.hidden_size),
        context=int(positions) - 1,  # vLLM keeps a place for the token that it must generate
        fingerprint=whole,
        tokenizer_fingerprint=tokenizer_print,
        template_fingerprint=template_print,
        sites=tuple(sites),
        _engine=engine,
        _folder=states,
    )


def _start(model: Path, sites: Sequence[Site], states: Path, context: int, dtype: str, trust_remote_code: bool) -> Any:
    """The engine. Layer L + 1 of vLLM's extraction is what block L returns, before the final norm."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # or vLLM reports what it runs on to its makers
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    layers = [site.block + 1 for site in sites]
    try:
        vllm = importlib.import_module("vllm")
        transfer = importlib.import_module("vllm.config.kv_transfer").KVTransferConfig
        importlib.import_module(_CONNECTOR)
        return vllm.LLM(
            model=str(model),
            dtype=str(DTYPES[dtype]).removeprefix("torch."),
            load_format="safetensors",
            max_model_len=context,
            trust_remote_code=trust_remote_code,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
            enforce_eager=True,
            speculative_config={
                "method": "extract_hidden_states",
                "num_speculative_tokens": 1,
                "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}},
            },
            kv_transfer_config=transfer(
                kv_connector="ExampleHiddenStatesConnector",
                kv_role="kv_producer",
                kv_connector_extra_config={"shared_storage_path": str(states)},
            ),
        )
    except ImportError as error:
        raise DependencyError(
            f"this vLLM does not give hidden states: {_hf.first_line(error)}", fix='pip install "turnscope[vllm]"'
        ) from error
    except Exception as error:  # any class: vLLM has its own, and passes on those of CUDA
        raise ModelError(
            f"vLLM cannot read {model.name}: {_hf.first_line(error)}", fix="use --backend transformers"
        ) from error
