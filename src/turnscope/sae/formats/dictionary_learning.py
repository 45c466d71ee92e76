"""dictionary_learning (Marks, Karvonen, Mueller): `config.json` and a pickled `ae.pt`. The class decides the maths.

Checked against dictionary-learning 0.1.0. `AutoEncoder` is read as it is stored; the library's own loader also gives
its decoder unit norm, which `--unit-norm` does here. `AutoEncoderTopK` stores a threshold too, but its `encode` goes by
rank unless told otherwise, and so does ours.

Legend: D width, F features.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from turnscope.artifacts import ConfigError
from turnscope.sae.formats._fold import assemble, fold_gate
from turnscope.sae.formats._pickled import pickled_shapes, read_pickle
from turnscope.sae.formats._source import Fields, Foreign, Hints, read_json, unsupported
from turnscope.sae.formats._tensors import Expected

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder.bias": "F", "encoder.weight": "FD", "decoder.weight": "DF"}
_PLAIN = {"b_dec": "D", "b_enc": "F", "W_enc": "DF", "W_dec": "FD"}
_EXPECTED = {
    "AutoEncoder": Expected({**_LINEAR, "bias": "D"}),
    "AutoEncoderNew": Expected({**_LINEAR, "decoder.bias": "D"}),
    "GatedAutoEncoder": Expected(
        {"decoder_bias": "D", "r_mag": "F", "gate_bias": "F", "mag_bias": "F", "encoder.weight": "FD",
         "decoder.weight": "DF"}
    ),
    "AutoEncoderTopK": Expected({**_LINEAR, "b_dec": "D"}, {"k": ""}, frozenset({"threshold"})),
    "BatchTopKSAE": Expected({**_LINEAR, "b_dec": "D", "threshold": ""}, {"k": ""}),
    "MatryoshkaBatchTopKSAE": Expected(
        {**_PLAIN, "threshold": ""}, {"k": ""}, frozenset({"group_sizes"})
    ),
    "JumpReluAutoEncoder": Expected({**_PLAIN, "threshold": "F"}),
}  # fmt: skip
_OURS = {
    "AutoEncoder": "relu", "AutoEncoderNew": "relu", "GatedAutoEncoder": "gated", "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk", "MatryoshkaBatchTopKSAE": "matryoshka", "JumpReluAutoEncoder": "jumprelu",
}  # fmt: skip
# Without a config the tensors tell the class, but for two that store the same ones.
_BY_TENSOR = {"gate_bias": "GatedAutoEncoder", "group_sizes": "MatryoshkaBatchTopKSAE", "bias": "AutoEncoder"}


def read(source: Path, hints: Hints) -> Foreign:
    """`ae.pt`, or the folder that holds it, as canonical dictionary."""
    path = source / WEIGHTS if source.is_dir() else source
    stated = path.with_name(CONFIG)
    config = read_json(stated) if stated.is_file() else Fields({}, path)
    trainer = config.table("trainer")
    name = trainer.text("dict_class") or _class_of(path)
    if name not in _EXPECTED:
        raise unsupported(
            f"the dictionary_learning class {name!r:.60}", path, f"those that can are: {', '.join(_EXPECTED)}"
        )
    tensors = read_pickle(
        path, _EXPECTED[name], {"D": trainer.count("activation_dim"), "F": trainer.count("dict_size")}
    )
    w_enc_DF = tensors["W_enc"] if "W_enc" in tensors else tensors["encoder.weight"].t()
    w_dec_FD = tensors["W_dec"] if "W_dec" in tensors else tensors["decoder.weight"].t()
    threshold_F = tensors.get("threshold")
    if name == "GatedAutoEncoder":
        parts = (tensors["r_mag"], tensors["mag_bias"], tensors["gate_bias"])
        w_enc_DF, b_enc_F, threshold_F = fold_gate(w_enc_DF, *parts)
    else:
        b_enc_F = tensors["b_enc"] if "b_enc" in tensors else tensors["encoder.bias"]
    b_dec_D = next(tensors[key] for key in ("b_dec", "bias", "decoder_bias", "decoder.bias") if key in tensors)
    site = f"resid.{layer}" if type(layer := trainer.get("layer")) is int and layer >= 0 else ""
    sae = assemble(
        w_enc_DF=w_enc_DF, b_enc_F=b_enc_F, w_dec_FD=w_dec_FD, b_dec_D=b_dec_D, threshold_F=threshold_F,
        centred=name not in ("AutoEncoderNew", "JumpReluAutoEncoder"), where=path, architecture=_OURS[name],
        k=_active(name, trainer, tensors, hints), site=site, subject=trainer.text("lm_name"),
    )  # fmt: skip
    notes = (f"layer {layer} of its config is taken for the output of block {layer} (--site to say otherwise)",)
    return Foreign(sae, (path, stated) if config.values else (path,), notes if site else ())


def _class_of(path: Path) -> str:
    names = pickled_shapes(path).keys()
    for tensor, name in _BY_TENSOR.items():
        if tensor in names:
            return name
    if names == _EXPECTED["JumpReluAutoEncoder"].required.keys():
        return "JumpReluAutoEncoder"
    raise ConfigError(
        "a config.json beside it must name its class: several classes store tensors of these names",
        where=str(path),
        fix='write {"trainer": {"dict_class": "BatchTopKSAE", "k": 32}} or the like into config.json beside it',
    )


def _active(name: str, trainer: Fields, tensors: dict[str, Tensor], hints: Hints) -> int | None:
    held = int(tensors["k"]) if "k" in tensors else None
    stated = trainer.count("k")
    if held is not None and stated is not None and held != stated:
        raise trainer.refuse(f"its config says k = {stated}, its weights say {held}")
    k = held or stated or trainer.count("target_l0") or hints.k
    if name == "AutoEncoderTopK" and k is None:
        raise ConfigError("no file says how many features are active (k)", where=str(trainer.where), fix="give --k")
    return k
