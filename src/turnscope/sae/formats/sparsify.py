"""sparsify (EleutherAI): `cfg.json` and `sae.safetensors`. Top-k autoencoders, both ways.

Checked against eai-sparsify 1.3.3: `relu((x - b_dec) encoder^T + bias)`, the k largest of a row; `W_dec` is (F, D) like
ours, `encoder.weight` a Linear's (F, D).

Legend: D width, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from turnscope.artifacts import ConfigError, write_json
from turnscope.sae.formats._facts import facts_of, facts_to_config
from turnscope.sae.formats._fold import assemble
from turnscope.sae.formats._sites import site_of
from turnscope.sae.formats._source import Foreign, Hints, read_json, unsupported
from turnscope.sae.formats._tensors import Expected, read_safetensors
from turnscope.sae.sparse_autoencoder import SparseAutoencoder
from turnscope.sae.weights import write_weights

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_EXPECTED = Expected({"b_dec": "D", "encoder.bias": "F", "encoder.weight": "FD", "W_dec": "FD"})


def read(folder: Path, hints: Hints) -> Foreign:
    """A sparsify folder as canonical dictionary."""
    config = read_json(folder / CONFIG)
    if config.flag("transcode", False) or config.flag("skip_connection", False):
        kind = "transcoder" if config.flag("transcode", False) else "skip connection"
        raise unsupported(f"a sparsify {kind}", config.where, "it does not reconstruct its own input alone")
    if config.flag("signed", False):
        raise unsupported("a signed top-k of sparsify", config.where, "codes here are positive")
    activation = config.text("activation") or "topk"
    if activation != "topk":
        raise unsupported(
            f"the sparsify activation {activation!r:.40}", config.where, "only topk is one rule over all features"
        )
    d = config.count("d_in")
    expansion = config.count("expansion_factor")
    f = config.count("num_latents") or (d * expansion if d and expansion else None)
    k = config.count("k") or hints.k
    if k is None:
        raise ConfigError("no file says how many features are active (k)", where=str(config.where), fix="give --k")
    tensors = read_safetensors(folder / WEIGHTS, _EXPECTED, {"D": d, "F": f})
    run = folder.parent / "config.json"
    facts: dict[str, Any] = {
        "architecture": "topk", "k": k, "site": site_of(folder.name),
        "subject": read_json(run).text("model") if run.is_file() else "",
    }  # fmt: skip
    sae = assemble(
        w_enc_DF=tensors["encoder.weight"].t(), b_enc_F=tensors["encoder.bias"], w_dec_FD=tensors["W_dec"],
        b_dec_D=tensors["b_dec"], centred=True, where=folder / WEIGHTS,
        **(facts | facts_to_config(config.table("turnscope"), "topk")),
    )  # fmt: skip
    return Foreign(sae, (folder / CONFIG, folder / WEIGHTS))


def write(sae: SparseAutoencoder, folder: Path) -> tuple[Path, ...]:
    """Write a sparsify folder that its `SparseCoder.load_from_disk` reads. ConfigError unless it is a top-k one."""
    config, scale = sae.config, float(sae.scale)
    if config.architecture != "topk":
        raise ConfigError(
            f"sparsify knows top-k alone, and this is a {config.architecture} dictionary, which goes by thresholds",
            where=f"--to sparsify, into {folder}",
            fix="export it with --to saelens",
        )
    tensors = {
        "encoder.weight": sae.w_enc_DF.t() * scale,
        "encoder.bias": sae.b_enc_F,
        "W_dec": sae.w_dec_FD / scale,
        "b_dec": sae.b_dec_D / scale,
    }
    write_weights(folder / WEIGHTS, tensors)
    fields = {
        "activation": "topk", "expansion_factor": max(1, config.n_features // config.d_model),
        "normalize_decoder": False, "num_latents": config.n_features, "k": config.k, "multi_topk": False,
        "skip_connection": False, "transcode": False, "d_in": config.d_model, "turnscope": facts_of(config),
    }  # fmt: skip
    write_json(folder / CONFIG, fields)
    return folder / WEIGHTS, folder / CONFIG
