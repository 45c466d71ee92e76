"""Logit weights against the model's own head, the map against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import index_support as support
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import turnscope.demo
from turnscope.artifacts import ConfigError, DependencyError
from turnscope.features.logits import logit_weights, read_unembedding
from turnscope.features.map import feature_map

MODEL = Path(turnscope.demo.__file__).parent / "model"


def test_logit_weights_are_the_slope_of_the_models_own_logits() -> None:
    """A step along the direction, before the final norm frozen at its scale, moves the model's logits so."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float64)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, model.config.hidden_size)).astype(np.float32)
    table = logit_weights(directions, read_unembedding(str(MODEL)), str, most=7).to_pandas()
    x = torch.from_numpy(rng.normal(size=model.config.hidden_size))
    scale = (x.square().mean() + model.config.rms_norm_eps).rsqrt()
    for feature in range(3):
        moved = model.lm_head(model.model.norm.weight * scale * (x + torch.from_numpy(directions[feature]).double()))
        slope = ((moved - model.lm_head(model.model.norm.weight * scale * x)) / scale).detach().numpy()
        slope -= slope.mean()
        up = table[(table.feature == feature) & (table.sign == 1)]
        down = table[(table.feature == feature) & (table.sign == -1)]
        assert up.token.tolist() == np.argsort(-slope)[:7].tolist()
        assert down.token.tolist() == np.argsort(slope)[:7].tolist()
        np.testing.assert_allclose(up.weight, slope[up.token], rtol=1e-4)
        np.testing.assert_allclose(down.weight, slope[down.token], rtol=1e-4)


def test_a_model_of_another_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 5"):
        logit_weights(np.ones((2, 5), np.float32), read_unembedding(str(MODEL)), str)


def test_an_index_holds_them_when_the_model_is_named(tmp_path: Path) -> None:
    index = support.make_world(tmp_path, support.planted(10, width=128), model=str(MODEL), logit_tokens=4).index
    row = index.logits(3).to_pylist()
    assert [(r["sign"], r["rank"]) for r in row] == [(s, i) for s in (1, -1) for i in range(4)]
    assert all(isinstance(r["text"], str) for r in row)


def test_an_index_without_says_so(turn_world: support.World) -> None:
    with pytest.raises(ConfigError, match="no logit weights"):
        turn_world.index.logits(0)


def test_pca_is_that_of_scikit_learn() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32) * np.arange(1, 10)
    wanted = PCA(2).fit_transform(rows)
    dead = np.vstack([rows[:5], np.zeros((1, 9), np.float32), rows[5:]])
    table = feature_map(dead, "pca", 0)
    assert table["x"].to_pylist()[5] is None
    got = np.delete(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1), 5, 0)
    for axis in range(2):
        sign = np.sign(got[:, axis] @ wanted[:, axis])
        np.testing.assert_allclose(got[:, axis] * sign, wanted[:, axis], atol=1e-3)


def test_few_features_have_a_map_too() -> None:
    for n in (0, 1, 2):
        assert feature_map(np.eye(2, dtype=np.float32)[:n], "pca", 0).num_rows == n
    assert feature_map(np.ones((3, 1), np.float32), "pca", 0)["y"].to_pylist() == [0, 0, 0]


def test_umap_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(DependencyError, match=r"turnscope\[map\]|umap-learn"):
        feature_map(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), "umap", 0)
