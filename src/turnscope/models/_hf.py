"""The one typed door to transformers and huggingface_hub, which are only partly typed.

Everything here works on a folder; :func:`fetch` turns a hub name into one.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn


class Tokenizer(Protocol):
    """What Turnscope asks of a Hugging Face tokenizer."""

    chat_template: str | None
    bos_token_id: int | None
    pad_token_id: int | None

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def __len__(self) -> int: ...
    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...
    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str: ...
    def get_vocab(self) -> dict[str, int]: ...


def fetch(name: str, *, with_code: bool) -> Path:
    """The local snapshot of a hub model, downloaded unless cached. Raises OSError or ValueError when it cannot be
    had.
    """
    from huggingface_hub import snapshot_download

    # "*/*" leaves out copies for other frameworks, which live in subfolders (onnx/, original/).
    patterns = [
        "*.json",
        "*.safetensors",
        "*.model",
        "*.jinja",
        "*.txt",
        *(["*.py"] if with_code else []),
    ]
    return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]))


def read_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """The PretrainedConfig of a folder."""
    from transformers import AutoConfig

    return cast(Any, AutoConfig).from_pretrained(folder, trust_remote_code=trust_remote_code)


def read_tokenizer(folder: Path, *, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer of a folder, the fast one where there is one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ValueError(str(error)) from error  # the tokenizers library raises bare Exceptions
    return cast(Tokenizer, tokenizer)


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text when asked for special tokens, as ([CLS], [SEP])."""
    bare: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole: list[int] = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def is_masked_lm(config: Any) -> bool:
    """True for BERT-like encoders: the model type has a masked language model and the config does not make it a
    decoder.
    """
    from transformers.models.auto import modeling_auto

    names = cast("dict[str, str]", cast(Any, modeling_auto).MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    causal = any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in (config.architectures or []))
    return config.model_type in names and not getattr(config, "is_decoder", False) and not causal


def read_model(
    folder: Path,
    config: Any,
    *,
    encoder: bool,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> tuple[nn.Module, list[str]]:
    """The pretrained model and the names of weights that its files lack (left at random values by transformers)."""
    import transformers

    auto = cast(Any, transformers.AutoModel if encoder else transformers.AutoModelForCausalLM)
    model, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    return cast(nn.Module, model), sorted(info["missing_keys"])


def build_model(
    config: Any,
    *,
    encoder: bool,
    dtype: torch.dtype,
    seed: int,
    trust_remote_code: bool,
) -> nn.Module:
    """A model with random weights: the same for the same config and seed, whatever the global generator holds."""
    import transformers

    auto = cast(Any, transformers.AutoModel if encoder else transformers.AutoModelForCausalLM)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config, trust_remote_code=trust_remote_code)
    return cast(nn.Module, model.to(dtype))


def config_facts(folder: Path) -> dict[str, Any]:
    """config.json without the fields that say who wrote it, so that re-saving a model leaves its fingerprint alone."""
    facts = cast(
        "dict[str, Any]",
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
    )
    for name in ("transformers_version", "_name_or_path"):
        facts.pop(name, None)
    return facts


def load_errors() -> tuple[type[Exception], ...]:
    """What transformers and safetensors raise for a model that is absent, torn or unknown."""
    import huggingface_hub.errors
    from safetensors import SafetensorError

    # What huggingface_hub raises for a config field of the wrong type; older ones have no such check.
    strict = cast("type[Exception]", getattr(huggingface_hub.errors, "StrictDataclassError", OSError))
    wrong = (TypeError, AttributeError)  # a field that older ones let through
    return (OSError, ValueError, RuntimeError, KeyError, ImportError, *wrong, strict, cast(Any, SafetensorError))


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep transformers' loading bars and reports off the terminal; our own errors say what matters."""
    from transformers.utils import logging as hf_logging

    log = cast(Any, hf_logging)
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
