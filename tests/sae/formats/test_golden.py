"""Foreign dictionaries against what their own libraries computed: tools/golden/foreign.py made every vector here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.sae import SparseAutoencoder
from turnscope.sae.formats import detect, read
from turnscope.sae.formats._fold import fold_gate, with_unit_decoder
from turnscope.sae.formats._source import Hints

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"

# place under GOLDEN: format, architecture, k (None: the files do not say), site, model
CASES: dict[str, tuple[str, str, int | None, str, str]] = {
    "saelens/standard": ("saelens", "relu", None, "resid.3", "gpt2-small"),
    "saelens/standard_uncentred": ("saelens", "relu", None, "resid.3", "gpt2-small"),
    "saelens/jumprelu": ("saelens", "jumprelu", None, "resid.3", "gpt2-small"),
    "saelens/gated": ("saelens", "gated", None, "resid.3", "gpt2-small"),
    "saelens/topk": ("saelens", "topk", 5, "resid.3", "gpt2-small"),
    "saelens/topk_rescaled": ("saelens", "topk", 5, "resid.3", "gpt2-small"),
    "saelens/before_6_topk": ("saelens", "topk", 5, "resid.2", "gpt2-small"),
    "saelens/before_6_standard": ("saelens", "relu", None, "resid.2", "gpt2-small"),
    "saelens/norm": ("saelens", "jumprelu", None, "resid.3", "gpt2-small"),
    "saelens/batchtopk": ("saelens", "batchtopk", 6, "resid.3", "gpt2-small"),
    "saelens/batchtopk_checkpoint": ("saelens", "batchtopk", 6, "resid.3", "gpt2-small"),
    "saelens/batchtopk_plain": ("saelens", "batchtopk", 6, "resid.3", "gpt2-small"),
    "saelens/batchtopk_plain_checkpoint": ("saelens", "batchtopk", 6, "resid.3", "gpt2-small"),
    "saelens/matryoshka": ("saelens", "matryoshka", 6, "resid.3", "gpt2-small"),
    "saelens/matryoshka_checkpoint": ("saelens", "matryoshka", 6, "resid.3", "gpt2-small"),
    "sparsify/layers.3": ("sparsify", "topk", 5, "resid.3", ""),
    "sparsify/expansion": ("sparsify", "topk", 5, "", ""),
    **{
        f"dictionary_learning/{name}": ("dictionary-learning", rule, k, "resid.3", "EleutherAI/pythia-70m-deduped")
        for name, rule, k in (
            ("AutoEncoder", "relu", None), ("AutoEncoderNew", "relu", None),
            ("GatedAutoEncoder", "gated", None), ("AutoEncoderTopK", "topk", 5),
            ("BatchTopKSAE", "batchtopk", 5), ("MatryoshkaBatchTopKSAE", "matryoshka", 5),
            ("JumpReluAutoEncoder", "jumprelu", 5),
        )
    },
    "gemma_scope/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7": (
        "gemma-scope", "jumprelu", 7, "resid.3", "google/gemma-2-2b",
    ),
    "gemma_scope/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6": (
        "gemma-scope", "jumprelu", 6, "embed", "google/gemma-2-2b",
    ),
    "gemma_scope_2/gemma-scope-2-1b-it/resid_post/layer_3_width_16k_l0_small": (
        "gemma-scope-2", "jumprelu", 7, "resid.3", "google/gemma-v3-1b-it",
    ),
    "gemma_scope_2/gemma-scope-2-1b-pt/resid_post/layer_4_width_16k_l0_small": (
        "gemma-scope-2", "jumprelu", None, "resid.4", "google/gemma-3-1b-pt",
    ),
    "llama_scope/Llama3_1-8B-Base-L3R-8x": ("llama-scope", "jumprelu", 5, "resid.3", ""),
    "llama_scope/R1-Distill/L3R": ("llama-scope", "jumprelu", 5, "resid.3", ""),
    "llama_scope/any_norm_jumprelu/L3R": ("llama-scope", "jumprelu", 5, "resid.3", ""),
    "llama_scope/any_norm_topk/L3R": ("llama-scope", "topk", 5, "resid.3", ""),
}  # fmt: skip
QWEN = "qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"


def agree(sae: SparseAutoencoder, x_ND: Tensor, z_NF: Tensor, x_hat_ND: Tensor) -> None:
    codes = sae.encode(x_ND)
    assert torch.equal(codes.to_dense() != 0, z_NF != 0)
    assert torch.allclose(codes.to_dense(), z_NF, rtol=1e-5, atol=1e-5)
    assert torch.allclose(sae.decode(codes), x_hat_ND, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", CASES)
def test_codes_and_reconstructions_are_the_original_librarys(place: str) -> None:
    name, architecture, k, site, model = CASES[place]
    path = GOLDEN / place
    assert detect(path) == name
    found, foreign = read(path)
    config = foreign.sae.config
    said = (found, config.architecture, config.k, config.site, config.subject, config.unit)
    assert said == (name, architecture, k or config.n_features, site, model, "token")
    truth = load_file(GOLDEN / place / "expected.safetensors")
    agree(foreign.sae, truth["x"], truth["z"], truth["x_hat"])


def test_every_fixture_is_tried() -> None:
    assert {p.parent.relative_to(GOLDEN).as_posix() for p in GOLDEN.rglob("expected.safetensors")} == {*CASES, QWEN}


def test_the_thresholds_and_ranks_cut_something_away() -> None:
    """A fixture on which plain ReLU gives the same codes would prove nothing about its rule."""
    for place, (_, architecture, *_) in CASES.items():
        if architecture == "relu":
            continue
        _, foreign = read(GOLDEN / place)
        x_ND = load_file(GOLDEN / place / "expected.safetensors")["x"]
        sae = foreign.sae
        relu_NF = (x_ND * sae.scale - sae.b_dec_D) @ sae.w_enc_DF + sae.b_enc_F > 0
        assert sae.encode(x_ND).n_entries < int(relu_NF.sum()), place


def test_a_unit_decoder_gives_the_same_function() -> None:
    """dictionary_learning's own loader normalises an AutoEncoder's decoder; so does ours when asked."""
    folder = GOLDEN / "dictionary_learning" / "AutoEncoder"
    truth = load_file(folder / "expected.safetensors")
    unit = with_unit_decoder(read(folder)[1].sae)
    assert torch.allclose(unit.w_dec_FD.norm(dim=1), torch.ones(unit.config.n_features), atol=1e-6)
    agree(unit, truth["x"], truth["z_unit"], truth["x_hat_unit"])
    for place in ("saelens/gated", "saelens/jumprelu", "llama_scope/any_norm_jumprelu/L3R"):
        sae = read(GOLDEN / place)[1].sae
        truth = load_file(GOLDEN / place / "expected.safetensors")
        agree(with_unit_decoder(sae), truth["x"], truth["z"] * sae.w_dec_FD.norm(dim=1), truth["x_hat"])


def test_qwen_scope(tmp_path: Path) -> None:
    """Its repository's name states a width of 32 * 1024, which the tiny fixture has not: moved, it is read with --k."""
    name = "layer3.sae.pt"
    with pytest.raises(IntegrityError, match="F=32768"):
        read(GOLDEN / QWEN / name)
    shutil.copy(GOLDEN / QWEN / name, tmp_path / name)
    with pytest.raises(ConfigError, match=r"\(k\)"):
        read(tmp_path / name)
    found, foreign = read(tmp_path / name, None, Hints(k=5))
    assert (found, foreign.sae.config.architecture, foreign.sae.config.site) == ("qwen-scope", "topk", "resid.3")
    truth = load_file(GOLDEN / QWEN / "expected.safetensors")
    agree(foreign.sae, truth["x"], truth["z"], truth["x_hat"])


def test_a_folded_gate_opens_where_the_gate_does() -> None:
    """On many inputs, against the two paths of Gated SAEs (2404.16014, eq. 5 to 7) run apart in float64."""
    generator = torch.Generator().manual_seed(3)
    c_ND = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    w_DF, r_F, mag_F, gate_F = (torch.randn(*n, generator=generator).double() for n in ((6, 9), (9,), (9,), (9,)))
    gate_NF, mag_NF = c_ND @ w_DF + gate_F > 0, c_ND @ (w_DF * r_F.exp()) + mag_F
    truth_NF = gate_NF * mag_NF.relu()
    w_enc_DF, b_enc_F, threshold_F = fold_gate(w_DF.float(), r_F.float(), mag_F.float(), gate_F.float())
    pre_NF = c_ND @ w_enc_DF.double() + b_enc_F.double()
    folded_NF = pre_NF * (pre_NF > threshold_F.double().clamp_min(0))
    assert 0.1 < gate_NF.double().mean() < 0.9
    assert int((gate_NF & (mag_NF <= 0)).sum()) > 100  # an open gate on a magnitude below zero
    assert int((~gate_NF & (mag_NF > 0)).sum()) > 100
    assert torch.allclose(folded_NF, truth_NF, atol=1e-5)
