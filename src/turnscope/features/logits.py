"""Which tokens a feature promotes and which it suppresses, straight through the unembedding.

A feature's direction is multiplied by the gain of the model's final norm and by the unembedding; what later blocks make
of it is not in these numbers, so they say most for sites near the top. Only these tensors of the model are read.

Legend: F features, B features of a block, D width, V vocabulary, M tokens kept.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, ModelError

Floats = NDArray[np.float32]
_UNEMBED = ("lm_head.weight", "embed_out.weight", "output.weight")
_EMBED = (
    "model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight", "wte.weight",
    "gpt_neox.embed_in.weight", "model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
)  # fmt: skip
_NORM = (
    "model.norm.weight", "norm.weight", "transformer.ln_f.weight", "ln_f.weight", "gpt_neox.final_layer_norm.weight",
    "model.final_layernorm.weight", "model.language_model.norm.weight", "language_model.model.norm.weight",
)  # fmt: skip
_ADDS_ONE = ("gemma",)
"""Models whose norm multiplies by 1 + weight."""
_BLOCK = 256


class Unembedding(NamedTuple):
    """The gain of the final norm (1 where none was found) and the unembedding, with the names they were read by."""

    gain_D: Floats
    w_VD: Floats
    name: str
    gain_name: str

    @property
    def fingerprint(self) -> str:
        """Of both tensors."""
        return sha256(self.w_VD.tobytes() + self.gain_D.tobytes()).hexdigest()


def read_unembedding(model: str) -> Unembedding:
    """Two tensors of a model's safetensors files; the embedding where it is tied.

    Raises ModelError when the model cannot be found, or holds neither tensor under a name that is known.
    """
    from turnscope.models._folders import find_folder, weight_files

    folder = find_folder(model, with_code=False)
    files = weight_files(folder)
    names = _names(files)
    name = next((n for n in (*_UNEMBED, *_EMBED) if n in names), None)
    if name is None:
        raise ModelError(
            f"no unembedding in the weights of {folder.name}",
            where=str(folder.path),
            fix=f"logit weights know the names {', '.join((*_UNEMBED, *_EMBED))}",
        )
    w_VD = _tensor(names[name], name)
    gain_name = next((n for n in _NORM if n in names), "")
    gain_D = _tensor(names[gain_name], gain_name) if gain_name else np.ones(w_VD.shape[1], np.float32)
    kind = str(json.loads((folder.path / "config.json").read_text("utf-8")).get("model_type", ""))
    return Unembedding(gain_D + 1 if kind.startswith(_ADDS_ONE) else gain_D, w_VD, name, gain_name)


def logit_weights(decoder_FD: Floats, unembedding: Unembedding, text_of: Any, most: int = 10) -> pa.Table:
    """Rows (feature, sign, rank, token, text, weight), the strongest tokens of each sign.

    Weights are centred over the vocabulary: a constant added to all logits changes no probability. Raises ConfigError
    for a model of another width.
    """
    gain_D, w_VD = unembedding.gain_D, unembedding.w_VD
    if decoder_FD.shape[1] != w_VD.shape[1]:
        raise ConfigError(
            f"a dictionary of width {decoder_FD.shape[1]}, an unembedding of {w_VD.shape[1]}",
            fix="name the model that the activations were read from",
        )
    centred_VD = w_VD * gain_D
    centred_VD -= centred_VD.mean(0)
    most = min(most, len(w_VD))
    parts: list[pa.Table] = []
    for start in range(0, len(decoder_FD), _BLOCK):
        weights_BV = decoder_FD[start : start + _BLOCK] @ centred_VD.T
        for sign, signed_BV in ((1, weights_BV), (-1, -weights_BV)):
            tokens_BM = np.argpartition(-signed_BV, most - 1, axis=1)[:, :most]
            values_BM = np.take_along_axis(signed_BV, tokens_BM, 1)
            order_BM = np.lexsort((tokens_BM, -values_BM))
            tokens_BM = np.take_along_axis(tokens_BM, order_BM, 1)
            tokens = tokens_BM.ravel()
            size = len(tokens_BM)
            parts.append(
                pa.table(
                    {
                        "feature": np.repeat(np.arange(start, start + size, dtype=np.int32), most),
                        "sign": np.full(len(tokens), sign, np.int8),
                        "rank": np.tile(np.arange(most, dtype=np.int16), size),
                        "token": tokens.astype(np.int32),
                        "text": pa.array([text_of(token) for token in tokens.tolist()], pa.string()),
                        "weight": np.take_along_axis(weights_BV, tokens_BM, 1).ravel().astype(np.float32),
                    }
                )
            )
    keys = [("feature", "ascending"), ("sign", "descending"), ("rank", "ascending")]
    return pa.concat_tables(parts).combine_chunks().sort_by(keys)


def _names(files: list[Path]) -> dict[str, Path]:
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for path in files:
        with safe_open(str(path), "np") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _tensor(path: Path, name: str) -> Floats:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return file.get_tensor(name).float().numpy()
