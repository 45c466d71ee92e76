"""The kinds of dictionary that can be trained, one file each: activation rule, loss, gradients."""

from __future__ import annotations

from turnscope.training.architectures._flat import Flat
from turnscope.training.architectures.gated import Gated
from turnscope.training.architectures.jumprelu import JumpReLU
from turnscope.training.architectures.matryoshka import Matryoshka
from turnscope.training.architectures.nested import Nested
from turnscope.training.architectures.relu import ReLU
from turnscope.training.architectures.topk import BatchTopK, TopK
from turnscope.training.config import ResolvedConfig
from turnscope.training.step import Architecture

_BY_NAME: dict[str, type[Flat]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "relu": ReLU,
    "jumprelu": JumpReLU,
    "gated": Gated,
}


def make(config: ResolvedConfig, variance: float, token_variance: float = 0.0) -> Architecture:
    """The architecture that the settings name. Errors of the best constant predictors: of rows or turns, of tokens."""
    if config.unit == "nested":
        return Nested(config, variance, token_variance)  # pyright: ignore[reportReturnType]  (starts its own way)
    kind = _BY_NAME[config.architecture]
    return kind(config, variance)  # pyright: ignore[reportReturnType]  (Flat alone has no step)
