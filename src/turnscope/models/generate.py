"""Letting the subject write: batches of prompts, padded on the left, keys and values cached.

Legend: B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError, ModelError
from turnscope.models._hf import first_line
from turnscope.models.sampling import Sampling
from turnscope.models.subject import SubjectModel

Message = Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """What the model wrote. `ended`: it stopped by itself and was not cut."""

    text: str
    n_tokens: int
    ended: bool


def generate(
    subject: SubjectModel,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    template: str,
    draw: int = 0,
    batch: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> list[Reply]:
    """One reply to each prompt, in order.

    The same prompts, settings, `draw` and `batch` give the same replies on one machine; the generator of the process is
    left as it was. Special tokens are not part of the text.

    Args:
        subject: a decoder with its tokenizer.
        prompts: `role` and `content` of each message; the last one is the user's.
        sampling: how tokens are drawn.
        template: the chat template, as `choose_template` gives it.
        draw: told apart from other calls with the same seed.
        batch: prompts that run at once.
        on_batch: told how many are done.

    Raises:
        ConfigError: a prompt and its reply do not fit the context, or the template refuses the prompt.
        ModelError: the model writes no text, or its logits are not finite.
    """
    if subject.is_encoder or not hasattr(subject.model, "generate"):
        raise ModelError(f"{subject.name} writes no text", fix="name a causal language model")
    ids = [_encode(subject, prompt, template) for prompt in prompts]
    longest = max(map(len, ids), default=0)
    if longest + sampling.max_new_tokens > subject.context:
        raise ConfigError(
            f"a prompt of {longest:,} tokens and {sampling.max_new_tokens:,} new ones do not fit the model's "
            f"context of {subject.context:,}",
            fix="lower max_new_tokens, or shorten the prompts",
        )
    replies: list[Reply] = []
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        replies += _write(subject, part, sampling, (draw, start))
        if on_batch:
            on_batch(len(part))
    return replies


def render_prompt(tokenizer: Any, messages: Sequence[Message], template: str) -> str:
    """The prompt as text, up to where the assistant begins. Raises ConfigError when the template refuses it,
    or a message spells one of the tokenizer's control tokens, which would forge the end of a turn.
    """
    added = getattr(tokenizer, "get_added_vocab", dict)()
    forged = next((token for token in added if token.strip() and any(token in m["content"] for m in messages)), None)
    if forged is not None:
        raise ConfigError(f"a prompt spells the control token {forged!r}", fix="take it out of the prompt or question")
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # jinja's own errors, and whatever a template raises
        raise ConfigError(
            f"the chat template refuses the prompt: {first_line(error)}", fix="choose another chat template"
        ) from error


def folded(messages: Sequence[Message]) -> list[Message]:
    """The same messages with the system prompt at the head of the first user message, for templates without a system
    role.
    """
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def knows_system(tokenizer: Any, template: str) -> bool:
    """Whether a chat template renders system prompts: it takes one, and its words come out."""
    mark = "zq7 system words"
    try:
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "Hello."}]
        return mark in str(
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except Exception:  # noqa: BLE001 - whatever a template raises: it takes no system role
        return False


def stop_tokens(subject: SubjectModel) -> list[int]:
    """Tokens that end a reply: those the model names, and the tokenizer's end of text."""
    named: Any = getattr(getattr(subject.model, "generation_config", None), "eos_token_id", None)
    ids = list(cast("Sequence[int]", named)) if isinstance(named, list | tuple) else [] if named is None else [named]
    own = getattr(subject.tokenizer, "eos_token_id", None)
    return sorted({int(each) for each in ids} | ({int(own)} if own is not None else set()))


def _encode(subject: SubjectModel, prompt: Sequence[Message], template: str) -> list[int]:
    text = render_prompt(subject.tokenizer, prompt, template)
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def _write(
    subject: SubjectModel, ids: Sequence[Sequence[int]], sampling: Sampling, draw: tuple[int, int]
) -> list[Reply]:
    from transformers import GenerationConfig

    width, stops = max(map(len, ids)), stop_tokens(subject)
    ids_BT = torch.full((len(ids), width), subject.pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(ids), width), dtype=torch.long)
    for b, row in enumerate(ids):
        ids_BT[b, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask_BT[b, width - len(row) :] = 1
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, eos_token_id=stops or None, pad_token_id=subject.pad_id,
        num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True, **drawn,
    )  # fmt: skip
    devices = [subject.device] if subject.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(_mixed(sampling.seed, *draw))
        try:
            out_BT: Tensor = cast(Any, subject.model).generate(
                input_ids=ids_BT.to(subject.device), attention_mask=mask_BT.to(subject.device), generation_config=config
            )
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise ModelError("the model's logits are not finite", fix="use model_dtype float32 or bfloat16") from error
    return [_reply(subject, row, stops) for row in out_BT[:, width:].tolist()]


def _reply(subject: SubjectModel, row: list[int], stops: Sequence[int]) -> Reply:
    end = next((t for t, token in enumerate(row) if token in stops), None)
    kept = row if end is None else row[:end]
    return Reply(subject.tokenizer.decode(kept, skip_special_tokens=True), len(kept), end is not None)


def _mixed(*numbers: int) -> int:
    """One seed from several."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number) % (1 << 63)
    return mixed
