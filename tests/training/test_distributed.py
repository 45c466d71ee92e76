"""Several gloo processes against one: same data, same settings, weights equal to rounding."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_worker import BATCH, STEPS, data, settings
from safetensors.torch import load_file
from torch import Tensor

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.sae import SparseAutoencoder
from turnscope.sae.codes import SparseCodes
from turnscope.sae.weights import Layout, write_weights
from turnscope.training import run
from turnscope.training.checkpoint import NAME
from turnscope.training.defaults import resolve_defaults
from turnscope.training.distributed import files
from turnscope.training.distributed.files import read_shards, sharded_dim, write_shards
from turnscope.training.distributed.mesh import Axis, Mesh, joined
from turnscope.training.distributed.select import keep_largest, nth_largest
from turnscope.training.distributed.topk import make_sharded
from turnscope.training.initial import initial_weights, measure

Job = dict[str, Any]


def start(folder: Path, jobs: Sequence[Job], size: int, helper_path: str, timeout: float = 120) -> list[Any]:
    """`size` processes that run the jobs together."""
    store = folder / f"store-{time.monotonic_ns()}"
    worker = Path(helper_path) / "distributed_worker.py"
    path = os.pathsep.join([helper_path, *sys.path])
    plain = {**os.environ, "PYTHONPATH": path, "TURNSCOPE_QUIET": "1", "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(worker), json.dumps(jobs), str(store), str(timeout)],
            env={**plain, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: list[Any]) -> None:
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said


def one_process(out: Path, architecture: str) -> dict[str, Tensor]:
    run(settings(str(out), architecture=architecture), source=data(slice(0, 1000)), held=data(slice(1000, None)))
    return load_file(out / "sae.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, by architecture."""
    folder = tmp_path_factory.mktemp("alone")
    for architecture in ("topk", "batchtopk"):
        one_process(folder / architecture, architecture)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(found: Path, expected: Path) -> None:
    mine, other = load_file(found / "sae.safetensors"), load_file(expected / "sae.safetensors")
    assert mine.keys() == other.keys()
    for name in other:
        assert torch.allclose(mine[name], other[name], rtol=0, atol=1e-5), name
    assert (found / "sae.json").read_bytes() == (expected / "sae.json").read_bytes()
    for line, wanted in zip(lines(found), lines(expected), strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    SparseAutoencoder.load(found)


def jobs_on(folder: Path, *meshes: tuple[int, int]) -> list[Job]:
    return [
        {
            "out": str(folder / f"{architecture}-{rows}x{features}"),
            "architecture": architecture,
            "mesh": [rows, features],
        }
        for rows, features in meshes
        for architecture in ("topk", "batchtopk")
    ]


def test_two_processes_equal_one_and_go_on_from_each_other(tmp_path: Path, alone: Path, helper_path: str) -> None:
    jobs = jobs_on(tmp_path, (1, 2), (2, 1))[1:3]  # batchtopk on 1x2, topk on 2x1
    # Stopped after 12 steps on 2x1 (checkpoint of step 10), after 17 on 1x2 (of step 15), finished by one process.
    shared = {"out": str(tmp_path / "resumed"), "architecture": "batchtopk"}
    jobs += [{**shared, "mesh": [2, 1], "stop_at": 12}, {**shared, "mesh": [1, 2], "stop_at": 17}]
    finish(start(tmp_path, jobs, 2, helper_path))
    for job in jobs[:2]:
        assert_same(Path(job["out"]), alone / job["architecture"])
    resumed = tmp_path / "resumed"
    state = json.loads(read_metadata(resumed / ".work" / NAME)["state"])
    assert state["trainer"]["step"] == 15
    one_process(resumed, "batchtopk")
    assert_same(resumed, alone / "batchtopk")


def test_features_died_in_what_was_compared(alone: Path) -> None:
    for architecture in ("topk", "batchtopk"):
        log = lines(alone / architecture)
        assert log[-1]["step"] == STEPS
        assert max(line["dead"] for line in log) > 4, "more than auxk_k, so that the cut among the dead is tried too"
        assert any(line["auxk"] > 0 for line in log[:-1])


@pytest.mark.cluster
def test_two_processes_equal_one_the_other_way_round(tmp_path: Path, alone: Path, helper_path: str) -> None:
    jobs = jobs_on(tmp_path, (1, 2), (2, 1))[::3]  # topk on 1x2, batchtopk on 2x1
    finish(start(tmp_path, jobs, 2, helper_path))
    for job in jobs:
        assert_same(Path(job["out"]), alone / job["architecture"])


@pytest.mark.cluster
def test_four_processes_equal_one(tmp_path: Path, alone: Path, helper_path: str) -> None:
    jobs = jobs_on(tmp_path, (2, 2), (1, 4), (4, 1))
    finish(start(tmp_path, jobs, 4, helper_path))
    for job in jobs:
        assert_same(Path(job["out"]), alone / job["architecture"])


@pytest.mark.cluster
def test_a_process_that_dies_ends_the_others_with_one_line(tmp_path: Path, alone: Path, helper_path: str) -> None:
    job: Job = {"out": str(tmp_path / "run"), "architecture": "batchtopk"}
    first, second = start(tmp_path, [{**job, "mesh": [1, 2], "die_at": 8}], 2, helper_path)
    said, errors = first.communicate(timeout=100)
    second.communicate(timeout=100)
    assert (second.returncode, first.returncode) == (9, 1), errors
    told = json.loads(said)
    assert told["kind"] == "LostError"
    assert told["what"].startswith("another process of the run has ended or does not answer")
    one_process(tmp_path / "run", "batchtopk")  # from the checkpoint of step 5
    assert_same(tmp_path / "run", alone / "batchtopk")


@pytest.mark.cluster
def test_a_process_that_falls_silent_is_not_waited_for_beyond_the_timeout(tmp_path: Path, helper_path: str) -> None:
    job: Job = {"out": str(tmp_path / "run"), "architecture": "topk", "mesh": [1, 2], "n_samples": 4_000_000}
    first, second = start(tmp_path, [job], 2, helper_path, timeout=5)
    try:
        wait_for(tmp_path / "run" / ".work" / NAME)
        second.send_signal(signal.SIGSTOP)
        said, errors = first.communicate(timeout=100)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1, errors
    assert json.loads(said)["kind"] == "LostError"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read_metadata(path: Path) -> dict[str, str]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


# What needs no second process.


@pytest.mark.parametrize("n", [1, 7, 100, 999, 1000])
def test_the_nth_largest_is_that_of_a_sort(n: int) -> None:
    values_C = torch.rand(1000, generator=torch.Generator().manual_seed(n)).mul(2).pow(20)  # 30 orders of magnitude
    values_C[::3] = values_C[0]  # a third of them equal
    cut, room, held = nth_largest(values_C, n, Axis()) or (0.0, 0, 0)
    wanted = float(values_C.sort(descending=True).values[n - 1])
    assert cut == wanted
    assert (room, held) == (n - int((values_C > wanted).sum()), int((values_C == wanted).sum()))
    assert nth_largest(values_C, 1001, Axis()) is None


def test_ties_at_the_cut_go_to_the_lowest_keys() -> None:
    codes = SparseCodes.from_dense(torch.tensor([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]]))
    keys_C = codes.rows_E() * 3 + codes.indices_E
    kept, least = keep_largest(codes, 4, Mesh(), keys_C)
    assert kept.to_dense().tolist() == [[2.0, 1.0, 1.0], [0.0, 3.0, 0.0]]
    assert least == 1.0
    assert keep_largest(codes, 7, Mesh(), keys_C)[0].n_entries == 6


@pytest.mark.parametrize("block_bytes", [64, 1 << 26])
def test_a_streamed_file_has_the_bytes_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "w_enc_DF": torch.randn(5, 11, generator=generator), "w_dec_FD.m": torch.randn(11, 5, generator=generator),
        "silent_for_F": torch.arange(11), "b_dec_D": torch.randn(5, generator=generator), "scale": torch.tensor(2.0),
    }  # fmt: skip
    metadata = {"state": json.dumps({"ü": 1})}
    write_weights(tmp_path / "whole", tensors, metadata)
    write_shards(tmp_path / "streamed", tensors, Layout.of(tensors), Mesh(), metadata)
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "whole").read_bytes()
    for rank in range(3):  # 4, 4 and 3 features
        part, read = read_shards(tmp_path / "whole", Layout.of(tensors), Mesh(features=Axis(rank, 3)))
        assert read == metadata
        for name, tensor in tensors.items():
            dim = sharded_dim(name)
            wanted = tensor if dim is None else tensor.narrow(dim, 4 * rank, min(4, 11 - 4 * rank))
            assert torch.equal(part[name], wanted)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    tensors = {"b_enc_F": torch.ones(8)}
    write_weights(tmp_path / "file", tensors)
    with pytest.raises(IntegrityError, match="b_enc_F"):
        read_shards(tmp_path / "file", Layout({"b_enc_F": ("F32", (9,))}), Mesh())
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="refused"):
        read_shards(tmp_path / "file", Layout.of(tensors), Mesh())
    write_weights(tmp_path / "file", {"b_enc_F": torch.full((8,), torch.nan)})
    with pytest.raises(IntegrityError, match="NaN"):
        read_shards(tmp_path / "file", Layout.of(tensors), Mesh())


def test_each_share_starts_as_among_all() -> None:
    x_ND = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32))
    n_features = 3 * (1 << 14) + 5
    whole = initial_weights(x_ND, measure(x_ND), n_features, 0.8, 7)
    drawn = torch.Generator().manual_seed(7)
    for _ in range(-(-n_features // 300)):
        torch.randperm(300, generator=drawn)
    # A share of no data is the random direction alone: torch.randn in one call says what it must be.
    plain = initial_weights(x_ND, measure(x_ND), n_features, 0.0, 7)["w_dec_FD"]
    random_FD = torch.randn(n_features, 4, generator=drawn)
    assert torch.allclose(plain, random_FD / random_FD.norm(dim=1, keepdim=True), atol=1e-6)
    for rank in range(3):
        share = Mesh(features=Axis(rank, 3)).share(n_features)
        part = initial_weights(x_ND, measure(x_ND), n_features, 0.8, 7, share)
        for name in ("w_enc_FD", "w_dec_FD", "b_enc_F"):
            assert torch.equal(part[name], whole[name][share])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_everything_once(size: int) -> None:
    for n in range(12, 40):
        places = [Mesh(batch=Axis(rank, size), features=Axis(rank, size)) for rank in range(size)]
        assert [i for place in places for i in range(n)[place.rows(n)]] == list(range(n))
        assert [i for place in places for i in range(n)[place.share(n)]] == list(range(n))


def test_what_cannot_be_shared_out_is_refused_by_name(tmp_path: Path) -> None:
    jumprelu = resolve_defaults(settings(str(tmp_path / "out"), architecture="jumprelu"), 1000, 16)
    with pytest.raises(ConfigError, match="jumprelu is not trained by several processes"):
        make_sharded(jumprelu, 1.0, Mesh())
    nested = resolve_defaults(settings(str(tmp_path / "out"), unit="nested"), 1000, 16)
    with pytest.raises(ConfigError, match="nested"):
        make_sharded(nested, 1.0, Mesh())
    with pytest.raises(ConfigError, match="5 features cannot be split over 4"):
        Mesh(features=Axis(0, 4)).must_fit(5, BATCH)
    with pytest.raises(ConfigError, match="3 rows cannot be split over 4"):
        Mesh(batch=Axis(0, 4)).must_fit(8, 3)
    with pytest.raises(ConfigError, match="torchrun"), joined((2, 2)):
        pass
