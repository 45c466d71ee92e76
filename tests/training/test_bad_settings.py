"""Contradictions are refused before any work; scarce data are told with numbers; a transposed matrix is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_synthetic import planted

from turnscope.artifacts import ConfigError, DataError, IntegrityError
from turnscope.sae import SparseAutoencoder
from turnscope.training import ArraySource, TrainConfig, run
from turnscope.training.probe import doubt

DATA = planted(3000, 16, 24, 3).x_ND


def train(out: Path, x_ND: Any = DATA, held: Any = None, **settings: Any) -> Any:
    options: dict[str, Any] = {"n_features": 32, "k": 3, "n_samples": 20_000, "lr": 5e-3, **settings}
    return run(TrainConfig(out=out, **options), source=ArraySource(x_ND, 128), held=held)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_features": 8, "k": 9}, "k = 9 is greater than n_features = 8"),
        ({"k": 0}, "k: "),
        ({"n_features": 0}, "n_features: "),
        ({"encoder_dtype": "float16"}, "encoder_dtype: .*'float16'"),
        ({"warmup_share": 0.6, "decay_share": 0.6}, "exceed the whole run"),
        ({"epochs": 1}, "epochs or n_samples"),
        ({"unit": "nested", "architecture": "topk"}, "nested"),
        ({"schedule": "step"}, "schedule: "),
        ({"patience": 0}, "patience: "),
        ({"track": "tensorboard"}, "track: "),
        ({"lr": float("nan")}, "lr: "),
    ],
)
def test_contradictions_are_refused_before_any_work(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tmp_path / "sae", **settings)
    assert not (tmp_path / "sae").exists()


def test_widths_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="held rows have width 8, training rows 16"):
        train(tmp_path / "sae", held=ArraySource(DATA[:, :8]))
    assert not (tmp_path / "sae").exists()
    # A run that was begun on rows of width 16 and is resumed on rows of width 8.
    with pytest.raises(DataError, match="NaN"):
        train(tmp_path / "sae", x_ND=DATA * float("nan"))
    with pytest.raises(IntegrityError, match="activations"):
        train(tmp_path / "sae", x_ND=DATA[:, :8])


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"n_features": 16_384, "n_samples": 2_000}, "3000 rows for 16384 features"),
        ({"n_features": 1024, "k": 2, "n_samples": 2_000}, "2000 samples of k 2 are 4 for each of 1024 features"),
    ],
)
def test_scarce_data_are_told_with_the_number(tmp_path: Path, settings: dict[str, Any], number: str) -> None:
    assert any(number in note for note in train(tmp_path / "sae", **settings).notes)


def test_enough_data_are_not_remarked_upon(tmp_path: Path) -> None:
    notes = train(tmp_path / "sae", held=ArraySource(DATA)).notes
    assert notes == ()


def spoiled(sae: SparseAutoencoder, which: str) -> SparseAutoencoder:
    """The dictionary as it is read when a matrix was stored the other way about."""
    d, f = sae.config.d_model, sae.config.n_features
    with torch.no_grad():
        if which != "the encoder":
            sae.w_dec_FD.copy_(sae.w_dec_FD.t().contiguous().view(f, d))
        if which != "the decoder":
            sae.w_enc_DF.copy_(sae.w_enc_DF.t().contiguous().view(d, f))
    return sae


@pytest.mark.parametrize(
    ("which", "n_features"),
    [("the decoder", 16), ("the encoder", 16), ("the decoder", 32), ("the encoder", 32), ("encoder and decoder", 32)],
)
def test_a_transposed_matrix_is_named(tmp_path: Path, which: str, n_features: int) -> None:
    result, x_ND = train(tmp_path / "sae", n_features=n_features), torch.from_numpy(DATA)
    assert doubt(result.load(), x_ND) is None
    said = doubt(spoiled(result.load(), which), x_ND)
    assert said is not None
    assert "less than nothing" in said
    assert f"with {which} transposed it explains" in said


def test_noise_is_not_called_transposed(tmp_path: Path) -> None:
    sae = train(tmp_path / "sae").load()
    with torch.no_grad():
        sae.w_dec_FD.copy_(10 * torch.randn(sae.w_dec_FD.shape, generator=torch.Generator().manual_seed(0)))
    said = doubt(sae, torch.from_numpy(DATA))
    assert said is not None
    assert "no transpose helps" in said
