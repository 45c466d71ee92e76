"""Processes in a grid of (batch, features): who holds which rows of the batch and which features, and what they say.

Every process of a column holds the same features and other rows; every process of a row the same rows and other
features. All collectives go through `Axis`, so that a lost process is told in one line and an axis of one is silent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from turnscope.artifacts import Artifact, Config, ConfigError, Draft, TurnscopeError, begin, sole_writer
from turnscope.artifacts import errors as error_classes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

TIMEOUT_VARIABLE = "TURNSCOPE_COLLECTIVE_TIMEOUT"
TIMEOUT_SECONDS = 1800
T = TypeVar("T")


class LostError(TurnscopeError):
    """Another process of the run has ended, or has not answered in time."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The processes along one axis of the mesh, and this one's place among them. Collectives are over all of them."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    mesh: DeviceMesh | None = None

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the axis."""
        self._reduce(tensors, dist.ReduceOp.SUM)

    def sums(self, *numbers: float) -> list[float]:
        """Sums of plain numbers, in float64."""
        if self.size == 1:
            return list(numbers)
        packed = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self.sum_(packed)
        return packed.tolist()

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return number
        packed = torch.tensor([number], dtype=torch.float64, device=self._device)
        self._reduce((packed,), dist.ReduceOp.MAX)
        return float(packed)

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors of one shape from all, stacked in front: (size, ...)."""
        if self.mesh is None or self.size == 1:
            return tensor.unsqueeze(0)
        from torch.distributed.tensor import DTensor, Shard  # a second to import, for one process in vain

        with _told():
            return DTensor.from_local(tensor.unsqueeze(0), self.mesh, [Shard(0)]).full_tensor()

    def _reduce(self, tensors: Sequence[Tensor], operation: Any) -> None:
        if self.size > 1:
            with _told():
                for tensor in tensors:
                    dist.all_reduce(tensor, op=operation, group=self.group)

    @property
    def _device(self) -> str:
        return self.mesh.device_type if self.mesh else "cpu"


class Mesh:
    """A place in the grid. `Mesh()` is one process alone: every share is the whole, nothing is sent.

    Args:
        batch: axis along which rows of a batch are split.
        features: axis along which the dictionary is split.
        everyone: all processes.
    """

    def __init__(
        self, batch: Axis | None = None, features: Axis | None = None, everyone: Axis | None = None, device: str = "cpu"
    ) -> None:
        self.batch, self.features, self.everyone = batch or Axis(), features or Axis(), everyone or Axis()
        self.device = torch.device(device)

    def __str__(self) -> str:
        return f"{self.batch.size}x{self.features.size}"

    @property
    def is_spread(self) -> bool:
        """Whether there are others, or a GPU to use: the sharded trainer's business."""
        return self.everyone.size > 1 or self.device.type != "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.everyone.rank == 0

    def rows(self, n_rows: int) -> slice:
        """The caller's rows of a batch: a run of them, in order of the axis."""
        rank, size = self.batch.rank, self.batch.size
        return slice(n_rows * rank // size, n_rows * (rank + 1) // size)

    def share(self, n_features: int) -> slice:
        """The caller's features; every process but the last ones has equally many, as `Shard(0)` lays them out."""
        size = -(-n_features // self.features.size)
        return slice(min(n_features, self.features.rank * size), min(n_features, (self.features.rank + 1) * size))

    def must_fit(self, n_features: int, batch_size: int) -> None:
        """Raise ConfigError when a process would be left without features or rows."""
        size = -(-n_features // self.features.size)
        if (self.features.size - 1) * size >= n_features:
            raise ConfigError(
                f"{n_features} features cannot be split over {self.features.size} processes: one would have none",
                where=f"mesh {self}",
                fix="use fewer processes along the features",
            )
        if batch_size < self.batch.size:
            raise ConfigError(
                f"a batch of {batch_size} rows cannot be split over {self.batch.size} processes",
                where=f"mesh {self}",
                fix="use fewer processes along the batch",
            )

    def whole(self, local: Tensor, n_features: int) -> Tensor:
        """A tensor sharded by features, put together on every process: for what is small, not for parameters."""
        share = self.share(n_features)
        most = -(-n_features // self.features.size)
        padded = local.new_zeros(most, *local.shape[1:])
        padded[: share.stop - share.start] = local
        return self.features.gather(padded).flatten(0, 1)[:n_features]

    def first(self, action: Callable[[], T]) -> T | None:
        """Let the first process act while all wait for it; its result there, None elsewhere, its error everywhere."""
        if self.everyone.size == 1:
            return action()
        result: T | None = None
        failure: Exception | None = None
        if self.is_first:
            try:
                result = action()
            except Exception as error:  # noqa: BLE001  (raised again below, once all know)
                failure = error
        told = self._tell(_described(failure))
        if failure is not None:
            raise failure
        if told:
            kind: type[TurnscopeError] = getattr(error_classes, told["kind"], TurnscopeError)
            raise kind(told["what"], where=told["where"], fix=told["fix"])
        return result

    def _tell(self, message: dict[str, str]) -> dict[str, str]:
        """The first process's message, everywhere. As JSON: torch would send objects as pickles."""
        data = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([data.numel() if self.is_first else 0], device=self.device)
        with _told():
            dist.broadcast(length, src=0)
            if not self.is_first:
                data = data.new_zeros(int(length))
            dist.broadcast(data, src=0)
        return json.loads(bytes(data.tolist()))


def _described(error: Exception | None) -> dict[str, str]:
    if error is None:
        return {}
    if isinstance(error, TurnscopeError):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    return {"kind": "", "what": f"the first process failed: {type(error).__name__}: {error}", "where": "", "fix": ""}


@contextmanager
def joined(shape: tuple[int, int] | None = None, device: str = "cpu") -> Generator[Mesh]:
    """The mesh of the processes that torchrun started, for the block; one process alone where it started none.

    Args:
        shape: (batch, features); None: all processes along the features.
        device: `cpu` (gloo) or `cuda` (NCCL, one GPU to a process).

    Raises:
        ConfigError: a shape that is not the number of processes.
        LostError: the others do not come within `TURNSCOPE_COLLECTIVE_TIMEOUT` seconds (1800).
    """
    if not dist.is_torchelastic_launched() and not dist.is_initialized():
        if shape not in (None, (1, 1)) or device != "cpu":
            raise ConfigError(
                f"mesh {shape}, device {device}: this is for processes that torchrun started, and there is one process",
                fix="start as: torchrun --nproc-per-node N -m turnscope train ...",
            )
        yield Mesh()
        return
    ours = not dist.is_initialized()
    if ours:
        _check(shape, int(os.environ["WORLD_SIZE"]))
        with _told():
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(seconds=_timeout()))
    try:
        size = dist.get_world_size()
        _check(shape, size)
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        from torch.distributed.device_mesh import init_device_mesh

        with _told():
            grid = init_device_mesh(device, shape or (1, size), mesh_dim_names=("batch", "features"))
        batch, features = (
            Axis(grid.get_local_rank(name), grid[name].size(), grid.get_group(name), grid[name]) for name in _NAMES
        )
        yield Mesh(batch, features, Axis(dist.get_rank(), size, dist.group.WORLD), device)
        with _told():
            dist.barrier()  # a process that leaves early would look lost to one that still reads from it
    finally:
        if ours:
            dist.destroy_process_group()


@contextmanager
def begun(path: Path, kind: str, config: Config, inputs: Mapping[str, str], mesh: Mesh) -> Generator[Artifact | Draft]:
    """`begin` as the folder's sole writer, by the first process for all of them. Raises as `begin` and the lock do."""
    with ExitStack() as held:

        def take() -> Artifact | Draft:
            held.enter_context(sole_writer(path))
            return begin(path, kind, config, inputs)

        work = mesh.first(take)
        finished = mesh.everyone.largest(float(isinstance(work, Artifact)))
        if work is None:
            work = Artifact.open(path, kind) if finished else Draft(path, kind, config.recorded(), dict(inputs))
        yield work


_NAMES = ("batch", "features")


def _check(shape: tuple[int, int] | None, size: int) -> None:
    if shape is not None and shape[0] * shape[1] != size:
        raise ConfigError(
            f"mesh {shape[0]}x{shape[1]} is for {shape[0] * shape[1]} processes, and torchrun started {size}",
            fix="let batch times features be the number of processes",
        )


def _timeout() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT_SECONDS))
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {given!r}, not a number of seconds") from None


@contextmanager
def _told() -> Generator[None]:
    """Turn torch's word for a peer that is gone, or silent for too long, into one line."""
    try:
        yield
    except RuntimeError as error:  # gloo's own, and those of torch.distributed
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).strip().splitlines() or [""]
        raise LostError(
            f"another process of the run has ended or does not answer: {said[0][:200]}",
            where=f"process {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')}",
            fix="see what the other processes said; the same command goes on from the last checkpoint",
        ) from error
