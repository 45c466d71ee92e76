"""Gemma Scope 1: `layer_N/width_W/average_l0_K/params.npz`. JumpReLU; the path is the only config there is.

The decoder bias is not subtracted from the input. Dictionaries of the embedding were trained on embeddings before
Gemma multiplies them by sqrt(width); here they read what the model does.

Legend: D width, F features.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from turnscope.sae.formats._fold import assemble
from turnscope.sae.formats._source import Foreign, Hints, unsupported
from turnscope.sae.formats._tensors import Expected, read_npz

WEIGHTS = "params.npz"
_EXPECTED = Expected({"b_dec": "D", "b_enc": "F", "threshold": "F", "w_enc": "DF", "w_dec": "FD"})
_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)")
_PARTS = {"res": "resid"}  # their mlp and att are read elsewhere than our sites of those names


def read(source: Path, hints: Hints) -> Foreign:
    """`params.npz`, or the folder that holds it, as canonical dictionary."""
    path = (source / WEIGHTS if source.is_dir() else source).resolve()
    place = path.parent.as_posix()
    if "transcoder" in place:
        raise unsupported("a Gemma Scope transcoder", path, "it does not reconstruct its own input")
    tensors = read_npz(path, _EXPECTED, {})
    w_enc_DF, w_dec_FD, notes = tensors["w_enc"], tensors["w_dec"], ()
    if embedding := re.search(r"embedding/width_", place + "/") is not None:
        root = math.sqrt(w_enc_DF.shape[0])
        w_enc_DF, w_dec_FD = w_enc_DF / root, w_dec_FD * root
        notes = ("it was trained on embeddings before Gemma scales them; sqrt(width) was folded in",)
    layer, l0 = re.search(r"layer_(\d+)", place), re.search(r"average_l0_(\d+)", place)
    release = _RELEASE.search(place)
    part = _PARTS.get(release[3]) if release else None
    site = "embed" if embedding else f"{part}.{layer[1]}" if part and layer else ""
    if not site:
        notes += ("the path does not say which of our sites it reads (give --site)",)
    sae = assemble(
        w_enc_DF=w_enc_DF, b_enc_F=tensors["b_enc"], w_dec_FD=w_dec_FD, b_dec_D=tensors["b_dec"],
        threshold_F=tensors["threshold"], centred=False, where=path, architecture="jumprelu", site=site,
        k=(int(l0[1][:9]) or None) if l0 else hints.k, subject=_model(release),
    )  # fmt: skip
    return Foreign(sae, (path,), notes)


def _model(release: re.Match[str] | None) -> str:
    if release is None:
        return ""
    return f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
