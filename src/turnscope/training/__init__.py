"""Training of sparse autoencoders from any source of activations; knows nothing of language models."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.training.config import ResolvedConfig as ResolvedConfig
    from turnscope.training.config import TrainConfig as TrainConfig
    from turnscope.training.defaults import resolve_defaults as resolve_defaults
    from turnscope.training.job import TrainResult as TrainResult
    from turnscope.training.metrics import HeldMetrics as HeldMetrics
    from turnscope.training.metrics import evaluate as evaluate
    from turnscope.training.several import Rows as Rows
    from turnscope.training.several import run_several as run_several
    from turnscope.training.sources import ArraySource as ArraySource
    from turnscope.training.sources import Origin as Origin
    from turnscope.training.train import run as run

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "ArraySource": "sources",
        "HeldMetrics": "metrics",
        "Origin": "sources",
        "ResolvedConfig": "config",
        "TrainConfig": "config",
        "Rows": "several",
        "TrainResult": "job",
        "evaluate": "metrics",
        "resolve_defaults": "defaults",
        "run": "train",
        "run_several": "several",
    },
)
