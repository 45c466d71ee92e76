"""Reading the residual stream: hooks on the blocks wanted, and a stop as soon as the last of them has spoken.

Shapes: B batch, T tokens (padded), D model width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnscope.artifacts import ConfigError, ModelError
from turnscope.models.site import Site


class _Stop(BaseException):  # a signal; BaseException, so that no model code can swallow it
    """Raised from a hook to leave the forward pass once every site has been read."""


def find_blocks(model: nn.Module, n_blocks: int | None) -> nn.ModuleList:
    """The list of residual blocks, found by structure and not by name.

    It is the shallowest ``ModuleList`` with as many items as the config has hidden layers (a list of experts may be
    longer, but lies deeper); without such a list or number, the longest one whose items share a class. Raises
    ModelError.
    """
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    named = [(name, m) for name, m in lists if len(m) == n_blocks]
    if named:
        return min(named, key=lambda pair: (pair[0].count("."), pair[0]))[1]
    alike = [m for _, m in lists if len({type(item) for item in m}) == 1]
    if not alike:
        raise ModelError(
            f"no list of residual blocks in {type(model).__name__}",
            fix="use a decoder or a BERT-like encoder",
        )
    return max(alike, key=len)


def check_sites(sites: Sequence[Site], n_blocks: int) -> None:
    """Raise ConfigError if a site names a block that the model lacks, or if there is none."""
    if not sites:
        raise ConfigError("no site to read", fix="name at least one, as resid.3")
    for site in sites:
        if site.block >= n_blocks:
            raise ConfigError(
                f"site {site} is not in the model: it has {n_blocks} blocks",
                fix=f"use resid.0 to resid.{n_blocks - 1}",
            )


def _stream(value: Any) -> Tensor:
    """The residual stream in what a block returned: some return a tensor, some a tuple that starts with it."""
    return cast(Tensor, value[0] if isinstance(value, tuple) else value)


def capture(
    model: nn.Module,
    blocks: nn.ModuleList,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    sites: Sequence[Site],
    **inputs: Any,
) -> dict[Site, Tensor]:
    """One forward pass as far as the highest site; blocks above it and the language-model head do not run.

    Args:
        model: the whole model, in eval mode.
        blocks: its residual blocks, from :func:`find_blocks`.
        input_ids_BT: right-padded batch on the model's device.
        attention_mask_BT: 1 for tokens, 0 for padding.
        sites: where to read.
        inputs: further keyword arguments of the model's forward.

    Returns:
        ``resid_BTD`` by site, in the model's dtype; values at padding are meaningless.
    """
    check_sites(sites, len(blocks))
    found: dict[Site, Tensor] = {}
    top = max(sites)
    handles: list[Any] = []

    def keep(site: Site, resid_BTD: Tensor) -> None:
        found[site] = resid_BTD
        if site == top:
            raise _Stop

    def read_input(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(Site("embed"), _stream(args if args else kwargs["hidden_states"]))

    def read_output(site: Site) -> Any:
        def hook(_m: nn.Module, _args: Any, output: Any) -> None:
            keep(site, _stream(output))

        return hook

    try:
        for site in set(sites):
            if site.kind == "embed":
                handles.append(blocks[0].register_forward_pre_hook(read_input, with_kwargs=True))
            else:
                handles.append(blocks[site.block].register_forward_hook(read_output(site)))
        with torch.inference_mode(), contextlib.suppress(_Stop):
            model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    missing = [str(s) for s in sites if s not in found]
    if missing:
        raise ModelError(
            f"the model's forward never reached {', '.join(missing)}",
            where=type(model).__name__,
        )
    return {site: found[site] for site in sites}
