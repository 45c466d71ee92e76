"""The subject: the model whose activations are read.

Shapes: B batch, T tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from turnscope.artifacts import ConfigError
from turnscope.models import packing
from turnscope.models._hf import Tokenizer
from turnscope.models.blocks import Blocks, accepted
from turnscope.models.capture import Tap, capture
from turnscope.models.neurons import find_down
from turnscope.models.site import Site
from turnscope.models.sublayers import Sublayers, find_sublayers


class Subject(Protocol):
    """What a harvest asks of a model, whatever runs it; see :class:`SubjectModel` for each."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def d_model(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def is_encoder(self) -> bool: ...
    @property
    def prefix(self) -> tuple[int, ...]: ...
    @property
    def suffix(self) -> tuple[int, ...]: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def tokenizer_fingerprint(self) -> str: ...
    @property
    def supports_packing(self) -> bool: ...
    def check_sites(self, sites: Sequence[Site]) -> None: ...
    def capture(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]: ...
    def capture_packed(self, ids_T: Tensor, lengths: Sequence[int], sites: Sequence[Site]) -> dict[Site, Tensor]: ...


@dataclass(frozen=True, eq=False)
class SubjectModel:
    """A loaded model and its tokenizer, ready to be read.

    Attributes:
        name: what the user called it, without the folders above it; for a model of the hub with the revision, as
            ``ORG/NAME@COMMIT``.
        blocks: its residual blocks.
        context: most tokens of one sequence, special tokens included.
        first_position: the position of a sequence's first token (RoBERTa and its kin count from after the padding id).
        is_encoder: BERT-like: sees both ways, and wants its special tokens around every window.
        prefix, suffix: special tokens that an encoder wants around every window ([CLS], [SEP]); empty for decoders,
            whose chat template writes its own.
        device: where token ids go in; activations come out on the device of their block.
        fingerprint: hash of config, weights, tokenizer and chat template.
        tokenizer_fingerprint, template_fingerprint: the two parts that decide where turns lie.
    """

    name: str
    model: nn.Module = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    blocks: Blocks = field(repr=False)
    context: int
    first_position: int
    is_encoder: bool
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    device: torch.device
    fingerprint: str
    tokenizer_fingerprint: str
    template_fingerprint: str
    _sublayers: dict[int, Sublayers] = field(default_factory=dict, repr=False)
    _down: dict[int, nn.Module] = field(default_factory=dict, repr=False)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.blocks.d_model

    @property
    def n_blocks(self) -> int:
        """Number of residual blocks; sites are ``resid.0`` to ``resid.{n_blocks - 1}``."""
        return len(self.blocks.items)

    @property
    def has_template(self) -> bool:
        """Whether the model came with a chat template of its own."""
        return bool(self.tokenizer.chat_template)

    @property
    def pad_id(self) -> int:
        """Token written into padding; never read, so any token of the vocabulary will do where the model names none."""
        return self.tokenizer.pad_token_id or 0

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Show that every site can be read.

        Raises:
            ConfigError: no site, or one of a block that the model lacks.
            ModelError: the attention and feed-forward parts of a block cannot be told from the rest of it.
        """
        if not sites:
            raise ConfigError("no site to read", fix="name at least one, as resid.3")
        for site in sites:
            self._tap(site)

    def capture(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The activations at several sites from one forward pass that stops after the highest one.

        Args:
            input_ids_BT: token ids, padded on the right; moved to the model's device.
            attention_mask_BT: 1 for tokens, 0 for padding.
            sites: where to read.

        Returns:
            ``resid_BTD`` by site, in the model's dtype and not copied; where the model is spread over several devices,
            each on the device of its block. Values at padding are meaningless.

        Raises:
            ConfigError, ModelError: as :meth:`check_sites`.
        """
        self.check_sites(sites)
        inputs = {
            "input_ids": input_ids_BT.to(self.device),
            "attention_mask": attention_mask_BT.to(self.device),
            **accepted(self.model, use_cache=False),  # keys and values are used once: none are kept
        }
        return capture(self.model, {site: self._tap(site) for site in sites}, inputs)

    def capture_packed(self, ids_T: Tensor, lengths: Sequence[int], sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same without padding: sequences laid end to end, none of which sees another.

        Args:
            ids_T: token ids of all sequences.
            lengths: how many of them belong to each, in order.
            sites: where to read.

        Returns:
            ``resid_1TD`` by site, as :meth:`capture`.

        Raises:
            ConfigError, ModelError: as :meth:`check_sites`. Ask :attr:`supports_packing` first: what a model that
            does not support it gives, or raises, is meaningless.
        """
        self.check_sites(sites)
        ids_1T = ids_T[None].to(self.device)
        inputs = {
            "input_ids": ids_1T,
            "attention_mask": torch.ones_like(ids_1T),
            "position_ids": packing.positions(lengths, self.first_position).to(self.device),
            **accepted(self.model, use_cache=False),
        }
        with packing.separate(self.model, lengths):
            return capture(self.model, {site: self._tap(site) for site in sites}, inputs)

    def capture_neurons(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, blocks: Sequence[int]
    ) -> dict[int, Tensor]:
        """What the neurons of several blocks give, from one forward pass: (B, T, neurons of the block) by block.

        Args:
            input_ids_BT: token ids, padded on the right.
            attention_mask_BT: 1 for tokens, 0 for padding.
            blocks: 0-based numbers, each one once.

        Raises:
            ModelError: a block whose neurons cannot be told (`models/neurons.py`).
        """
        for block in blocks:
            if block not in self._down:
                self._down[block] = find_down(self.model, self.blocks, block)
        inputs = {
            "input_ids": input_ids_BT.to(self.device),
            "attention_mask": attention_mask_BT.to(self.device),
            **accepted(self.model, use_cache=False),
        }
        taps = {Site("mlp", block): Tap(self._down[block], reads_input=True, copy=True) for block in blocks}
        return {site.block: tensor for site, tensor in capture(self.model, taps, inputs).items()}

    @property
    def supports_packing(self) -> bool:
        """Whether :meth:`capture_packed` gives what each sequence gives alone, found out by running both, once."""
        return self._packs

    @cached_property
    def _packs(self) -> bool:
        top = Site("resid", self.n_blocks - 1)

        def alone(ids_T: Tensor) -> Tensor:
            return self.capture(ids_T[None], torch.ones_like(ids_T[None]), [top])[top]

        def packed(ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
            return self.capture_packed(ids_T, lengths, [top])[top]

        return packing.packs(self.model, alone, packed)

    def _tap(self, site: Site) -> Tap:
        """Where a site is read; looked for once. Raises as :meth:`check_sites`."""
        if site.kind == "embed":
            return Tap(self.blocks.items[0], reads_input=True, copy=self.blocks.in_place)
        if site.block >= self.n_blocks:
            raise ConfigError(
                f"site {site} is not in the model: it has {self.n_blocks} blocks",
                fix=f"use {site.kind}.0 to {site.kind}.{self.n_blocks - 1}",
            )
        if site.kind == "resid":
            return Tap(self.blocks.items[site.block], copy=self.blocks.in_place)
        if site.block not in self._sublayers:
            self._sublayers[site.block] = find_sublayers(self.model, self.blocks, site.block)
        parts = self._sublayers[site.block]
        # Copied, because blocks add to these tensors in place (Falcon sums its two parts so).
        return Tap(parts.attn if site.kind == "attn" else parts.mlp, scale=parts.scale, copy=True)
