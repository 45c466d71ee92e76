"""Where other libraries say that they read a model, and our sites. Not known is the empty string."""

from __future__ import annotations

import re

# TransformerLens, as SAELens, Llama Scope and others name hooks.
_HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_resid_pre|hook_mlp_out|hook_attn_out)")
_PART = {"hook_resid_post": "resid", "hook_mlp_out": "mlp", "hook_attn_out": "attn"}
# Modules of transformers: the output of a decoder layer.
_MODULE = re.compile(r"(?:model\.|transformer\.|gpt_neox\.)?(?:layers|h)\.(\d+)(?:\.output)?")


def site_of(hook: str) -> str:
    """The site of a hook or module name; empty when it is none of ours."""
    if hook == "hook_embed":
        return "embed"
    if match := _HOOK.fullmatch(hook):
        layer = int(match[1])
        if match[2] == "hook_resid_pre":
            return f"resid.{layer - 1}" if layer else "embed"
        return f"{_PART[match[2]]}.{layer}"
    match = _MODULE.fullmatch(hook)
    return f"resid.{match[1]}" if match else ""


def hook_of(site: str) -> str:
    """The TransformerLens name of a site; empty for an unknown one."""
    if site == "embed":
        return "hook_embed"
    part, _, layer = site.partition(".")
    names = {ours: theirs for theirs, ours in _PART.items()}
    return f"blocks.{layer}.{names[part]}" if part in names and layer.isdigit() else ""
