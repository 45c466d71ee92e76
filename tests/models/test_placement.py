"""Weights that are quantised or spread over devices, and what is refused."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny_model
from model_files import save_tokenizer

from turnscope.artifacts import ConfigError, DependencyError, ModelError
from turnscope.models import Site, load_subject

SITES = [Site("embed"), Site("attn", 1), Site("resid", 1), Site("resid", 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model: Any = tiny_model("qwen2", "decoder")
    model.save_pretrained(tmp_path / "m")
    save_tokenizer(tmp_path / "m")
    return tmp_path / "m"


def read(folder: Path, **options: Any) -> dict[Site, torch.Tensor]:
    ids_BT = torch.arange(3, 13)[None]
    return load_subject(str(folder), **options).capture(ids_BT, torch.ones_like(ids_BT), SITES)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))


def test_a_model_that_lies_on_disk_in_part_is_read_alike(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
    places |= {"model.layers.1": "disk", "model.layers.2": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    plain = read(folder)
    for device_map in ("auto", places):
        found = read(folder, device_map=device_map)
        for site in SITES:
            torch.testing.assert_close(found[site], plain[site], rtol=0, atol=0)


def test_a_device_map_packs_too(folder: Path) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    assert load_subject(str(folder), device_map="auto").supports_packing


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit", "torchao-int8"])
def test_quantised_weights_are_read(folder: Path, quantization: str) -> None:
    package = "torchao" if quantization.startswith("torchao") else "bitsandbytes"
    pytest.importorskip(package, reason=f"needs {package}")
    plain = read(folder)
    found = read(folder, quantization=quantization)
    site = Site("resid", 2)
    error = (found[site].float() - plain[site]).norm() / plain[site].norm()
    assert 0 < error < 0.5
    prints = {load_subject(str(folder), quantization=q).fingerprint for q in (None, quantization)}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("options", "package"),
    [
        ({"quantization": "bnb-8bit"}, "bitsandbytes"),
        ({"quantization": "torchao-int8"}, "torchao"),
        ({"device_map": "auto"}, "accelerate"),
    ],
)
def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], package: str
) -> None:
    without(monkeypatch, package)
    with pytest.raises(DependencyError, match=package) as caught:
        load_subject(str(folder), **options)
    assert caught.value.fix == f'pip install "turnscope[{package}]"'
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = [requirement.split(">")[0] for requirement in extras["optional-dependencies"][package]]
    assert {"accelerate", package} == set(named)


@pytest.mark.parametrize("place", [1, "cuda:7", "no-such-device"])
def test_a_device_that_is_not_there_is_named(folder: Path, place: int | str) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    if not isinstance(place, str) and torch.cuda.device_count() > place:
        pytest.skip("this machine has that GPU")
    with pytest.raises(ModelError, match=f"cuda:{place}" if isinstance(place, int) else place):
        load_subject(str(folder), device_map={"": "cpu", "model.layers.2": place})


def test_settings_that_make_no_sense_together(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown quantization"):
        load_subject(str(folder), quantization="2bit")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown device map"):
        load_subject(str(folder), device_map="everywhere")
    with pytest.raises(ConfigError, match="unknown attention"):  # a kernel of the hub: code that would run
        load_subject(str(folder), attn_implementation="someone/their-kernel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="random weights"):
        load_subject(str(folder), device_map="auto", random_weights=True)


def test_attention_is_the_one_asked_for(folder: Path) -> None:
    assert load_subject(str(folder)).model.config._attn_implementation == "sdpa"
    eager = load_subject(str(folder), attn_implementation="eager")
    assert eager.model.config._attn_implementation == "eager"
    plain = read(folder)
    for site, found in read(folder, attn_implementation="eager").items():
        torch.testing.assert_close(found, plain[site], rtol=1e-4, atol=1e-5 * float(found.abs().max()))
