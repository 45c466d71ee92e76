"""Settings of one training run. `None` means "choose by the data at hand": `defaults.resolve_defaults` says how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from turnscope.artifacts import Config
from turnscope.sae.config import Architecture


class _Shared(Config):
    """Settings that have one default for all data; shared by what a user gives and what a manifest records.

    All counts of data are in samples (rows of the run's own unit), never in tokens of a turn run: a rule of "dead after
    10M tokens" would never trigger in 4.7M turns, and would leave the auxiliary loss silently off (METHODS 7.14, 11).
    """

    unit: Literal["turn", "token", "nested"] = "turn"
    architecture: Architecture = "batchtopk"
    prefixes: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
    """Of matryoshka: shares of the features that must rebuild the input by themselves, beside all of them."""
    sparsity: float | None = Field(default=None, gt=0)
    """Of relu and gated: weight of the penalty; None: steered until k features are active on average. Of jumprelu: of
    the squared distance of the mean number of active features from k; None: 0.3."""
    sparsity_warmup: float = Field(default=0.05, ge=0, le=1)
    """Of relu and gated: share of the run over which a given `sparsity` rises."""
    bandwidth: float = Field(default=1.0, gt=0)
    """Of jumprelu: width of the window around a threshold in which it gets gradient. A pre-activation under a random
    unit direction is of size 1."""
    nested_form: Literal["shared", "decoupled"] = "shared"
    """Of nested: token features read the tokens, or (for comparison) their distance from the turn's mean."""
    turn_share: float = Field(default=0.5, gt=0, lt=1)
    """Of nested: share of the features that form the turn block."""
    turn_weight: float = Field(default=0.8, gt=0, lt=1)
    """Of nested: weight of the error of turn means in the loss; that of tokens has the rest."""
    detach_turn: bool = False
    """Of nested: keep the error of tokens from the turn block."""
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the encoder product in training. In bfloat16 it only shortlists; what it lists is computed again."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """After warm-up: constant and then linear towards zero over `decay_share`; half a cosine from there to the end; or
    constant to the end."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    decay_share: float = Field(default=0.2, ge=0, le=1)
    """Of schedule linear: share of the run over which the rate falls."""
    patience: int | None = Field(default=None, ge=1)
    """Lines of the log without a better held-out error after which the run ends; None: it never ends early."""
    min_delta: float = Field(default=0.0, ge=0)
    """Of patience: by how much the held-out raw nMSE must fall to count as better."""
    clip_norm: float = Field(default=0.01, gt=0)
    """Largest joint norm of a step's gradients. It binds at nearly every step, on purpose: gradients shrink twentyfold
    while the loss falls from 1, and Adam, which remembers those of the start, would slow down."""
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    init_data_share: float = Field(default=0.8, ge=0, le=1)
    """Share p of a centred data point in each initial direction, the rest a random one (METHODS 3.3)."""
    threshold_beta: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of the smallest kept activation."""
    held_rows: int = Field(default=16_384, ge=4)
    """Rows kept from training: one half sets the final threshold, the other gives the figures."""
    shuffle_memory: int = Field(default=1 << 30, ge=1 << 20)
    """Bytes for rows being shuffled: a store that fits is permuted as a whole, of a larger one blocks are mixed."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if not all(0 < share < 1 for share in self.prefixes):
            raise ValueError("prefixes are shares of the features, between 0 and 1")
        if self.schedule == "linear" and self.warmup_share + self.decay_share > 1:
            raise ValueError("warmup_share and decay_share together exceed the whole run")
        if self.unit == "nested" and self.architecture != "batchtopk":
            raise ValueError(f"a nested dictionary is trained with batchtopk, not {self.architecture}")
        if self.unit == "nested" and self.encoder_dtype != "float32":
            raise ValueError(f"a nested dictionary is trained with encoder_dtype float32, not {self.encoder_dtype}")
        return self


class SizeConfig(Config):
    """Size of a dictionary and length of its training. None: chosen by the data, see `defaults.resolve_defaults`."""

    n_features: int | None = Field(default=None, ge=1)
    k: int | None = Field(default=None, ge=1)
    turn_k: int | None = Field(default=None, ge=1)
    """Of nested: active features of a turn, where `k` is those of a token; as many when not given."""
    lr: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data; give this or `n_samples`, not both."""
    n_samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is not None and self.n_samples is not None:
            raise ValueError("give epochs or n_samples, not both")
        if self.k is not None and self.n_features is not None and self.k > self.n_features:
            raise ValueError(f"k = {self.k} is greater than n_features = {self.n_features}")
        return self


class TrainConfig(_Shared, SizeConfig):
    """One sparse autoencoder from one activation source. None: chosen by the data, see `defaults.resolve_defaults`."""

    source: Path | None = None
    """Activation store folder. None when a source object is passed to `run`."""
    out: Path
    """Folder of the finished `sae` artifact."""

    auxk_k: int | None = Field(default=None, ge=1)
    """Dead features that may rebuild each row's residual."""
    dead_after: int | None = Field(default=None, ge=1)
    """Samples without firing after which a feature counts as dead."""
    log_every: int | None = Field(default=None, ge=1)
    """Steps between lines of metrics.jsonl."""

    shuffle_seed: int | None = Field(default=None, ge=0)
    """Seed of the order of rows alone; None: `seed`. Runs with one order share a pass over the data."""
    track: Literal["trackio", "wandb"] | None = None
    """Also send the log's figures there (extra of that name)."""
    track_project: str = "turnscope"

    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints. Changes nothing in the result, so it may differ on resume."""
    mesh: tuple[int, int] | None = None
    """Processes along (batch, features), under torchrun; None: all along the features. Leaves the result as it is."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What processes under torchrun compute on; `cuda` takes one GPU to a process."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None: one for a small dictionary, else as many as torch is set to. A resumed run gives the same
    bytes under the same number."""


class ResolvedConfig(_Shared):
    """What the manifest records: every choice made, no paths, nothing that leaves the result as it is."""

    n_features: int
    k: int
    turn_k: int
    lr: float
    batch_size: int
    n_samples: int
    auxk_k: int
    dead_after: int
    log_every: int
    shuffle_seed: int

    @property
    def n_steps(self) -> int:
        return math.ceil(self.n_samples / self.batch_size)

    @classmethod
    def of(cls, config: TrainConfig, **chosen: float) -> ResolvedConfig:
        """A user's settings with the open ones filled by `chosen`."""
        shared = {name: getattr(config, name) for name in _Shared.model_fields}
        return cls.model_validate({**shared, **chosen})
