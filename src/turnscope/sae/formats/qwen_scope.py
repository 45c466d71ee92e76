"""Qwen Scope: one pickled `layerN.sae.pt` a layer, top-k. Width and k stand in the name of the repository alone.

Matrices lie the other way round: `W_enc` is (F, D), `W_dec` (D, F). The decoder bias is not subtracted from the input.

Legend: D width, F features.
"""

from __future__ import annotations

import re
from pathlib import Path

from turnscope.artifacts import ConfigError
from turnscope.sae.formats._fold import assemble
from turnscope.sae.formats._pickled import read_pickle
from turnscope.sae.formats._source import Foreign, Hints
from turnscope.sae.formats._tensors import Expected

_EXPECTED = Expected({"b_dec": "D", "b_enc": "F", "W_enc": "FD", "W_dec": "DF"})
NAME = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-(.+?)-W(\d+)K-L0_(\d+)")


def read(path: Path, hints: Hints) -> Foreign:
    """One `layerN.sae.pt` as canonical dictionary."""
    path = path.resolve()
    repository = _REPOSITORY.search(path.parent.as_posix())
    k = int(repository[3][:9]) if repository else hints.k
    if not k:
        raise ConfigError(
            "neither the file nor its folder says how many features are active (k)",
            where=str(path),
            fix="give --k, or keep the repository's name in the path (SAE-Res-MODEL-W32K-L0_50)",
        )
    tensors = read_pickle(path, _EXPECTED, {"F": int(repository[2][:9]) * 1024 if repository else None})
    layer = NAME.fullmatch(path.name)
    sae = assemble(
        w_enc_DF=tensors["W_enc"].t(), b_enc_F=tensors["b_enc"], w_dec_FD=tensors["W_dec"].t(),
        b_dec_D=tensors["b_dec"], centred=False, where=path, architecture="topk", k=k,
        site=f"resid.{layer[1]}" if layer else "", subject=f"Qwen/{repository[1].split('/')[-1]}" if repository else "",
    )  # fmt: skip
    return Foreign(sae, (path,))
