"""Dictionaries of our own and their exports, for `exports.py` to load with the original libraries (README.md)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.formats import export

D, F = 16, 32
OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/sae/golden/exports")
FACTS = {
    "unit": "turn", "site": "resid.3", "roles": ("user", "assistant"), "span_policy": "as_of_turn",
    "token_set": "content", "subject": "org/tiny@0123", "subject_fingerprint": "a" * 64, "input_fingerprint": "b" * 64,
}  # fmt: skip

for seed, (architecture, targets) in enumerate(
    {"topk": ("saelens", "sparsify"), "batchtopk": ("saelens",), "jumprelu": ("saelens",), "relu": ("saelens",)}.items()
):
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(SAEConfig(d_model=D, n_features=F, k=5, architecture=architecture, **FACTS))
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    if architecture == "batchtopk":
        sae.threshold_F.fill_(0.6)
    elif architecture == "jumprelu":  # some below zero, where ReLU still holds
        sae.threshold_F.copy_(torch.randn(F, generator=generator))
    sae.scale.fill_(0.37)
    sae.save(OUT / architecture / "ours")
    for target in targets:
        export(sae, target, OUT / architecture / target)
