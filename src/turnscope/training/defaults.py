"""Settings left open in a `TrainConfig`, chosen by the size of the data (METHODS 1.2, 3.1, 4, 7.14).

The reference is the published single-layer set-up: d = 3584, F = 32768 = 9.14 d, k = 128, 1.58M turns (48 per feature),
batch 256, 3 epochs, lr 2e-4.
"""

from __future__ import annotations

import math

from turnscope.artifacts import ConfigError, DataError
from turnscope.training.config import ResolvedConfig, TrainConfig

MIN_ROWS = 100
REFERENCE_WIDTH, REFERENCE_K, REFERENCE_D = 32_768 / 3584, 128, 3584
REFERENCE_ROWS = 48  # 1.58M turns for 32,768 features
RATE_RULE = "2e-4 sqrt(2^14/F)"
_FEW_ROWS, _FEW_FIRINGS = 1 / 4, 100


def resolve_defaults(config: TrainConfig, n_rows: int, d_model: int) -> ResolvedConfig:
    """The same settings with every open one chosen.

    Raises DataError under 100 rows, ConfigError when k exceeds the number of features.
    """
    if n_rows < MIN_ROWS:
        raise DataError(
            f"{n_rows} rows are too few to train on: at least {MIN_ROWS} are needed",
            where=str(config.source or "the activation source"),
            fix="harvest more conversations",
        )
    # Width: 9.14 d, but no wider than the reference's 48 rows per feature: with fewer, features split into wordings.
    wide = 2 ** round(math.log2(REFERENCE_WIDTH * d_model))
    n_features = config.n_features or max(16, min(wide, 2 ** round(math.log2(n_rows / REFERENCE_ROWS))))
    if config.unit == "nested" and n_features < 2:
        where = "TrainConfig.n_features"
        raise ConfigError("a nested dictionary needs a feature for each block", where=where, fix="raise n_features")
    # k scaled by d itself would leave small models 5 to 10 features a turn; measured on two of them, a turn needs more
    # (docs/design/training.md).
    k = config.k or min(round(REFERENCE_K * math.sqrt(d_model / REFERENCE_D)), max(1, n_features // 4))
    if k > n_features:
        raise ConfigError(
            f"k = {k} is greater than the {n_features} features there are",
            where="TrainConfig.k",
            fix="lower k or raise n_features",
        )
    default_batch = {"turn": 256, "token": 1024, "nested": 64}[config.unit]
    batch_size = config.batch_size or min(default_batch, 2 ** int(math.log2(n_rows / 4)))
    batch_size = min(batch_size, n_rows)

    if config.n_samples is not None:
        n_samples = config.n_samples
    elif config.epochs is not None:
        n_samples = math.ceil(config.epochs * n_rows)
    else:
        # Turns: 3 epochs, tokens: one; on small data as many as make 2M samples, 60 at most.
        n_samples = max((1 if config.unit == "token" else 3) * n_rows, min(2_000_000, 60 * n_rows))
    # 75k turns and the published 10M tokens suit runs of millions; a short run must notice within 1/40 of itself.
    longest_silence = 10_000_000 if config.unit == "token" else 75_000
    return ResolvedConfig.of(
        config,
        n_features=n_features,
        k=k,
        turn_k=config.turn_k or k,
        batch_size=batch_size,
        n_samples=n_samples,
        lr=config.lr or 2e-4 * math.sqrt(2**14 / n_features),
        auxk_k=config.auxk_k or min(n_features, 2 ** round(math.log2(max(2, d_model / 2)))),
        dead_after=config.dead_after or min(longest_silence, max(10 * batch_size, n_samples // 40)),
        log_every=config.log_every or max(1, math.ceil(n_samples / batch_size) // 60),
        shuffle_seed=config.seed if config.shuffle_seed is None else config.shuffle_seed,
    )


def scarcity(config: ResolvedConfig, n_rows: int) -> list[str]:
    """Notes on data that are too few for the number of features."""
    notes = list[str]()
    if n_rows < config.n_features * _FEW_ROWS:
        notes.append(
            f"{n_rows} rows for {config.n_features} features (fewer than one row per four features): "
            "many features will be dead or hold a single row"
        )
    firings = config.n_samples * config.k / config.n_features
    if firings < _FEW_FIRINGS:
        notes.append(
            f"{config.n_samples} samples of k {config.k} are {firings:.0f} for each of {config.n_features} features: "
            f"under {_FEW_FIRINGS} little is learned (the published set-up has 18,000); train longer or narrower"
        )
    return notes


def learning_rate(config: ResolvedConfig, step: int) -> float:
    """Rate of step 0..n_steps-1: linear warm-up, then as `schedule` says; it ends towards zero, or constant."""
    warmup, decay = config.warmup_share * config.n_steps, config.decay_share * config.n_steps
    rise = (step + 1) / warmup if warmup > 0 else 1.0
    if config.schedule == "cosine":
        done = max(0.0, step - warmup) / max(1.0, config.n_steps - warmup)
        return config.lr * min(1.0, rise) * (1 + math.cos(math.pi * done)) / 2
    fall = (config.n_steps - step) / decay if decay > 0 and config.schedule == "linear" else 1.0
    return config.lr * min(1.0, rise, fall)
