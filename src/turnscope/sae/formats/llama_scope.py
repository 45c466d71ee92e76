"""Llama Scope and other dictionaries of Language-Model-SAEs (OpenMOSS): Linear layers, inputs normalised by data set.

Two layouts: `hyperparams.json` with `checkpoints/final.safetensors` (Llama Scope), and `config.json` with
`sae_weights.safetensors` (R1-Distill and later). Where `norm_activation` is dataset-wise, inputs are multiplied by
s = sqrt(D) / dataset_average_activation_norm: that becomes our input scale.

A feature is active where `pre * |decoder row| > threshold` if `sparsity_include_decoder_norm`, else `pre > threshold`.
The published scalar `jump_relu_threshold` belongs to raw activations, for the authors' loader divides biases by s
before it compares: in scaled units it is `threshold * s`. `log_jumprelu_threshold` belongs to scaled ones.

Legend: D width, F features.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError
from turnscope.sae.formats._fold import assemble, decoder_norms, unit_rows
from turnscope.sae.formats._sites import site_of
from turnscope.sae.formats._source import Fields, Foreign, Hints, read_json, unsupported
from turnscope.sae.formats._tensors import Expected, read_safetensors
from turnscope.sae.weights import stored_layout

LAYOUTS = (("hyperparams.json", "checkpoints/final.safetensors"), ("config.json", "sae_weights.safetensors"))
_NORM = "dataset_average_activation_norm"
_RULES = {"jumprelu": "jumprelu", "topk": "topk", "relu": "relu"}


def read(folder: Path, hints: Hints) -> Foreign:
    """A folder of either layout as canonical dictionary."""
    config_name, weights_name = next((pair for pair in LAYOUTS if (folder / pair[0]).is_file()), LAYOUTS[0])
    config, path = read_json(folder / config_name), folder / weights_name
    rule = config.text("act_fn").lower() or "jumprelu"
    _refuse_others(config, rule)
    layout = stored_layout(path)
    norms = {name: "" for name in layout if name.startswith(f"{_NORM}.")}
    optional = {**norms, "log_jumprelu_threshold": "F"}
    required = {"encoder.bias": "F", "encoder.weight": "FD", "decoder.weight": "DF"}
    (required if config.flag("use_decoder_bias", True) else optional)["decoder.bias"] = "D"
    d, f = config.count("d_model"), config.count("d_sae")
    f = f or (d * n if d and (n := config.count("expansion_factor")) else None)
    tensors = read_safetensors(path, Expected(required, optional), {"D": d, "F": f})
    scale, notes = _input_scale(config, tensors, tensors["encoder.weight"].shape[1], hints)
    w_enc_DF, b_enc_F = tensors["encoder.weight"].t(), tensors["encoder.bias"]
    w_dec_FD = tensors["decoder.weight"].t()
    b_dec_D = tensors.get("decoder.bias", torch.zeros(w_dec_FD.shape[1]))
    by_norm = config.flag("sparsity_include_decoder_norm", True)
    threshold_F = _threshold(config, tensors, scale) if rule == "jumprelu" else None
    if threshold_F is not None and by_norm:
        threshold_F = (threshold_F.double() / decoder_norms(w_dec_FD)).float()
    if rule == "topk" and by_norm:
        w_enc_DF, b_enc_F, w_dec_FD, _ = unit_rows(w_enc_DF, b_enc_F, w_dec_FD)
        notes += ("decoder norms were folded into the encoder, by which its k largest are chosen",)
    k = config.count("top_k") or hints.k
    if rule == "topk" and k is None:
        raise ConfigError("no file says how many features are active (k)", where=str(config.where), fix="give --k")
    sae = assemble(
        w_enc_DF=w_enc_DF, b_enc_F=b_enc_F, w_dec_FD=w_dec_FD, b_dec_D=b_dec_D, threshold_F=threshold_F,
        centred=config.flag("apply_decoder_bias_to_pre_encoder", False), scale=scale, where=path,
        architecture=_RULES[rule], k=k, site=site_of(config.text("hook_point_in")),
        subject=config.text("model_name") or config.text("model"),
    )  # fmt: skip
    return Foreign(sae, (folder / config_name, path), notes)


def _refuse_others(config: Fields, rule: str) -> None:
    if rule not in _RULES:
        raise unsupported(f"the activation {rule!r:.40} of Language-Model-SAEs", config.where, "it is not known here")
    if config.text("hook_point_out") not in ("", config.text("hook_point_in")):
        raise unsupported("a transcoder of Language-Model-SAEs", config.where, "it does not reconstruct its own input")
    if config.flag("use_glu_encoder", False):
        raise unsupported("a GLU encoder", config.where, "its encoder is not one product with the input")


def _input_scale(config: Fields, tensors: dict[str, Tensor], d: int, hints: Hints) -> tuple[float, tuple[str, ...]]:
    name = config.text("norm_activation") or "dataset-wise"
    if name == "inference":
        return 1.0, ()
    if name != "dataset-wise":
        raise unsupported(
            f"the input normalisation {name!r:.40} of Language-Model-SAEs", config.where,
            "it depends on each input or batch, which no fixed weights can do",
        )  # fmt: skip
    norm = config.table(_NORM).number("in")
    if norm is None and (held := tensors.get(f"{_NORM}.{config.text('hook_point_in')}")) is not None:
        norm = Fields({_NORM: float(held)}, config.where).number(_NORM)
    if norm is None and hints.input_scale is None:
        raise ConfigError(
            "inputs are normalised by the mean norm of the training data, but no file says what that is",
            where=str(config.where),
            fix="give the factor with --input-scale: sqrt(width) over that mean norm",
        )
    scale = math.sqrt(d) / norm if norm else hints.input_scale or 1.0
    return scale, (f"its input normalisation is the input scale {scale:.6g}",)


def _threshold(config: Fields, tensors: dict[str, Tensor], scale: float) -> Tensor:
    if (log_F := tensors.get("log_jumprelu_threshold")) is not None:
        return log_F.double().exp().float()
    if (value := config.get("jump_relu_threshold")) in (0, 0.0):
        return torch.zeros(1)
    threshold = config.number("jump_relu_threshold")
    if value is None or threshold is None:
        raise config.refuse("it is a JumpReLU dictionary, but neither config nor weights hold a threshold")
    return torch.tensor([threshold * scale])
