"""Exports, against what SAELens and sparsify made of these very bytes (tools/golden/exports.py), and turn facts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.formats import export, read
from turnscope.sae.units import UnitWarning

GOLDEN = Path(__file__).parents[1] / "golden" / "exports"
CASES = [path.relative_to(GOLDEN).with_suffix("").as_posix() for path in sorted(GOLDEN.glob("*/*.expected"))]


def test_the_cases_are_there() -> None:
    there = ["batchtopk/saelens", "jumprelu/saelens", "relu/saelens", "topk/saelens", "topk/sparsify"]
    assert there == CASES


@pytest.mark.parametrize("case", CASES)
def test_the_original_library_reads_the_same_dictionary(case: str, tmp_path: Path) -> None:
    sae = SparseAutoencoder.load(GOLDEN / case.partition("/")[0] / "ours")
    target = case.partition("/")[2]
    written = export(sae, target, tmp_path)
    assert {file.name: file.read_bytes() for file in written} == {
        file.name: file.read_bytes() for file in (GOLDEN / case).iterdir()
    }, "what is written now is not what the original library was given: run tools/golden again"
    theirs = load_file(GOLDEN / f"{case}.expected")
    codes = sae.encode(theirs["x"])
    assert torch.equal(codes.to_dense() != 0, theirs["z"] != 0)
    assert torch.allclose(codes.to_dense(), theirs["z"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(sae.decode(codes), theirs["x_hat"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_what_was_exported_comes_back(case: str) -> None:
    sae = SparseAutoencoder.load(GOLDEN / case.partition("/")[0] / "ours")
    name, back = read(GOLDEN / case)
    assert name == case.partition("/")[2]
    assert back.sae.config == sae.config  # site, roles, spans, fingerprints: all of it
    x_ND = load_file(GOLDEN / f"{case}.expected")["x"]
    assert torch.allclose(back.sae(x_ND), sae(x_ND), rtol=1e-5, atol=1e-5)


def test_a_rule_by_threshold_is_not_given_to_sparsify(tmp_path: Path) -> None:
    sae = SparseAutoencoder.load(GOLDEN / "batchtopk" / "ours")
    with pytest.raises(ConfigError, match="top-k alone"):
        export(sae, "sparsify", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "facts", [{"architecture": "topk"}, {"unit": "chat"}, {"d_model": 3}, {"colour": "red"}, {"k": "many"}]
)
def test_facts_that_are_not_ours_are_refused(facts: dict[str, object], tmp_path: Path) -> None:
    for file in (GOLDEN / "jumprelu" / "saelens").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["metadata"]["turnscope"] |= facts
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match="turnscope"):
        read(tmp_path)


def test_rows_of_another_kind_are_told_once() -> None:
    sae = SparseAutoencoder(SAEConfig(d_model=4, n_features=8, k=2, unit="turn", subject="told once"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.encode(torch.zeros(2, 4), rows="turn")
        sae.encode(torch.zeros(2, 4))
    with pytest.warns(UnitWarning, match="given token rows. Trained on turn means"):
        sae.encode(torch.zeros(2, 4), rows="token")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.encode(torch.zeros(2, 4), rows="token")
