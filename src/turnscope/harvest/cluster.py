"""The harvest on a cluster: shards handed out to model workers by Ray Data.

Each worker is an actor that holds one copy of the model on one GPU (or on some CPU cores). It gets the numbers of a few
shards, reads their conversations from the transcripts artifact and writes the same two files for each that a harvest in
one process would; only a short report goes back. So transcripts and output lie in a file system that every node sees.

A shard's bytes depend on settings, transcripts and model only, and files appear whole, so work may be lost or done
twice without harm: Ray starts a dead worker again and repeats what it was doing; shards finished before are skipped.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DependencyError, Draft, IntegrityError, TurnscopeError, errors, progress
from turnscope.harvest.ahead import ahead
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.harvest import Done, open_subject
from turnscope.harvest.prepare import Shard, cut, prepare
from turnscope.harvest.reuse import EarlierShards, fingerprint_conversations
from turnscope.harvest.write import compute_shard, is_finished
from turnscope.models.site import Site
from turnscope.transcripts.store import TranscriptStore, open_transcripts

_CHUNK = 8  # shards that a worker gets at once: it renders one while another runs, so a lone one would hide nothing
_TRIES = 4  # times that a shard is begun before it is held to be what ends its workers
_STORE_BYTES = 128 << 20  # of Ray's object store on one machine: only shard numbers and reports go through it


@dataclass(frozen=True)
class Task:
    """A shard to compute: its number, its conversations ``start`` to ``stop - 1``, and their fingerprint."""

    index: int
    start: int
    stop: int
    conversations: str


@dataclass(frozen=True)
class Report:
    """What a worker says of one shard, or, with ``error`` set, why it stopped."""

    index: int = -1
    n_conversations: int = 0
    tokens: int = 0
    places: int = 0
    refusal: str = ""
    notes: tuple[str, ...] = ()
    error: tuple[str, str, str, str] | None = None  # class, what, where, fix


def harvest(
    store: TranscriptStore,
    fingerprint: str,
    config: HarvestConfig,
    drafts: Mapping[Site, Draft],
    log: Callable[[str], None],
    done: Done,
) -> None:
    """Compute every shard that some site still lacks, on the workers of a cluster.

    ``fingerprint`` is the model's; a worker that loads another one is refused.

    Raises:
        ConfigError: more workers than the cluster has room for; a device that names one GPU of many.
        DependencyError: Ray is missing.
        TurnscopeError: no cluster at the address; a shard that ends its workers again and again; what a worker raised.
    """
    start = time.monotonic()
    with progress("harvest", len(store), "conversations") as bar:
        tasks: list[Task] = []
        for task, missing in _plan(store, config, drafts):
            if missing:
                tasks.append(task)
            else:
                done.found += 1
                bar.advance(task.stop - task.start)
        for report in _run(tasks, fingerprint, config, drafts, log) if tasks else ():
            done.computed += 1
            done.tokens += report.tokens
            done.places += report.places
            done.refuse(report.refusal, log)
            for note in report.notes:
                log(note)
            bar.advance(report.n_conversations)
    done.seconds = time.monotonic() - start
    if done.found:
        log(f"{done.found} shards were finished already; {done.computed} computed")


def _plan(
    store: TranscriptStore, config: HarvestConfig, drafts: Mapping[Site, Draft]
) -> Iterator[tuple[Task, list[Site]]]:
    """Every shard in order, and the sites that lack it once earlier harvests have given what they hold."""
    earlier = {
        site: EarlierShards([path / str(site) for path in config.reuse], draft) for site, draft in drafts.items()
    }
    start = 0
    for index, conversations in enumerate(cut(store, config.shard_turns)):
        task = Task(index, start, start + len(conversations), fingerprint_conversations(conversations))
        lacking = [site for site, draft in drafts.items() if not is_finished(draft, index)]
        yield task, [site for site in lacking if not earlier[site].take(task.conversations, index)]
        start = task.stop


def _run(
    tasks: Sequence[Task],
    fingerprint: str,
    config: HarvestConfig,
    drafts: Mapping[Site, Draft],
    log: Callable[[str], None],
) -> Iterator[Report]:
    """Hand the tasks out; a report for each, in no order."""
    attempts = next(iter(drafts.values())).work.resolve() / "attempts"
    for old in attempts.glob("*"):  # of a driver that was killed
        old.unlink()
    with _cluster(config.ray_address) as ray:
        threads = torch.get_num_threads()
        workers = min(_room(config, ray.cluster_resources(), threads), len(tasks))
        log(f"ray: {len(tasks)} shards on {workers} workers")
        blocks = max(len(tasks) // _CHUNK, min(4 * workers, len(tasks)))
        reports = ray.data.from_items([asdict(task) for task in tasks], override_num_blocks=blocks).map_batches(
            _Worker,
            batch_size=None,  # a block is what a worker gets at once
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            fn_constructor_args=(_with_whole_paths(config), _resolved(drafts), attempts, fingerprint, threads),
            **_share(config, threads),
        )
        try:
            for row in reports.iter_rows():
                report = Report(**json.loads(row["report"]))
                if report.error:
                    name, what, where, fix = report.error
                    raise getattr(errors, name)(what, where=where, fix=fix)
                yield report
        except ray.exceptions.RayError as error:
            raise TurnscopeError(
                f"the cluster gave up: {str(error).strip().splitlines()[-1]}",
                where=config.ray_address or "this machine",
                fix="run the same command again: finished shards are kept",
            ) from error


class _Worker:
    """One copy of the model, and the shards it is given."""

    def __init__(
        self, config: HarvestConfig, drafts: Mapping[Site, Draft], attempts: Path, fingerprint: str, threads: int
    ) -> None:
        # Ray would give torch one thread; sums that are split otherwise come out with other last bits.
        torch.set_num_threads(threads)
        self._config, self._drafts, self._attempts, self._fingerprint = config, drafts, attempts, fingerprint
        self._opened: Any = None

    def __call__(self, tasks: dict[str, NDArray[Any]]) -> Iterator[dict[str, list[str]]]:
        for report in self._reports(
            [Task(*row) for row in zip(*(tasks[name].tolist() for name in _FIELDS), strict=True)]
        ):
            yield {"report": [json.dumps(asdict(report))]}

    def _reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """A report for each shard. Ray keeps no more of an exception than its text, so errors are reported too."""
        try:
            for task, shard in ahead(self._preparation(task) for task in tasks):
                yield self._compute(task, shard)
        except TurnscopeError as error:
            yield Report(error=(type(error).__name__, error.what, error.where, error.fix))

    def _preparation(self, task: Task) -> Callable[[], tuple[Task, Shard | None]]:
        def work() -> tuple[Task, Shard | None]:
            return task, self._prepare(task) if self._lacking(task) else None

        return work

    def _lacking(self, task: Task) -> dict[Site, Draft]:
        return {site: draft for site, draft in self._drafts.items() if not is_finished(draft, task.index)}

    def _prepare(self, task: Task) -> Shard:
        subject, renderer, store = self._open()
        conversations = list(store.slice(task.start, task.stop))
        if fingerprint_conversations(conversations) != task.conversations:
            raise IntegrityError(
                f"the worker reads other conversations for shard {task.index} than the driver did",
                where=self._config.transcripts,
                fix="put the transcripts in a folder that all nodes share, and change nothing while they are harvested",
            )
        shard = prepare(task.index, conversations, renderer, subject, self._config)
        shard.conversations = task.conversations
        return shard

    def _open(self) -> Any:
        """Model, renderer and transcripts, loaded when the first shard asks for them, so that errors are reported."""
        if self._opened is None:
            subject, renderer = open_subject(self._config)
            if subject.fingerprint != self._fingerprint:
                raise IntegrityError(
                    "the worker loads another model than the driver did",
                    where=self._config.model,
                    fix="put the model in a folder that all nodes share, or name the revision",
                )
            self._opened = subject, renderer, open_transcripts(self._config.transcripts)
        return self._opened

    def _compute(self, task: Task, shard: Shard | None) -> Report:
        """Write a shard's files; one that a worker before this one finished has none to prepare."""
        n_conversations = task.stop - task.start
        if shard is None:
            return Report(task.index, n_conversations)
        self._begin(task)
        sizes: list[tuple[int, int]] = []
        notes: list[str] = []
        compute_shard(
            shard,
            self._open()[0],
            self._config,
            self._lacking(task),
            on_batch=lambda tokens, places: sizes.append((tokens, places)),
            log=notes.append,
        )
        tokens, places = (sum(size[i] for size in sizes) for i in (0, 1))
        return Report(task.index, n_conversations, tokens, places, shard.refusal, tuple(notes))

    def _begin(self, task: Task) -> None:
        """Count the attempts at a shard: Ray would repeat one that ends its worker, by lack of memory say, for ever."""
        self._attempts.mkdir(parents=True, exist_ok=True)
        with (self._attempts / str(task.index)).open("ab") as file:
            if file.tell() >= _TRIES:
                raise TurnscopeError(
                    f"shard {task.index} was begun {_TRIES} times, and its worker died each time",
                    where=f"conversations {task.start} to {task.stop - 1}",
                    fix="give workers more memory, or lower batch_tokens; finished shards are kept",
                )
            file.write(b".")


_FIELDS = ("index", "start", "stop", "conversations")  # of Task, as columns


@contextmanager
def _cluster(address: str | None) -> Generator[Any]:
    """The module ``ray``, connected: to the cluster of this process if it has one, else to ``address``, else to one
    that is started on this machine, for this machine alone, and ended afterwards.
    """
    if find_spec("ray") is None:
        raise DependencyError("--engine ray needs the package ray", fix='pip install "turnscope[cluster]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports what it runs on to its makers
    if address is None:
        # What Ray does on macOS and Windows: listen on 127.0.0.1 alone. It looks at this once, when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray, _ = import_module("ray"), import_module("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield ray
        return
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {"address": "local", "object_store_memory": _STORE_BYTES}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TurnscopeError(
            f"no Ray cluster: {(str(error).splitlines() or [''])[0]}",
            where=address or "this machine",
            fix="start one with `ray start --head`, or leave out the address to start one on this machine",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _on_gpu(config: HarvestConfig) -> bool:
    return config.device.startswith("cuda")


def _share(config: HarvestConfig, threads: int) -> dict[str, int]:
    """What one worker takes of a node."""
    return {"num_gpus": 1, "num_cpus": 1} if _on_gpu(config) else {"num_cpus": threads}


def _room(config: HarvestConfig, resources: Mapping[str, float], threads: int) -> int:
    """Workers to start: as many as asked for, or as there is room for."""
    if _on_gpu(config) and config.device != "cuda":
        raise ConfigError(f"{config.device} names one GPU of a machine", fix="--device cuda: Ray gives each worker one")
    unit, each = ("GPU", 1) if _on_gpu(config) else ("CPU", threads)
    room = int(resources.get(unit, 0)) // each
    if room < (config.workers or 1):
        raise ConfigError(
            f"the cluster has room for {room} workers of {each} {unit} each, not for {config.workers or 1}",
            fix="ask for fewer workers" if _on_gpu(config) else "ask for fewer workers, or set OMP_NUM_THREADS=1",
        )
    return config.workers or room


def _with_whole_paths(config: HarvestConfig) -> HarvestConfig:
    """A worker runs in another folder than the driver."""
    model = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    return config.model_copy(update={"model": model, "transcripts": config.transcripts.resolve()})


def _resolved(drafts: Mapping[Site, Draft]) -> dict[Site, Draft]:
    return {site: replace(draft, path=draft.path.resolve()) for site, draft in drafts.items()}
