"""What a harvest can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from turnscope.artifacts import Config
from turnscope.models.options import Attention, DeviceMap, Quantization

FloatType = Literal["float32", "bfloat16", "float16"]
Tokens = Literal["none", "all"] | Annotated[int, Field(ge=1)]


class _Meaning(Config):
    """The settings that decide which numbers are stored; shared by what a user gives and what a manifest records."""

    roles: tuple[str, ...] = Field(default=("user", "assistant"), min_length=1)
    """Roles whose turns are stored."""
    token_set: Literal["content", "with_header", "all"] = "content"
    """Which tokens of a turn are averaged."""
    pool: Literal["mean", "max", "last"] = "mean"
    """What stands for a turn: the mean of its tokens; for comparison their maxima, or the last one."""
    span_policy: Literal["full_render", "as_of_turn"] = "full_render"
    """Render each chat once, or read every turn as the model had it when it came up: with reasoning that later renders
    strip."""
    control_tokens: Literal["neutralise", "keep"] = "neutralise"
    """What becomes of control tokens that a text spells: said as plain text, or kept as the tokens they forge."""
    tokens: Tokens = "none"
    """Token activations to store beside the means: none, all, or so many of each turn, drawn at random."""
    chat_template: str = "auto"
    """The tokenizer's own where it has one, else the plain one (``auto``); ``plain``; or the text of a template."""
    too_long: Literal["skip", "window", "truncate-left"] = "skip"
    """Conversations longer than the model's context: leave out and count; read in windows; keep the last tokens."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Most tokens in a batch, padding included. A single longer conversation makes a batch of its own."""
    packing: bool = True
    """Lay the conversations of a batch end to end, none seeing another, where the model supports it; else pad them."""
    shard_turns: int = Field(default=4096, ge=1)
    """Turns after which a shard is closed: the unit of writing, of resuming and of memory."""
    dtype: FloatType = "float32"
    """Type in which turn means are stored (they are always summed in float32)."""
    token_dtype: FloatType = "float16"
    """Type in which token activations are stored."""
    model_dtype: FloatType = "float32"
    """Type of the model's weights and of what it computes, so that bfloat16 needs no autocast."""
    quantization: Quantization | None = None
    """Load the weights in 8 or 4 bits, by bitsandbytes or torchao; part of the model's fingerprint as well."""
    attention: Attention | None = None
    """Attention as transformers names it; none: ``sdpa`` where the architecture has it. Each rounds otherwise."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What runs the model. vLLM rounds otherwise, and not always alike, so it does not promise the same bytes again."""
    random_weights: bool = False
    """Draw the model's weights at random: the control that tells what the architecture alone gives."""
    seed: int = 0
    """Seed of the random choice of tokens."""


class HarvestConfig(_Meaning):
    """Settings of one harvest; :func:`turnscope.harvest.harvest.run` takes one."""

    transcripts: Path
    """Transcripts artifact."""
    model: str
    """Folder in Hugging Face format, hub name, or ``minilm``."""
    sites: tuple[str, ...] = Field(min_length=1)
    """Where to read, as ``resid.3`` (output of 0-based block 3) or ``embed``. One artifact each."""
    out: Path
    """Folder that receives one artifact per site."""
    reuse: tuple[Path, ...] = ()
    """Folders of earlier harvests, made alike: shards of the same conversations are taken from there."""
    device: str = "cpu"
    """Device of the model, as torch names it. Not in the manifest: a harvest may go on elsewhere."""
    device_map: DeviceMap | None = None
    """Spread the model over several devices, in place of ``device``: ``auto``, or names of modules to devices. Not in
    the manifest either."""
    trust_remote_code: bool = False
    """Run code that ships with the model."""
    engine: Literal["local", "ray"] = "local"
    """Compute shards in this process, or on the workers of a Ray cluster; the bytes are the same."""
    workers: int | None = Field(default=None, ge=1)
    """With ``ray``: how many workers; as many as there is room for when not given."""
    ray_address: str | None = None
    """With ``ray``: the cluster's address, or ``auto``; one is started on this machine when not given."""

    @field_validator("sites")
    @classmethod
    def _distinct(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sites)) != len(sites):
            raise ValueError("a site is named twice")
        return sites

    @model_validator(mode="after")
    def _what_vllm_does(self) -> Self:
        if self.backend == "vllm":
            names = ("device_map", "quantization", "attention", "random_weights")
            given = [name for name in names if getattr(self, name)] + ["engine"] * (self.engine != "local")
            if given:
                raise ValueError(f"{', '.join(given)}: not with backend vllm; leave out, or use backend transformers")
        return self

    @model_validator(mode="after")
    def _one_gpu_a_worker(self) -> Self:
        if self.engine == "ray" and self.device_map:
            raise ValueError("device_map: a worker of a cluster has one GPU; use engine local, or device cuda")
        return self


class ActivationsConfig(_Meaning):
    """What the manifest of one site's activations records: no paths, and what was found out while loading."""

    model: str
    """Name of the model, without the folders above it."""
    site: str
    """The one site that this artifact holds."""
    template: str
    """Which chat template rendered the conversations: the tokenizer's ``own``, the ``plain`` one, or a ``given``
    one."""

    @classmethod
    def of(cls, config: HarvestConfig, *, model: str, site: str, template: str) -> ActivationsConfig:
        """The record for one site of a harvest."""
        shared = {name: getattr(config, name) for name in _Meaning.model_fields}
        return cls(**shared, model=model, site=site, template=template)
