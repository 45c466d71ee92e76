"""How the model is loaded: what of it a manifest records, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harvest_support as support
import numpy as np
import pytest

from turnscope.artifacts import ConfigError, DependencyError, IntegrityError, ModelError
from turnscope.harvest import HarvestResult, harvest, open_activations, repair, run


def harvest_in(folder: Path, model: Path, **settings: Any) -> HarvestResult:
    folder.mkdir(exist_ok=True)
    support.write_chats(folder / "chats.json", support.chats(12))
    return run(support.config(folder, model, **settings))


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "resid.1" / "manifest.json").read_text())["config"]


def test_a_device_map_leaves_no_trace(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    harvest_in(tmp_path / "plain", model)
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.2", "model.norm", "lm_head")
    on_disk = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    for name, device_map in {"auto": "auto", "named": on_disk}.items():
        result = harvest_in(tmp_path / name, model, device_map=device_map)
        assert support.hashes(tmp_path / name / "out") == support.hashes(tmp_path / "plain" / "out")
        if name == "named":
            assert not any("no GPU" in notice for notice in result.notices)
    assert "device_map" not in recorded(tmp_path / "plain")


def test_a_device_map_that_finds_no_gpu_says_so(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pytest.importorskip("accelerate", reason="device maps need accelerate")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "found no GPU" in harvest_in(tmp_path, model, device_map="auto").notices[-1]
    assert "found no GPU" in (tmp_path / "out" / "run.log").read_text()


def test_attention_is_recorded_and_holds_a_resume_to_it(tmp_path: Path, model: Path) -> None:
    harvest_in(tmp_path / "sdpa", model)
    harvest_in(tmp_path / "eager", model, attention="eager")
    plain, eager = (open_activations(tmp_path / name / "out" / "resid.1").mean_ND() for name in ("sdpa", "eager"))
    np.testing.assert_allclose(eager, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    assert (recorded(tmp_path / "sdpa")["attention"], recorded(tmp_path / "eager")["attention"]) == (None, "eager")
    with pytest.raises(IntegrityError, match="attention"):
        harvest_in(tmp_path / "eager", model)


def test_a_repair_uses_the_attention_of_the_harvest(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest_in(tmp_path, model, attention="eager")
    before, asked = support.hashes(tmp_path / "out"), []
    monkeypatch.setattr(repair, "open_transcripts", support.ListStore)
    load = harvest.load_subject
    monkeypatch.setattr(
        harvest, "load_subject", lambda *a, **kw: asked.append(kw["attn_implementation"]) or load(*a, **kw)
    )
    site = tmp_path / "out" / "resid.1"
    (site / "shard-00001.safetensors").unlink()
    repair.run(repair.RepairConfig(activations=site, transcripts=tmp_path / "chats.json", model=str(model)))
    assert asked == ["eager"]
    assert support.hashes(tmp_path / "out") == before


def test_what_this_machine_lacks_is_named(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    pytest.importorskip("accelerate", reason="device maps need accelerate")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    with pytest.raises(DependencyError, match="bitsandbytes") as caught:
        harvest_in(tmp_path, model, quantization="bnb-4bit")
    assert "turnscope[bitsandbytes]" in caught.value.fix
    with pytest.raises(ModelError, match="cuda:97"):
        harvest_in(tmp_path, model, device_map={"": 97})
    assert not list((tmp_path / "out").rglob("*.json")), "nothing was begun"


def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    nowhere = tmp_path / "no model"
    for settings, match in [
        ({"device_map": "everywhere"}, "device_map"),
        ({"quantization": "2bit"}, "quantization"),
        ({"attention": "someone/their-kernel"}, "attention"),
        ({"engine": "ray", "device_map": "auto"}, "one GPU"),
    ]:
        with pytest.raises(ConfigError, match=match):
            support.config(tmp_path, nowhere, **settings)


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit", "torchao-int8"])
def test_quantised_weights_are_harvested_and_recorded(tmp_path: Path, quantization: str) -> None:
    for package in ("accelerate", "torchao" if quantization.startswith("torchao") else "bitsandbytes"):
        pytest.importorskip(package, reason=f"needs {package}")
    model = support.make_model(tmp_path / "model", width=64)  # as narrow as 4 bits go on a CPU
    harvest_in(tmp_path / "plain", model)
    harvest_in(tmp_path / "small", model, quantization=quantization)
    plain, small = (open_activations(tmp_path / name / "out" / "resid.1") for name in ("plain", "small"))
    error = np.linalg.norm(small.mean_ND() - plain.mean_ND()) / np.linalg.norm(plain.mean_ND())
    assert 0 < error < 0.3
    assert recorded(tmp_path / "small")["quantization"] == quantization
    assert small.artifact.manifest.inputs["model"] != plain.artifact.manifest.inputs["model"]
    with pytest.raises(IntegrityError, match="quantization"):
        harvest_in(tmp_path / "small", model)
