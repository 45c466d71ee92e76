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

from turnscope.artifacts import Artifact, ConfigError, Draft, progress, write_text
from turnscope.harvest.source import ActivationSource
from turnscope.harvest.turn_tokens import TurnTokenSource
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.nested import NestedSAE
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import resolve_defaults
from turnscope.training.distributed.mesh import Mesh, begun, joined
from turnscope.training.interrupt import Pending, deferred_signals
from turnscope.training.of_rows import OfRows
from turnscope.training.of_turns import OfTurns
from turnscope.training.sources import Origin, held_source, open_source
from turnscope.training.trainer import Trainer

METRICS_NAME = "metrics.jsonl"
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
        """The dictionary. Of a nested one use `load_nested`."""
        return SparseAutoencoder.load(self.path)

    def load_nested(self) -> NestedSAE:
        """The nested dictionary. StorageError when it is not one."""
        return NestedSAE.load(self.path)


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
        unit="token" if resolved.unit == "token" else "turn",  # a nested one has a block of each
        input_fingerprint=source.fingerprint,
        **provenance.model_dump(),
    )
    with joined(config.mesh, config.device) as mesh, begun(config.out, "sae", resolved, inputs, mesh) as work:
        if isinstance(work, Artifact):
            return TrainResult(work, resolved, _last_line(work.path / METRICS_NAME), tuple(notes))
        with _threads(config.threads, resolved.n_features * source.d_model), ExitStack() as open_log:
            kind = _kind(resolved, sae_config, mesh)
            held_data = kind.held(held or source)
            with deferred_signals() as pending:
                trainer, log = _start(kind, source, work, mesh)
                open_log.callback(log.close)
                if not _fit(config, kind, trainer, log, source, held_data, work, pending, mesh) and mesh.is_first:
                    done = f"{trainer.step} of {resolved.n_steps}"
                    print(f"stopped after step {done}, saved; run the same command again to go on", file=sys.stderr)
            if pending.signal is not None:
                raise KeyboardInterrupt  # reached only where the signal's own handler let the program live
            return _finish(kind, trainer, log, held_data, work, tuple(notes), mesh)


def _kind(config: ResolvedConfig, sae_config: SAEConfig, mesh: Mesh) -> Any:
    if mesh.is_spread:
        from turnscope.training.distributed.of_shards import OfShards

        return OfShards(config, sae_config, mesh)
    return (OfTurns if config.unit == "nested" else OfRows)(config, sae_config)


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


def _start(kind: Any, source: Any, draft: Draft, mesh: Mesh) -> tuple[Trainer, _Log]:
    """A trainer from the checkpoint, or a fresh one, and its log cut back to the same step."""
    path = draft.work / METRICS_NAME if mesh.is_first else Path(os.devnull)
    stored = kind.saved(draft.work, source.d_model)
    if stored is not None:
        trainer, state = stored
        source.load_state_dict(state["source"])
        return trainer, _Log(path, state["log_bytes"])
    return kind.begin(source), _Log(path, 0)


def _fit(
    config: TrainConfig,
    kind: Any,
    trainer: Trainer,
    log: _Log,
    source: ActivationSource | TurnTokenSource,
    held: Any,
    draft: Draft,
    pending: Pending,
    mesh: Mesh,
) -> bool:
    """Steps until the end; False when a signal stopped it, with a checkpoint of the last whole step."""
    resolved = trainer.config

    def checkpoint() -> None:
        trainer.save(draft.work, {"source": source.state_dict(), "log_bytes": log.flush()})

    label = f"train {resolved.unit} SAE: {resolved.n_features} features, k {resolved.k}, lr {resolved.lr:.1e}"
    with progress(label, total=resolved.n_samples, unit="samples") as bar:
        bar.advance(min(trainer.samples, resolved.n_samples))
        fields: dict[str, Any] = {}
        for batch in source.batches() if trainer.step < resolved.n_steps else ():
            trainer.train_on(batch)
            if trainer.step % resolved.log_every == 0:
                line = trainer.log_line() | kind.watch(trainer, held)
                log.write(line)
                fields = {"nmse": f"{line['nmse_raw']:.3f}", "l0": f"{line['l0']:.1f}", "dead": line["dead"]}
            bar.advance(len(batch), **fields)
            if signal := int(mesh.everyone.largest(pending.signal or 0)):
                pending.signal = signal
                checkpoint()
                return False
            if trainer.step == resolved.n_steps:
                break
            if trainer.step % config.checkpoint_every == 0:
                checkpoint()
    checkpoint()
    return True


def _finish(
    kind: Any, trainer: Trainer, log: _Log, held: Any, draft: Draft, notes: tuple[str, ...], mesh: Mesh
) -> TrainResult:
    """Set thresholds on one half of what was held out, measure on the other, write and commit."""
    sae, figures = kind.finish(trainer, held)
    dead = trainer.n_dead
    final = {"final": True, "step": trainer.step, "samples": trainer.samples, "dead": dead, **figures}
    log.write(final)
    log.flush()
    sae.save(draft.path)

    def commit() -> Artifact:
        write_text(draft.path / METRICS_NAME, log.path.read_text(encoding="utf-8"))
        return draft.commit({"samples": trainer.samples, "steps": trainer.step, "dead": dead})

    artifact = mesh.first(commit) or Artifact.open(draft.path, "sae")
    return TrainResult(artifact, trainer.config, final, notes)


class _Log:
    """metrics.jsonl in the making: appended to, and on resume cut back to the checkpoint's length."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8", newline="\n")
        if path != Path(os.devnull):
            self._file.truncate(size)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def flush(self) -> int:
        """Force everything to disk; returns the length in bytes."""
        self._file.flush()
        if self.path != Path(os.devnull):
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def _last_line(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
