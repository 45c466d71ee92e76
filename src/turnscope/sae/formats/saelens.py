"""SAELens: `cfg.json` and `sae_weights.safetensors`. Read: standard, jumprelu, gated, topk, and training checkpoints of
batchtopk and matryoshka (which SAELens itself saves as jumprelu when training ends). Written: standard, jumprelu, topk.

Checked against sae-lens 6.54.12. Its input: `x - b_dec` if `apply_b_dec_to_input`, else `x`. Matrices as ours.

Legend: D width, F features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnscope.artifacts import ConfigError, write_json
from turnscope.sae.formats._facts import facts_of, facts_to_config
from turnscope.sae.formats._fold import assemble, fold_gate, unit_rows
from turnscope.sae.formats._sites import hook_of, site_of
from turnscope.sae.formats._source import Fields, Foreign, Hints, read_json, unsupported
from turnscope.sae.formats._tensors import Expected, read_safetensors
from turnscope.sae.sparse_autoencoder import SparseAutoencoder
from turnscope.sae.weights import write_weights

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
VERSION = "6.54.12"  # of SAELens, whose layout `write` follows

_BASE = {"b_dec": "D", "W_enc": "DF", "W_dec": "FD"}
_SCALING = {"scaling_factor": "F", "finetuning_scaling_factor": "F"}
_EXPECTED = {
    "standard": Expected({**_BASE, "b_enc": "F"}, _SCALING),
    "jumprelu": Expected({**_BASE, "b_enc": "F", "threshold": "F"}, _SCALING),
    "gated": Expected({**_BASE, "b_gate": "F", "b_mag": "F", "r_mag": "F"}, _SCALING),
    "topk": Expected({**_BASE, "b_enc": "F"}, _SCALING),
    "batchtopk": Expected({**_BASE, "b_enc": "F", "topk_threshold": ""}),
    "matryoshka_batchtopk": Expected({**_BASE, "b_enc": "F", "topk_threshold": ""}),
}
_OURS = {
    "standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk", "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "matryoshka",
}  # fmt: skip
_NORMS = {
    "constant_norm_rescale": "it divides each input by its own norm, which no fixed weights can do",
    "layer_norm": "it applies a layer norm to each input, which no fixed weights can do",
    "covariance_whitening": "its whitening was never folded; load it in SAELens and save it for inference",
}


def read(folder: Path, hints: Hints) -> Foreign:
    """A SAELens folder as canonical dictionary."""
    config = read_json(folder / CONFIG)
    architecture = _architecture(config)
    rescaled = config.flag("rescale_acts_by_decoder_norm", architecture in ("batchtopk", "matryoshka_batchtopk"))
    scale, notes = _input_scale(config, folder, hints)
    sizes = {"D": config.count("d_in"), "F": config.count("d_sae")}
    tensors = read_safetensors(folder / WEIGHTS, _EXPECTED[architecture], sizes)
    w_enc_DF, w_dec_FD = tensors["W_enc"], _fine_tuned(config, tensors)
    threshold_F: Tensor | None = tensors.get("threshold", tensors.get("topk_threshold"))
    if architecture == "gated":
        parts = (tensors["r_mag"], tensors["b_mag"], tensors["b_gate"])
        w_enc_DF, b_enc_F, threshold_F = fold_gate(w_enc_DF, *parts)
    else:
        b_enc_F = tensors["b_enc"]
    if rescaled and architecture != "gated":
        # Their choice goes by activation times decoder norm, and their codes carry that norm: ours with unit rows. The
        # threshold of a batchtopk checkpoint is already in those units.
        w_enc_DF, b_enc_F, w_dec_FD, _ = unit_rows(w_enc_DF, b_enc_F, w_dec_FD)
        notes += ("decoder norms were folded into the encoder, as its codes carry them",)
    sae = assemble(
        w_enc_DF=w_enc_DF, b_enc_F=b_enc_F, w_dec_FD=w_dec_FD, b_dec_D=tensors["b_dec"], threshold_F=threshold_F,
        centred=config.flag("apply_b_dec_to_input", True), scale=scale, where=folder / WEIGHTS,
        **_facts(config, architecture, hints),
    )  # fmt: skip
    if config.text("reshape_activations") == "hook_z":
        notes += ("it reads attention heads laid end to end (hook_z), which is none of our sites",)
    return Foreign(sae, (folder / CONFIG, folder / WEIGHTS), notes)


def _architecture(config: Fields) -> str:
    """Named in the config; before version 6, a standard one with a top-k activation was a topk one."""
    name = config.text("architecture") or "standard"
    activation = config.text("activation_fn") or config.text("activation_fn_str") or "relu"
    if name == "standard" and activation == "topk":
        name = "topk"
    elif activation not in ("relu", "topk"):
        raise unsupported(f"the activation {activation!r:.40} of SAELens", config.where, "it is neither ReLU nor top-k")
    if name not in _EXPECTED:
        known = ", ".join(sorted(_EXPECTED))
        raise unsupported(f"the SAELens architecture {name!r:.60}", config.where, f"those that can are: {known}")
    return name


def _input_scale(config: Fields, folder: Path, hints: Hints) -> tuple[float, tuple[str, ...]]:
    name = config.get("normalize_activations")
    if name is None or isinstance(name, bool):  # before version 6
        name = "expected_average_only_in" if name else "none"
    if name == "none":
        return 1.0, ()
    if name != "expected_average_only_in":
        why = _NORMS.get(str(name), "it is not known here")
        raise unsupported(f"the input normalisation {name!r:.60} of SAELens", config.where, why)
    stored = read_json(folder / SCALER).number("scaling_factor") if (folder / SCALER).is_file() else None
    scale = stored or hints.input_scale
    if scale is None:
        raise ConfigError(
            "inputs must be scaled (expected_average_only_in), but no file says by how much",
            where=str(config.where),
            fix="give the factor with --input-scale: sqrt(width) over the mean norm of its training activations",
        )
    return scale, (f"its input normalisation is the input scale {scale:.6g}",)


def _fine_tuned(config: Fields, tensors: dict[str, Tensor]) -> Tensor:
    """Decoder rows times the factor that old releases applied to codes before decoding."""
    factor_F = tensors.get("finetuning_scaling_factor", tensors.get("scaling_factor"))
    if factor_F is None or bool((factor_F == 1).all()):
        return tensors["W_dec"]
    if not config.flag("finetuning_scaling_factor", False):
        raise config.refuse("its weights hold scaling factors, but finetuning_scaling_factor is not set")
    return tensors["W_dec"] * factor_F[:, None]


def _facts(config: Fields, architecture: str, hints: Hints) -> dict[str, Any]:
    metadata = config.table("metadata")
    training = metadata.table("training_architecture_details")
    stated = config.count("k") or config.table("activation_fn_kwargs").count("k") or hints.k
    if architecture == "topk" and stated is None:
        raise ConfigError("no file says how many features are active (k)", where=str(config.where), fix="give --k")
    trained = metadata.text("training_architecture")
    by_threshold = architecture == "jumprelu" and trained in _OURS and trained != "topk"
    hook = metadata.text("hook_name") or config.text("hook_name") or config.text("hook_point")
    facts: dict[str, Any] = {
        "architecture": _OURS[trained if by_threshold else architecture],
        "k": stated or (round(k) if (k := training.number("k")) else None),
        "site": site_of(hook),
        "subject": metadata.text("model_name") or config.text("model_name"),
    }
    return facts | facts_to_config(metadata.table("turnscope"), facts["architecture"])


def write(sae: SparseAutoencoder, folder: Path) -> tuple[Path, ...]:
    """Write a SAELens folder that its `SAE.load_from_disk` reads; codes are the same, the scale is in the matrices."""
    config, scale = sae.config, float(sae.scale)
    tensors = {
        "W_enc": sae.w_enc_DF * scale,
        "b_enc": sae.b_enc_F,
        "W_dec": sae.w_dec_FD / scale,
        "b_dec": sae.b_dec_D / scale,
    }
    fields: dict[str, Any] = {}
    if config.architecture == "topk":
        architecture, fields = "topk", {"k": config.k, "rescale_acts_by_decoder_norm": False}
    elif config.architecture == "relu" and not bool((sae.threshold_F > 0).any()):
        architecture = "standard"
    else:
        architecture, tensors["threshold"] = "jumprelu", sae.threshold_F.clamp_min(0)
    metadata = {"sae_lens_version": VERSION, "turnscope": facts_of(config)}
    metadata |= {"model_name": config.subject} if config.subject else {}
    metadata |= {"hook_name": hook_of(config.site)} if hook_of(config.site) else {}
    fields |= {
        "architecture": architecture, "d_in": config.d_model, "d_sae": config.n_features, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": metadata,
    }  # fmt: skip
    write_weights(folder / WEIGHTS, {name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
    write_json(folder / CONFIG, json.loads(json.dumps(fields)))
    return folder / WEIGHTS, folder / CONFIG
