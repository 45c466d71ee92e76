"""One dictionary in training: its trainer, its log, its checkpoint and its end. It is handed batches by `several`."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from turnscope.artifacts import Artifact, Draft, IntegrityError, write_text
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.nested import NestedSAE
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.distributed.mesh import Mesh
from turnscope.training.early import EarlyStop
from turnscope.training.of_rows import OfRows
from turnscope.training.of_turns import OfTurns
from turnscope.training.sources import Source
from turnscope.training.trackers import Tracker, tracker

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

    @staticmethod
    def of(artifact: Artifact, config: ResolvedConfig, notes: tuple[str, ...]) -> TrainResult:
        """The result of a run that was finished before."""
        last = (artifact.path / METRICS_NAME).read_text(encoding="utf-8").splitlines()[-1]
        return TrainResult(artifact, config, json.loads(last), notes)


class Job:
    """A run that is under way, fresh or from its checkpoint.

    Args:
        config: what the user gave.
        resolved: what it came to.
        sae_config: of the finished dictionary.
        draft: the artifact in the making.
        source: where batches come from; its state goes into the checkpoint. Fresh weights come from its first rows.
        held: rows that no batch holds, as the kind of run keeps them.
        mesh: this process among others.
        notes: for the result.
    """

    def __init__(
        self, config: TrainConfig, resolved: ResolvedConfig, sae_config: SAEConfig, draft: Draft, source: Source,
        mesh: Mesh, notes: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.config, self.resolved, self.source, self.mesh, self.notes = config, resolved, source, mesh, notes
        self.kind, self._draft = _kind(resolved, sae_config, mesh), draft
        self._stop = EarlyStop(resolved.patience, resolved.min_delta)
        small = resolved.n_features * source.d_model <= _SMALL_WEIGHTS
        self._threads = config.threads or (1 if small else torch.get_num_threads())
        self.source_state: dict[str, Any] | None = None
        """Where the source stood at the checkpoint that the run goes on from; None for a fresh one."""
        self.shown: dict[str, Any] = {}
        """The last figures, for the progress bar."""

    def open(self, rows: Any, held: Any) -> None:
        """Take the checkpoint, or start from the first of `rows`; cut the log back to the same step."""
        self._held = held
        path = self._draft.work / METRICS_NAME if self.mesh.is_first else Path(os.devnull)
        stored = self.kind.saved(self._draft.work, self.source.d_model)
        if stored is None:
            with threads(self._threads):
                self.trainer, size = self.kind.begin(rows), 0
        else:
            self.trainer, state = stored
            self.source_state, size = state["source"], state["log_bytes"]
            self._stop.restore(state["early"])
        self._log = Log(path, size)
        self._tracker: Tracker = tracker(
            self.config.track if self.mesh.is_first else None, self.config.track_project, self.config.out.name,
            self.resolved.recorded(),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the log and the tracker."""
        self._log.close()
        self._tracker.close()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.trainer.step

    @property
    def is_done(self) -> bool:
        """Whether the last step is taken, or there is no more to be gained."""
        return self.step >= self.resolved.n_steps or self._stop.says_stop

    def take(self, batch: Any) -> None:
        """One step, its line of the log when one is due, and a checkpoint when one is or when it was the last."""
        with threads(self._threads):
            self.trainer.train_on(batch)
            if self.step % self.resolved.log_every == 0:
                self._write_line()
        if self.is_done or self.step % self.config.checkpoint_every == 0:
            self.checkpoint()

    def _write_line(self) -> None:
        line = self.trainer.log_line() | self.kind.watch(self.trainer, self._held)
        self._log.write(line)
        self._tracker.log(line)
        self._stop.see(line["held_nmse_raw"])
        self.shown = {"nmse": f"{line['nmse_raw']:.3f}", "l0": f"{line['l0']:.1f}", "dead": line["dead"]}

    def checkpoint(self) -> None:
        """Write down everything that the next step depends on. To be called between batches."""
        state = {"source": self.source.state_dict(), "log_bytes": self._log.flush(), "early": self._stop.state()}
        self.trainer.save(self._draft.work, state)

    def finish(self) -> TrainResult:
        """Set thresholds on one half of what was held out, measure on the other, write and commit."""
        trainer, draft = self.trainer, self._draft
        with threads(self._threads):
            sae, figures = self.kind.finish(trainer, self._held)
        dead = trainer.n_dead
        final = {"final": True, "step": trainer.step, "samples": trainer.samples, "dead": dead, **figures}
        self._log.write(final)
        self._log.flush()
        self._tracker.log(final)
        sae.save(draft.path)

        def commit() -> Artifact:
            write_text(draft.path / METRICS_NAME, self._log.path.read_text(encoding="utf-8"))
            return draft.commit({"samples": trainer.samples, "steps": trainer.step, "dead": dead})

        artifact = self.mesh.first(commit) or Artifact.open(draft.path, "sae")
        notes = self.notes
        if trainer.step < self.resolved.n_steps:
            notes += (f"stopped after step {trainer.step} of {self.resolved.n_steps}: the held-out error fell no more",)
        return TrainResult(artifact, trainer.config, final, notes)


@contextmanager
def threads(number: int) -> Generator[None]:
    """Threads for the block. Small dictionaries get one: a second gains a third on an idle machine and, on a busy one,
    loses tenfold waiting at barriers (measured: 2.5 ms a step against 30); and the result then does not depend on the
    number of cores, nor on what is trained beside.
    """
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)


def _kind(config: ResolvedConfig, sae_config: SAEConfig, mesh: Mesh) -> Any:
    if mesh.is_spread:
        from turnscope.training.distributed.of_shards import OfShards

        return OfShards(config, sae_config, mesh)
    return (OfTurns if config.unit == "nested" else OfRows)(config, sae_config)


class Log:
    """metrics.jsonl in the making: appended to, and on resume cut back to the checkpoint's length."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8", newline="\n")
        if path != Path(os.devnull):
            if path.stat().st_size < size:
                raise IntegrityError(
                    f"{path.name} is shorter than its checkpoint says",
                    where=str(path.parent),
                    fix="begin in a new folder",
                )
            self._file.truncate(size)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def flush(self) -> int:
        """Force everything to disk; returns the length in bytes."""
        self._file.flush()
        if self.path != Path(os.devnull):
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
