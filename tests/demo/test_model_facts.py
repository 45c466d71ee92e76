"""The shipped model belongs to this grammar."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnscope.artifacts import ModelError, write_json
from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.demo import MODEL, DemoConfig, model_facts, recipe, run


def test_the_shipped_model_was_trained_on_this_grammar() -> None:
    if not MODEL.exists():
        pytest.skip("the demo model is not in the package yet: turnscope demo train-model makes it")
    assert model_facts()["grammar_version"] == GRAMMAR_VERSION


def test_the_shipped_model_is_small() -> None:
    if not MODEL.exists():
        pytest.skip("the demo model is not in the package yet: turnscope demo train-model makes it")
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 16 << 20


def test_another_grammars_model_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "demo.json", {"grammar_version": GRAMMAR_VERSION + 1})
    with pytest.raises(ModelError, match=f"trained on grammar {GRAMMAR_VERSION + 1}, this is grammar"):
        run(DemoConfig(out=tmp_path / "run", model=tmp_path))
    assert not (tmp_path / "run").exists()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the demo model is missing"):
        model_facts(tmp_path)


def test_the_recipe_names_each_trait_once() -> None:
    traits = recipe(DemoConfig()).traits
    assert len({trait.name for trait in traits}) == len(traits)
    assert {trait.family for trait in traits} >= {
        "topic", "language", "persona", "tone", "intent", "refusal", "form", "emotion", "answer",
    }  # fmt: skip
