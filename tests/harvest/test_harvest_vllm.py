"""A harvest by vLLM makes the same store; what runs is a stand-in, see fake_vllm.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import harvest_support as support
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import fake_vllm

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.harvest import ActivationStore, open_activations, run

SETTINGS: dict[str, Any] = {"sites": ("resid.2", "resid.0"), "tokens": "all", "token_dtype": "float32"}


def stores(folder: Path, model: Path, **settings: Any) -> list[ActivationStore]:
    folder.mkdir()
    support.write_chats(folder / "chats.json", support.chats(12))
    run(support.config(folder, model, **SETTINGS, **settings))
    return [open_activations(folder / "out" / site) for site in SETTINGS["sites"]]


@pytest.mark.parametrize("packing", [True, False])
def test_the_store_is_that_of_transformers(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    fake_vllm.install(monkeypatch)
    plain = stores(tmp_path / "plain", model)
    other = stores(tmp_path / "vllm", model, backend="vllm", device="cuda", batch_tokens=500, packing=packing)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_allclose(b.mean_ND(), a.mean_ND(), rtol=1e-4, atol=1e-5 * np.abs(a.mean_ND()).max())
        np.testing.assert_allclose(b.tokens_TD(), a.tokens_TD(), rtol=1e-3, atol=1e-4 * np.abs(a.tokens_TD()).max())
        np.testing.assert_array_equal(b.token_ids_T(), a.token_ids_T())
        assert b.turns.drop(["norm"]) == a.turns.drop(["norm"])
        assert a.artifact.manifest.inputs == b.artifact.manifest.inputs, "it is the same model"
        differs = {k for k, v in a.artifact.manifest.config.items() if b.artifact.manifest.config[k] != v}
        assert {"backend"} <= differs <= {"backend", "batch_tokens", "packing"}


def test_a_harvest_is_not_gone_on_with_by_the_other(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    stores(tmp_path / "a", model)
    with pytest.raises(IntegrityError, match="backend"):
        run(support.config(tmp_path / "a", model, **SETTINGS, backend="vllm", device="cuda"))
    assert json.loads((tmp_path / "a/out/resid.0/manifest.json").read_text())["config"]["backend"] == "transformers"


@pytest.mark.parametrize(
    "setting",
    [{"device_map": "auto"}, {"quantization": "bnb-8bit"}, {"attention": "sdpa"}, {"random_weights": True}, {"engine":
    "ray"}],
    ids=lambda setting: next(iter(setting)),
)  # fmt: skip
def test_settings_that_vllm_would_pass_over_are_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        support.config(tmp_path, tmp_path, backend="vllm", **setting)
