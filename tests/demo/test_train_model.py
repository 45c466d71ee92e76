"""The model's training: resumes to the same weights, refuses other settings, exports what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from turnscope.artifacts import IntegrityError
from turnscope.demo import train_model
from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.train_model import ModelTrainConfig, run


def tiny(out: Path, tokens: int, **settings: object) -> ModelTrainConfig:
    plain = {
        "d_model": 16,
        "blocks": 1,
        "heads": 2,
        "d_mlp": 16,
        "warmup_steps": 2,
        "checkpoint_every": 2,
        "threads": 1,
    }
    return ModelTrainConfig.model_validate({**plain, "out": out, "tokens": tokens, "compile": False, **settings})


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_model, "ROUND", 24)
    monkeypatch.setattr(train_model, "TOKENIZER_CONVERSATIONS", 300)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tiny(tmp_path / "whole", 40_000))
    steps = {"n": 0}
    real = train_model.learning_rate

    def stop_after_seven(*args: object) -> float:
        steps["n"] += 1
        if steps["n"] > 7:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(train_model, "learning_rate", stop_after_seven)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tmp_path / "parts", 40_000))
    monkeypatch.setattr(train_model, "learning_rate", real)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    parts = run(tiny(tmp_path / "parts", 40_000))
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_other_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> float:
        raise KeyboardInterrupt

    run(tiny(tmp_path, 12_000))
    with pytest.raises(IntegrityError, match="other settings"):
        run(tiny(tmp_path, 24_000))


def test_the_folder_says_what_made_it(tmp_path: Path) -> None:
    out = run(tiny(tmp_path / "model", 6_000))
    facts = json.loads((out / "demo.json").read_text())
    assert facts["grammar_version"] == GRAMMAR_VERSION
    assert facts["command"].startswith("turnscope demo train-model")
    assert facts["training"]["seed"] == 17
