"""Training whole dictionaries on data whose truth is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_synthetic import planted

from turnscope.artifacts import ConfigError, DataError, IntegrityError
from turnscope.training import ArraySource, TrainConfig, TrainResult, evaluate, resolve_defaults, run
from turnscope.training.initial import initial_weights, measure
from turnscope.training.threshold import fit_threshold
from turnscope.training.trainer import Trainer

D, F, K = 32, 48, 4
DATA = planted(12_000, D, F, K)
HELD = slice(10_000, 12_000)


def train(out: Path, x_ND: Any = DATA.x_ND, **settings: Any) -> TrainResult:
    options: dict[str, Any] = {"n_features": F, "k": K, "n_samples": 250_000, "lr": 5e-3, **settings}
    source, held = ArraySource(x_ND[:10_000], 256), ArraySource(x_ND[HELD], 500)
    return run(TrainConfig(out=out, **options), source=source, held=held)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(tmp_path_factory.mktemp("sae") / "out")


def test_planted_atoms_are_found(trained: TrainResult) -> None:
    w_dec_FD = trained.load().w_dec_FD.numpy()
    assert np.allclose(np.linalg.norm(w_dec_FD, axis=1), 1, atol=1e-5)
    assert (DATA.atoms_FD @ w_dec_FD.T).max(axis=1).mean() > 0.95


def test_held_out_figures_are_those_of_the_definition(trained: TrainResult) -> None:
    held = ArraySource(DATA.x_ND[HELD], 500)
    rows_ND = np.concatenate([batch for batch, _ in zip(held.batches(), range(4), strict=False)])
    x_ND = torch.from_numpy(rows_ND[1::2]).double()
    x_hat_ND = trained.load()(x_ND.float()).double()
    error = (x_ND - x_hat_ND).square().sum()
    metrics = trained.metrics
    assert metrics["held_nmse_raw"] == pytest.approx(float(error / x_ND.square().sum()), rel=1e-6)
    centred = float(error / (x_ND - x_ND.mean(0)).square().sum())
    assert metrics["held_nmse_centred"] == pytest.approx(centred, rel=1e-6)
    assert metrics["held_nmse_raw"] < metrics["held_nmse_centred"] < 0.1
    assert metrics["held_l0"] == pytest.approx(K, rel=0.05)
    assert metrics["dead"] <= 2


def test_the_threshold_refit_gives_l0_of_k(trained: TrainResult) -> None:
    sae = trained.load()
    fresh = torch.from_numpy(planted(40_000, D, F, K, seed=0).x_ND[20_000:])
    sae.threshold_F.fill_(fit_threshold(sae, fresh[0::2]))
    assert evaluate(sae, fresh[0::2]).l0 == pytest.approx(K, abs=1e-3)
    assert evaluate(sae, fresh[1::2]).l0 == pytest.approx(K, rel=0.02)


def test_the_log_is_complete_and_timeless(trained: TrainResult) -> None:
    lines = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    names = {"step", "samples", "nmse_raw", "nmse_centred", "l0", "dead", "threshold", "held_nmse_raw", "held_l0"}
    assert all(names <= line.keys() for line in lines[:-1])
    assert lines[-1] == trained.metrics
    assert not any("time" in name or "sec" in name for line in lines for name in line)
    assert lines[0]["nmse_raw"] > 2 * lines[-2]["nmse_raw"]


def test_raw_data_ten_times_as_large_give_the_same_codes(tmp_path: Path) -> None:
    # In exact arithmetic the scale inside undoes the factor; a power of two makes floats follow exactly.
    small = train(tmp_path / "a", n_samples=20_000).load()
    large = train(tmp_path / "b", x_ND=DATA.x_ND * 16, n_samples=20_000).load()
    x_ND = torch.from_numpy(DATA.x_ND[HELD])
    assert torch.equal(small.encode(x_ND).to_dense(), large.encode(x_ND * 16).to_dense())
    assert torch.allclose(small(x_ND) * 16, large(x_ND * 16), rtol=1e-6)
    ten = train(tmp_path / "c", x_ND=DATA.x_ND * 10, n_samples=2_000).load()
    one = train(tmp_path / "d", n_samples=2_000).load()
    assert torch.allclose(ten(x_ND * 10), one(x_ND) * 10, rtol=1e-2, atol=1e-2)


def half_silent(auxk_coefficient: float, dead_after: int) -> tuple[Trainer, list[float]]:
    """A trainer after 400 steps from a start at which half the encoder is too faint ever to be selected."""
    config = TrainConfig(
        out=Path("unused"), n_features=F, k=K, lr=3e-3, auxk_coefficient=auxk_coefficient, dead_after=dead_after
    )
    resolved, x_ND = resolve_defaults(config, 10_000, D), torch.from_numpy(DATA.x_ND[:10_000])
    statistics = measure(x_ND)
    weights = initial_weights(x_ND, statistics, F, 0.8, seed=0)
    weights["w_enc_FD"][F // 2 :] *= 0.02
    trainer, auxk = Trainer.fresh(resolved, weights, statistics, x_ND), list[float]()
    for _, batch_BD in zip(range(400), ArraySource(DATA.x_ND[:10_000], 256).batches(), strict=False):
        trainer.train_on(batch_BD)
        auxk.append(trainer.log_line()["auxk"])
    return trainer, auxk


def test_dead_features_are_counted_in_samples_and_revived() -> None:
    trainer, auxk = half_silent(1 / 32, dead_after=5_000)
    # 5000 samples are 19.5 batches of 256: the first 20 batches cannot know of any dead feature.
    assert not any(auxk[:20])
    assert auxk[20] > 0
    assert int(trainer.dead_F.sum()) <= 2
    left_dead, off = half_silent(0.0, dead_after=5_000)
    assert not any(off)
    assert int(left_dead.dead_F.sum()) >= F // 4
    # METHODS 11: a rule of 10M samples sees no dead feature in a run of turns, and leaves AuxK silently off.
    blind, never = half_silent(1 / 32, dead_after=10_000_000)
    assert not any(never)
    assert int(blind.dead_F.sum()) == 0


def test_topk_trains_too(tmp_path: Path) -> None:
    result = train(tmp_path / "sae", architecture="topk", n_samples=100_000)
    assert result.load().encode(DATA.x_ND[HELD]).l0_N().max() <= K
    assert result.metrics["held_nmse_centred"] < 0.4


def test_a_finished_run_is_returned_and_another_config_refused(tmp_path: Path) -> None:
    first = train(tmp_path / "sae", n_samples=5_000)
    again = train(tmp_path / "sae", n_samples=5_000)
    assert (again.artifact.fingerprint, dict(again.metrics)) == (first.artifact.fingerprint, dict(first.metrics))
    with pytest.raises(IntegrityError, match="lr"):
        train(tmp_path / "sae", n_samples=5_000, lr=1e-3)


def test_few_rows_for_the_width_are_said(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "sae", n_features=1024, k=4, n_samples=2_000)
    result = run(config, source=ArraySource(DATA.x_ND[:200]))
    assert any("200 rows for 1024 features" in note for note in result.notes)
    assert any("come from training rows" in note for note in result.notes)


@pytest.mark.parametrize(
    ("x_ND", "error", "words"),
    [
        (np.ones((500, 8)), DataError, "constant"),
        (np.zeros((500, 8)), DataError, "constant"),
        (np.full((500, 8), np.nan), DataError, "NaN"),
        (np.random.default_rng(0).normal(size=(99, 8)), DataError, "99 rows"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, x_ND: np.ndarray, error: type[Exception], words: str) -> None:
    config = TrainConfig(out=tmp_path / "sae")
    held = ArraySource(np.random.default_rng(1).normal(size=(200, 8)))
    with pytest.raises(error, match=words):
        run(config, source=ArraySource(x_ND), held=held)
    assert not (tmp_path / "sae" / "manifest.json").exists()


def test_a_row_that_goes_bad_in_mid_run_names_the_step(tmp_path: Path) -> None:
    class Spoiled(ArraySource):
        def batches(self) -> Any:
            for number, batch_BD in enumerate(super().batches()):
                spoiled = batch_BD.copy()
                if number == 70:
                    spoiled[5] = np.nan
                yield spoiled

    source = Spoiled(DATA.x_ND[:10_000], 256)
    with pytest.raises(DataError, match=r"1 of 256 activation rows of step 70"):
        run(TrainConfig(out=tmp_path / "sae", n_features=F, k=K), source=source)


def test_sources_must_be_one_and_of_one_width(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one source"):
        run(TrainConfig(out=tmp_path / "sae"))
    with pytest.raises(ConfigError, match="width 16"):
        run(
            TrainConfig(out=tmp_path / "sae"),
            source=ArraySource(np.random.default_rng(0).normal(size=(200, 8))),
            held=ArraySource(np.random.default_rng(0).normal(size=(200, 16))),
        )


def test_a_gradient_that_is_not_finite_stops_the_run_before_any_weight_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = half_silent(1 / 32, dead_after=5_000)
    before = {name: w.clone() for name, w in trainer.weights.items()}
    step = trainer.architecture.step

    def overflowing(*args: Any) -> Any:
        made = step(*args)
        made.gradients["b_enc_F"][0] = float("nan")
        return made

    monkeypatch.setattr(trainer.architecture, "step", overflowing)
    with pytest.raises(DataError, match="diverged"):
        trainer.train_on(DATA.x_ND[:256])
    assert all(torch.equal(before[name], w) for name, w in trainer.weights.items())
