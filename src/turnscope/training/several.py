"""Several dictionaries over one pass of the data, each the artifact that it would be by itself.

Every source is read once, and each of its batches goes to all dictionaries that learn from it: other widths, k,
architectures, learning rates, lengths or initial seeds, or other sites where the sources are of one live harvest, since
sources take turns batch by batch. A dictionary that is finished is returned, one that was killed goes on from its own
checkpoint (those further on wait until the pass has come there), and one that ends early is written at once.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from turnscope.artifacts import Artifact, ConfigError, progress
from turnscope.sae import SAEConfig
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import RATE_RULE, resolve_defaults, scarcity
from turnscope.training.distributed.mesh import Mesh, begun, joined
from turnscope.training.interrupt import Pending, deferred_signals
from turnscope.training.job import Job, TrainResult
from turnscope.training.sources import Once, Origin, Source, held_source, open_source


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows come from: to learn from, to hold the result against, and what `sae.json` says of them."""

    source: Source
    held: Source | None = None
    origin: Origin = field(default_factory=Origin)


def run_several(configs: Sequence[TrainConfig], rows: Sequence[Rows] | None = None) -> list[TrainResult]:
    """Train dictionaries together, or go on with them; results are in the order of the configs.

    Args:
        configs: settings. Those that name the same store and draw the same batches of it (unit, batch_size,
            shuffle_seed, shuffle_memory) share a pass.
        rows: for each config where its rows come from, instead of stores; one and the same source object is one pass.

    Raises as `train.run` does, before any work where settings alone are at fault; ConfigError also for two
    dictionaries in one folder.
    """
    folders = [config.out.resolve() for config in configs]
    if twice := {str(folder) for folder in folders if folders.count(folder) > 1}:
        raise ConfigError(f"two dictionaries in one folder: {', '.join(sorted(twice))}", where="out")
    wanted = [_Wanted.of(config, given) for config, given in zip(configs, rows or _opened(configs), strict=True)]
    results: dict[int, TrainResult] = {}
    with _shared_settings(configs) as mesh, ExitStack() as open_folders:
        jobs: dict[int, Job] = {}
        for number, one in enumerate(wanted):
            work = open_folders.enter_context(begun(one.config.out, "sae", one.resolved, one.inputs, mesh))
            if isinstance(work, Artifact):
                results[number] = TrainResult.of(work, one.resolved, one.notes)
            else:
                source = one.rows.source
                jobs[number] = Job(one.config, one.resolved, one.sae_config, work, source, mesh, one.notes)
        if jobs:
            _fit(jobs, {number: wanted[number] for number in jobs}, mesh, results)
    return [results[number] for number in range(len(configs))]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One dictionary before its folder is opened: everything that can be refused is settled."""

    config: TrainConfig
    rows: Rows
    resolved: ResolvedConfig
    notes: tuple[str, ...]

    @staticmethod
    def of(config: TrainConfig, rows: Rows) -> _Wanted:
        source, held = rows.source, rows.held
        if held is not None and held.d_model != source.d_model:
            raise ConfigError(f"held rows have width {held.d_model}, training rows {source.d_model}", where="held")
        resolved = resolve_defaults(config, source.n_rows, source.d_model)
        held, held_notes = held_source(held)
        notes = (*scarcity(resolved, source.n_rows), *held_notes)
        return _Wanted(config, Rows(source, held, rows.origin), resolved, notes)

    @property
    def inputs(self) -> dict[str, str]:
        held = self.rows.held
        return {"activations": self.rows.source.fingerprint, "held": held.fingerprint if held else "none"}

    @property
    def sae_config(self) -> SAEConfig:
        return SAEConfig(
            d_model=self.rows.source.d_model,
            n_features=self.resolved.n_features,
            k=self.resolved.k,
            architecture=self.resolved.architecture,
            unit="token" if self.resolved.unit == "token" else "turn",  # a nested one has a block of each
            input_fingerprint=self.rows.source.fingerprint,
            **self.rows.origin.model_dump(),
        )


def _opened(configs: Sequence[TrainConfig]) -> list[Rows]:
    """Rows of each config's store; the same object where the same batches are drawn."""
    there: dict[tuple[Any, ...], Rows] = {}
    found = list[Rows]()
    for config in configs:
        if config.source is None:
            raise ConfigError("one source is needed: a store folder or a source object", where="TrainConfig.source")
        rows = Rows(*open_source(config.source, config))
        key = (config.source.resolve(), rows.source.fingerprint, *_drawn(rows.source))
        found.append(there.setdefault(key, rows))
    return found


def _drawn(source: Source) -> tuple[str, ...]:
    """What a fresh source's state says of how it draws."""
    return tuple(f"{name}={value}" for name, value in sorted(source.state_dict().items()))


@contextmanager
def _shared_settings(configs: Sequence[TrainConfig]) -> Generator[Mesh]:
    """The mesh for all. ConfigError when they ask for different ones."""
    if len({(config.mesh, config.device) for config in configs}) > 1:
        raise ConfigError("dictionaries of one pass need the same mesh and device", where="run_several")
    with joined(configs[0].mesh, configs[0].device) as mesh:
        yield mesh


def _fit(jobs: Mapping[int, Job], wanted: Mapping[int, _Wanted], mesh: Mesh, results: dict[int, TrainResult]) -> None:
    """Steps until all are finished. KeyboardInterrupt after a signal, once every one has a checkpoint."""
    with ExitStack() as open_jobs, deferred_signals() as pending:
        passes = [_Pass(source, chosen) for source, chosen in _by_source(jobs).items()]
        for one in passes:
            one.open([wanted[number].rows.held for number in one.jobs], open_jobs)
        if not _steps(passes, mesh, pending, results) and mesh.is_first:
            left = [job for one in passes for job in one.left]
            done = ", ".join(f"{job.step} of {job.resolved.n_steps}" for job in left)
            print(f"stopped after step {done}, saved; run the same command again to go on", file=sys.stderr)
    if pending.signal is not None:
        raise KeyboardInterrupt  # reached only where the signal's own handler let the program live


def _by_source(jobs: Mapping[int, Job]) -> dict[Source, dict[int, Job]]:
    found: dict[Source, dict[int, Job]] = {}
    for number, job in jobs.items():
        found.setdefault(job.source, {})[number] = job
    return found


class _Pass:
    """One source, and the dictionaries that learn from it."""

    def __init__(self, source: Source, jobs: dict[int, Job]) -> None:
        self.source, self.jobs = source, jobs
        self.finished = set[int]()

    def open(self, held: Sequence[Source | None], open_jobs: ExitStack) -> None:
        """Start or resume every job, and go to where the one that is furthest behind stands."""
        start = self.source.state_dict()
        shared = len(self.jobs) > 1
        once: dict[int, Any] = {}

        def rows_of(source: Source) -> Any:
            return once.setdefault(id(source), Once(source)) if shared else source

        kept: dict[tuple[int, int], Any] = {}
        for job, held_rows in zip(self.jobs.values(), held, strict=True):
            chosen = held_rows or self.source
            key = (id(chosen), job.resolved.held_rows)
            if key not in kept:
                kept[key] = job.kind.held(rows_of(chosen))
            job.open(rows_of(self.source), kept[key])
            open_jobs.callback(job.close)
        self.source.load_state_dict(start)
        behind = min((job for job in self.jobs.values() if not job.is_done), key=lambda job: job.step, default=None)
        self.step = behind.step if behind else 0
        if behind and behind.source_state is not None:
            self.source.load_state_dict(behind.source_state)
        self.batches: Iterator[Any] = iter(cast("Any", self.source.batches()))

    @property
    def left(self) -> list[Job]:
        """Jobs that are not written yet."""
        return [job for number, job in self.jobs.items() if number not in self.finished]

    def write_finished(self, results: dict[int, TrainResult]) -> None:
        """Finish the jobs whose last step is taken."""
        for number, job in self.jobs.items():
            if number not in self.finished and job.is_done:
                results[number] = job.finish()
                self.finished.add(number)

    def take(self) -> int:
        """One batch, to every job that stands where it comes from; returns its rows."""
        batch = next(self.batches)
        for job in self.left:
            if job.step == self.step:
                job.take(batch)
        self.step += 1
        return len(batch)

    def checkpoint(self) -> None:
        """Save every job that took the last batch; one that is further on was saved where it stands."""
        for job in self.left:
            if job.step == self.step:
                job.checkpoint()


def _steps(passes: Sequence[_Pass], mesh: Mesh, pending: Pending, results: dict[int, TrainResult]) -> bool:
    """Batches until all is written; False when a signal stopped it, with a checkpoint of the last whole step."""
    longest = [max(one.jobs.values(), key=lambda job: job.resolved.n_samples) for one in passes]
    with progress(_label(passes), total=sum(job.resolved.n_samples for job in longest), unit="samples") as bar:
        for one, job in zip(passes, longest, strict=True):
            bar.advance(min(one.step * job.resolved.batch_size, job.resolved.n_samples))
        while True:
            for one in passes:
                one.write_finished(results)
            left = [one for one in passes if one.left]
            if not left:
                return True
            for one in left:
                bar.advance(one.take(), **one.left[0].shown)
            if signal := int(mesh.everyone.largest(pending.signal or 0)):
                pending.signal = signal
                for one in left:
                    one.checkpoint()
                return False


def _label(passes: Sequence[_Pass]) -> str:
    jobs = [job for one in passes for job in one.jobs.values()]
    if len(jobs) > 1:
        return f"train {len(jobs)} SAEs"
    resolved, rule = jobs[0].resolved, "" if jobs[0].config.lr else f" = {RATE_RULE}"
    return f"train {resolved.unit} SAE: {resolved.n_features} features, k {resolved.k}, lr {resolved.lr:.1e}{rule}"
