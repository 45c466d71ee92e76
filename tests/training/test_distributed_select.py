"""The exact cut over shards, against a sort of everything. Processes are threads here, so many shapes are cheap."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from turnscope.sae.codes import SparseCodes
from turnscope.training.distributed.mesh import Axis, Mesh
from turnscope.training.distributed.select import keep_largest, keep_largest_of_rows


class Room:
    """Where the threads of one axis meet."""

    def __init__(self, size: int) -> None:
        self.barrier, self.places = threading.Barrier(size, timeout=20), [torch.zeros(0)] * size

    def meet(self, rank: int, tensor: Tensor) -> Tensor:
        self.places[rank] = tensor.clone()
        self.barrier.wait()
        every = torch.stack(self.places)
        self.barrier.wait()
        return every


@dataclass(frozen=True)
class ThreadAxis(Axis):
    room: Any = None

    def gather(self, tensor: Tensor) -> Tensor:
        return self.room.meet(self.rank, tensor)

    def _reduce(self, tensors: Sequence[Tensor], operation: Any) -> None:
        for tensor in tensors:
            every = self.room.meet(self.rank, tensor)
            tensor.copy_(every.amax(0) if "MAX" in str(operation) else every.sum(0))


def on_threads(rows: int, features: int, work: Callable[[Mesh], Tensor]) -> dict[tuple[int, int], Tensor]:
    everyone, columns = Room(rows * features), [Room(rows) for _ in range(features)]
    lines = [Room(features) for _ in range(rows)]
    found = dict[tuple[int, int], Tensor]()

    def run(row: int, column: int) -> None:
        found[row, column] = work(
            Mesh(
                ThreadAxis(row, rows, room=columns[column]),
                ThreadAxis(column, features, room=lines[row]),
                ThreadAxis(row * features + column, rows * features, room=everyone),
            )
        )

    threads = [threading.Thread(target=run, args=(r, c)) for r in range(rows) for c in range(features)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def whole(found: dict[tuple[int, int], Tensor], rows: int, features: int) -> Tensor:
    return torch.cat([torch.cat([found[r, c] for c in range(features)], dim=1) for r in range(rows)])


def first_largest(values_BF: Tensor, n: int) -> Tensor:
    """The n largest positive values, equal ones in order of place; others 0. By sorting pairs in plain Python."""
    order = sorted(range(values_BF.numel()), key=lambda i: (-float(values_BF.flatten()[i]), i))[:n]
    kept = torch.zeros(values_BF.numel())
    kept[order] = values_BF.flatten()[order].clamp_min(0)
    return kept.view_as(values_BF)


def with_ties(seed: int, n_rows: int, n_features: int, levels: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-levels, levels, (n_rows, n_features), generator=generator).float() / 3


@pytest.mark.parametrize(("rows", "features"), [(1, 2), (2, 1), (2, 2), (3, 2), (1, 4)])
@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("n_keep", [1, 13, 30, 200])
def test_the_cut_of_a_batch_is_that_of_a_sort(rows: int, features: int, levels: int, n_keep: int) -> None:
    values_BF = with_ties(n_keep, 10, 11, levels)

    def work(mesh: Mesh) -> Tensor:
        mine, share = mesh.rows(10), mesh.share(11)
        codes = SparseCodes.from_dense(values_BF[mine, share].clamp_min(0))
        keys_C = (codes.rows_E() + mine.start) * 11 + codes.indices_E + share.start
        return keep_largest(codes, n_keep, mesh, keys_C)[0].to_dense()

    kept_BF = whole(on_threads(rows, features, work), rows, features)
    assert torch.equal(kept_BF, first_largest(values_BF, n_keep))


@pytest.mark.parametrize("features", [2, 3, 4])
@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_cut_of_each_row_is_that_of_a_sort(features: int, levels: int, k: int) -> None:
    values_BF = with_ties(k, 12, 13, levels)

    def work(mesh: Mesh) -> Tensor:
        mine_BG = values_BF[:, mesh.share(13)]
        mine_BG = torch.stack([first_largest(row_G, k) for row_G in mine_BG])
        return keep_largest_of_rows(SparseCodes.from_dense(mine_BG), k, mesh.features).to_dense()

    kept_BF = whole(on_threads(1, features, work), 1, features)
    assert torch.equal(kept_BF, torch.stack([first_largest(row_F, k) for row_F in values_BF]))
