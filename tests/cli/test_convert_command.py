"""`turnscope convert`: what it says, what it writes, and that a mistake writes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from cli_support import Command
from safetensors.torch import load_file

from turnscope.artifacts import Artifact
from turnscope.sae import SparseAutoencoder

GOLDEN = Path(__file__).parents[1] / "sae" / "golden"
GEMMA = GOLDEN / "foreign/gemma_scope/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7"


def test_a_foreign_dictionary_becomes_an_artifact(turnscope: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = turnscope("convert", GEMMA, "--out", out)
    assert ran.code == 0, ran.err
    assert "read as gemma-scope: jumprelu, 32 features of width 16, reads tokens; google/gemma-2-2b, resid.3" in ran.out
    assert "--unit-norm" in ran.err
    artifact = Artifact.open(out, "sae")
    assert artifact.verify() == []
    assert list(artifact.manifest.inputs) == ["params.npz"]
    assert str(tmp_path) not in artifact.manifest.model_dump_json()
    truth = load_file(GEMMA / "expected.safetensors")
    assert torch.allclose(SparseAutoencoder.load(out)(truth["x"]), truth["x_hat"], rtol=1e-5, atol=1e-5)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert turnscope("convert", GEMMA, "--out", out).code == 0  # there already
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    other = turnscope("convert", GEMMA, "--out", out, "--unit-norm")
    assert (other.code, "unit_norm: false -> true" in other.err) == (5, True), other.err


def test_unit_norm_site_and_model(turnscope: Command, tmp_path: Path) -> None:
    ran = turnscope(
        "convert", GEMMA, "--out", tmp_path / "out", "--unit-norm", "--site", "mlp.2", "--model", "org/other", "--json"
    )
    said = json.loads(ran.out)
    assert (said["format"], said["config"]["site"], said["config"]["subject"]) == ("gemma-scope", "mlp.2", "org/other")
    sae = SparseAutoencoder.load(tmp_path / "out")
    assert torch.allclose(sae.w_dec_FD.norm(dim=1), torch.ones(32), atol=1e-6)
    truth = load_file(GEMMA / "expected.safetensors")
    assert torch.allclose(sae(truth["x"]), truth["x_hat"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["saelens", "sparsify"])
def test_ours_to_others_and_back(turnscope: Command, tmp_path: Path, target: str) -> None:
    ours = GOLDEN / "exports/topk/ours"
    ran = turnscope("convert", ours, "--to", target, "--out", tmp_path / "theirs")
    assert (ran.code, "read as turnscope" in ran.out) == (0, True), ran.err
    assert "Trained on turn means" in ran.err
    assert turnscope("convert", tmp_path / "theirs", "--out", tmp_path / "back").code == 0
    back = SparseAutoencoder.load(tmp_path / "back")
    assert back.config == SparseAutoencoder.load(ours).config
    truth = load_file(GOLDEN / f"exports/topk/{target}.expected")
    assert torch.allclose(back(truth["x"]), truth["x_hat"], rtol=1e-5, atol=1e-5)


def test_mistakes_write_nothing(turnscope: Command, tmp_path: Path) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    topk, batch = GOLDEN / "foreign/saelens/topk", GOLDEN / "exports/batchtopk/ours"
    for arguments, code, words in (
        ([tmp_path / "none"], 3, "nothing here"),
        ([tmp_path], 2, "no dictionary of a known format"),
        ([batch, "--to", "sparsify"], 2, "top-k alone"),
        ([topk, "--unit-norm"], 2, "other features would be the k largest"),
        ([topk, "--site", "layer 3"], 2, "no such site"),
        ([topk, "--format", "sparsify"], 3, "sae.safetensors"),
        ([topk, "--format", "onnx"], 2, "onnx"),
        ([GOLDEN / "foreign/refused/sparsify_skip"], 2, "skip connection"),
    ):
        ran = turnscope("convert", *arguments, "--out", out)
        assert (ran.code, words in ran.out + ran.err, "Traceback" in ran.err) == (code, True, False), (arguments, ran)
        assert not out.exists(), arguments
    for more in ([], ["--to", "saelens"]):
        ran = turnscope("convert", topk, "--out", full, *more)
        assert ran.code in (2, 5), ran
    assert [file.name for file in full.iterdir()] == ["letter.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(turnscope: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert turnscope("convert", GEMMA, "--out", tmp_path / "out").code == 3
