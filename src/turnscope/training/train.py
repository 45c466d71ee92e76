"""Training, start to finish: an activation source in, a finished `sae` artifact out."""

from __future__ import annotations

from turnscope.artifacts import ConfigError
from turnscope.harvest.source import ActivationSource
from turnscope.harvest.turn_tokens import TurnTokenSource
from turnscope.training.config import TrainConfig
from turnscope.training.job import METRICS_NAME, TrainResult
from turnscope.training.several import Rows, run_several
from turnscope.training.sources import Origin

__all__ = ["METRICS_NAME", "TrainResult", "run", "run_several"]


def run(
    config: TrainConfig,
    *,
    source: ActivationSource | TurnTokenSource | None = None,
    held: ActivationSource | TurnTokenSource | None = None,
    origin: Origin | None = None,
) -> TrainResult:
    """Train one sparse autoencoder, or go on with a half-trained one, or return a finished one.

    Args:
        config: settings; with `config.source`, rows come from that activation store: split `train` to learn from,
            `explain` to set the threshold and to report on, so that `eval` stays unseen.
        source: rows to learn from, instead of a store.
        held: rows not in `source`, of the same width. Without them the threshold and the final figures come from
            training rows, and a note says so.
        origin: where a source object's rows were read (site, roles, model, ...), for `sae.json`.

    Raises:
        ConfigError: no source or two, k > F, widths that differ.
        DataError: fewer than 100 rows, constant or non-finite activations, divergence (naming the step).
        IntegrityError: `config.out` holds a run of other settings or other data, or another process writes there.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
    """
    if (config.source is None) == (source is None):
        raise ConfigError("one source is needed: a store folder or a source object", where="TrainConfig.source")
    rows = None if source is None else [Rows(source, held, origin or Origin())]
    (result,) = run_several([config], rows)
    return result
