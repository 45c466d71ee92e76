"""Training, start to finish: an activation source in, a finished `sae` artifact out.

Legend: N rows, B batch, D width, F features.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnscope.artifacts import Artifact, ConfigError, DataError, Draft, begin, progress, sole_writer, write_text
from turnscope.harvest.source import ActivationSource
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.training.checkpoint import load_checkpoint, save_checkpoint
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import resolve_defaults
from turnscope.training.initial import initial_weights, measure
from turnscope.training.interrupt import Pending, deferred_signals
from turnscope.training.metrics import HeldMetrics, evaluate
from turnscope.training.sources import Origin, held_source, open_source, take
from turnscope.training.threshold import fit_threshold
from turnscope.training.trainer import Trainer

METRICS_NAME = "metrics.jsonl"
_STATISTICS_ROWS = 131_072
_LOG_HELD_ROWS = 2048
_SMALL_WEIGHTS = 1 << 18


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished dictionary. `metrics` is the last line of metrics.jsonl; `notes` say what a reader should know."""

    artifact: Artifact
    config: ResolvedConfig
    metrics: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.artifact.path

    def load(self) -> SparseAutoencoder:
        """The dictionary."""
        return SparseAutoencoder.load(self.path)


def run(
    config: TrainConfig,
    *,
    source: ActivationSource | None = None,
    held: ActivationSource | None = None,
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
    if source is None:
        assert config.source is not None
        source, held, origin = open_source(config.source, config)
    notes = list[str]()
    if held is not None and held.d_model != source.d_model:
        raise ConfigError(f"held rows have width {held.d_model}, training rows {source.d_model}", where="held")
    resolved = resolve_defaults(config, source.n_rows, source.d_model)
    if source.n_rows < resolved.n_features / 4:
        notes.append(
            f"{source.n_rows} rows for {resolved.n_features} features (fewer than one row per four features): "
            "many features will be dead or hold a single row"
        )
    held, held_note = held_source(held)
    notes.extend(held_note)
    inputs = {"activations": source.fingerprint, "held": held.fingerprint if held else "none"}
    provenance = origin or Origin()
    sae_config = SAEConfig(
        d_model=source.d_model,
        n_features=resolved.n_features,
        k=resolved.k,
        architecture=resolved.architecture,
        unit=resolved.unit,
        input_fingerprint=source.fingerprint,
        **provenance.model_dump(),
    )
    with sole_writer(config.out):
        work = begin(config.out, "sae", resolved, inputs)
        if isinstance(work, Artifact):
            return TrainResult(work, resolved, _last_line(work.path / METRICS_NAME), tuple(notes))
        with _threads(config.threads, resolved.n_features * source.d_model), ExitStack() as open_log:
            held_ND = _held_rows(held or source, resolved)
            with deferred_signals() as pending:
                trainer, log = _start(resolved, source, work)
                open_log.callback(log.close)
                if not _fit(config, trainer, log, source, held_ND, sae_config, work, pending):
                    done = f"{trainer.step} of {resolved.n_steps}"
                    print(f"stopped after step {done}, saved; run the same command again to go on", file=sys.stderr)
            if pending.signal is not None:
                raise KeyboardInterrupt  # reached only where the signal's own handler let the program live
            return _finish(trainer, log, held_ND, sae_config, work, tuple(notes))


@contextmanager
def _threads(wanted: int | None, n_weights: int) -> Generator[None]:
    """Threads for the block. Small dictionaries get one: a second gains a third on an idle machine and, on a busy one,
    loses tenfold waiting at barriers (measured: 2.5 ms a step against 30); and the result then does not depend on the
    number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or (1 if n_weights <= _SMALL_WEIGHTS else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _held_rows(source: ActivationSource, config: ResolvedConfig) -> Tensor:
    held_ND = take(source, config.held_rows)
    if not bool(torch.isfinite(held_ND).all()):
        raise DataError("the held-out activations hold NaN or infinite values", where=f"{held_ND.shape[0]} rows")
    return held_ND


def _start(config: ResolvedConfig, source: ActivationSource, draft: Draft) -> tuple[Trainer, _Log]:
    """A trainer from the checkpoint, or a fresh one, and its log cut back to the same step."""
    stored = load_checkpoint(draft.work, Trainer.layout(config, source.d_model))
    if stored is not None:
        tensors, state = stored
        source.load_state_dict(state["source"])
        return Trainer.restore(config, tensors, state["trainer"]), _Log(draft.work / METRICS_NAME, state["log_bytes"])
    sample_ND = take(source, _STATISTICS_ROWS)
    statistics = measure(sample_ND)
    weights = initial_weights(sample_ND, statistics, config.n_features, config.init_data_share, config.seed)
    return Trainer.fresh(config, weights, statistics, sample_ND), _Log(draft.work / METRICS_NAME, 0)


def _fit(
    config: TrainConfig,
    trainer: Trainer,
    log: _Log,
    source: ActivationSource,
    held_ND: Tensor,
    sae_config: SAEConfig,
    draft: Draft,
    pending: Pending,
) -> bool:
    """Steps until the end; False when a signal stopped it, with a checkpoint of the last whole step."""
    resolved = trainer.config
    watched_ND = held_ND[:_LOG_HELD_ROWS]

    def checkpoint() -> None:
        tensors, values = trainer.checkpoint()
        state = {"trainer": values, "source": source.state_dict(), "log_bytes": log.flush()}
        save_checkpoint(draft.work, tensors, state)

    label = f"train {resolved.unit} SAE: {resolved.n_features} features, k {resolved.k}, lr {resolved.lr:.1e}"
    with progress(label, total=resolved.n_samples, unit="samples") as bar:
        bar.advance(min(trainer.samples, resolved.n_samples))
        fields: dict[str, Any] = {}
        for batch_BD in source.batches() if trainer.step < resolved.n_steps else ():
            trainer.train_on(batch_BD)
            if trainer.step % resolved.log_every == 0:
                line = trainer.log_line()
                seen = evaluate(trainer.to_sae(sae_config), watched_ND)
                line |= {"held_nmse_raw": seen.nmse_raw, "held_nmse_centred": seen.nmse_centred, "held_l0": seen.l0}
                log.write(line)
                fields = {"nmse": f"{line['nmse_raw']:.3f}", "l0": f"{seen.l0:.1f}", "dead": line["dead"]}
            bar.advance(len(batch_BD), **fields)
            if pending.signal is not None:
                checkpoint()
                return False
            if trainer.step == resolved.n_steps:
                break
            if trainer.step % config.checkpoint_every == 0:
                checkpoint()
    checkpoint()
    return True


def _finish(
    trainer: Trainer, log: _Log, held_ND: Tensor, sae_config: SAEConfig, draft: Draft, notes: tuple[str, ...]
) -> TrainResult:
    """Set the threshold on one half of the held rows, measure on the other, write and commit."""
    sae = trainer.to_sae(sae_config)
    running = float(sae.threshold_F.mean())
    if sae_config.architecture in ("batchtopk", "matryoshka"):
        sae.threshold_F.fill_(fit_threshold(sae, held_ND[0::2]))
    held: HeldMetrics = evaluate(sae, held_ND[1::2])
    dead = int(trainer.dead_F.sum())
    final = {
        "final": True,
        "step": trainer.step,
        "samples": trainer.samples,
        "threshold": float(sae.threshold_F.mean()),
        "running_threshold": running,
        "dead": dead,
        **held.summary(),
    }
    log.write(final)
    log.flush()
    sae.save(draft.path)
    write_text(draft.path / METRICS_NAME, log.path.read_text(encoding="utf-8"))
    artifact = draft.commit({"samples": trainer.samples, "steps": trainer.step, "dead": dead})
    return TrainResult(artifact, trainer.config, final, notes)


class _Log:
    """metrics.jsonl in the making: appended to, and on resume cut back to the checkpoint's length."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._file.truncate(size)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def flush(self) -> int:
        """Force everything to disk; returns the length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def _last_line(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
