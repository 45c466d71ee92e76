"""Settings: what is chosen when nothing is said, and what is refused."""

from pathlib import Path

import pytest

from turnscope.artifacts import ConfigError, DataError
from turnscope.training import TrainConfig, resolve_defaults
from turnscope.training.defaults import learning_rate

OUT = Path("sae")


def test_at_the_published_size_the_published_settings() -> None:
    resolved = resolve_defaults(TrainConfig(out=OUT), 1_580_000, 3584)
    assert (resolved.n_features, resolved.k, resolved.batch_size) == (32_768, 128, 256)
    assert resolved.n_samples == 3 * 1_580_000
    assert resolved.dead_after == 75_000


def test_the_token_rule_for_dead_features_would_never_trigger_on_turns() -> None:
    # METHODS 11: 3 epochs of 1.58M turns are 4.74M samples, under half of the published 10M-token silence.
    resolved = resolve_defaults(TrainConfig(out=OUT), 1_580_000, 3584)
    assert resolved.n_samples < 10_000_000
    assert resolved.dead_after < resolved.n_samples / 20


@pytest.mark.parametrize("n_rows", [100, 1000, 60_000, 500_000])
@pytest.mark.parametrize("d_model", [4, 128, 384])
@pytest.mark.parametrize("unit", ["turn", "token"])
def test_choices_hold_together_at_every_size(n_rows: int, d_model: int, unit: str) -> None:
    resolved = resolve_defaults(TrainConfig(out=OUT, unit=unit), n_rows, d_model)  # type: ignore[arg-type]
    assert resolved.k <= resolved.n_features <= max(16, n_rows / 8)
    assert resolved.batch_size <= n_rows
    assert resolved.dead_after < resolved.n_samples
    assert resolved.auxk_k <= resolved.n_features
    assert resolved.n_samples <= 60 * n_rows


def test_the_demo_gets_about_a_thousand_features() -> None:
    resolved = resolve_defaults(TrainConfig(out=OUT), 60_000, 128)
    assert (resolved.n_features, resolved.k, resolved.n_samples) == (1024, 24, 2_000_000)


def test_the_rate_rises_holds_and_falls() -> None:
    resolved = resolve_defaults(TrainConfig(out=OUT, lr=1.0, n_samples=100_000, batch_size=1000), 5000, 16)
    rates = [learning_rate(resolved, step) for step in range(resolved.n_steps)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[5:80]) == {1.0}
    assert rates[-1] == pytest.approx(0.05)
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="k = 9"):
        TrainConfig(out=OUT, n_features=8, k=9)
    with pytest.raises(ConfigError, match="greater than"):
        resolve_defaults(TrainConfig(out=OUT, k=600), 1000, 8)
    with pytest.raises(ConfigError, match="not both"):
        TrainConfig(out=OUT, epochs=1, n_samples=5)
    with pytest.raises(ConfigError, match="whole run"):
        TrainConfig(out=OUT, warmup_share=0.5, decay_share=0.6)
    with pytest.raises(DataError, match="99 rows"):
        resolve_defaults(TrainConfig(out=OUT), 99, 8)
