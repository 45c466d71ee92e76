"""Gemma Scope 2: `config.json` (not always there) and `params.safetensors`. JumpReLU, names in lower case.

The decoder bias is not subtracted from the input.

Legend: D width, F features.
"""

from __future__ import annotations

import re
from pathlib import Path

from turnscope.sae.formats._fold import assemble
from turnscope.sae.formats._sites import site_of
from turnscope.sae.formats._source import Fields, Foreign, Hints, read_json, unsupported
from turnscope.sae.formats._tensors import Expected, read_safetensors
from turnscope.sae.weights import stored_layout

CONFIG, WEIGHTS = "config.json", "params.safetensors"
_EXPECTED = Expected({"b_dec": "D", "b_enc": "F", "threshold": "F", "w_enc": "DF", "w_dec": "FD"})
_MODEL = re.compile(r"gemma-scope-2-(\w+)-(pt|it)")


def read(folder: Path, hints: Hints) -> Foreign:
    """A Gemma Scope 2 folder as canonical dictionary."""
    folder = folder.resolve()
    path, place = folder / WEIGHTS, folder.as_posix()
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else Fields({}, path)
    layout = stored_layout(path)
    crossed = any(len(shape) > 2 for _, shape in layout.values())
    hook_out = config.text("hf_hook_point_out")
    if crossed or "affine_skip_connection" in layout or hook_out not in ("", config.text("hf_hook_point_in")):
        raise unsupported(
            "a Gemma Scope 2 transcoder or crosscoder", folder, "it does not reconstruct its own input alone"
        )
    if (name := config.text("architecture") or "jump_relu") != "jump_relu":
        raise unsupported(f"the Gemma Scope 2 architecture {name!r:.40}", folder, "only jump_relu is known")
    tensors = read_safetensors(path, _EXPECTED, {})
    layer, model = re.search(r"resid_post(?:_all)?/layer_(\d+)", place), _MODEL.search(place)
    named = config.text("model_name").removeprefix("google/")
    sae = assemble(
        w_enc_DF=tensors["w_enc"], b_enc_F=tensors["b_enc"], w_dec_FD=tensors["w_dec"], b_dec_D=tensors["b_dec"],
        threshold_F=tensors["threshold"], centred=False, where=path, architecture="jumprelu",
        k=config.count("l0") or hints.k,
        site=site_of(config.text("hf_hook_point_in")) or (f"resid.{layer[1]}" if layer else ""),
        subject=f"google/{named}" if named else f"google/gemma-3-{model[1]}-{model[2]}" if model else "",
    )  # fmt: skip
    files = (path, folder / CONFIG) if config.values else (path,)
    return Foreign(sae, files, () if config.values else ("there is no config.json; what is known is in the path",))
