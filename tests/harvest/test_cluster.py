"""A harvest on two workers gives the bytes of one process, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harvest_support as support
import pytest
import torch

from turnscope.artifacts import ConfigError, DependencyError, Draft, IntegrityError, TurnscopeError
from turnscope.harvest import HarvestConfig, HarvestResult, cluster, harvest, run
from turnscope.models.site import Site
from turnscope.transcripts import store
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.import_ import run as import_chats

needs_ray = pytest.mark.skipif(cluster.find_spec("ray") is None, reason="needs the extra cluster")

SETTINGS: dict[str, Any] = {"sites": ("embed", "resid.1"), "tokens": 3, "shard_turns": 10}


@pytest.fixture(autouse=True)
def real_store(list_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are other processes, where the stand-in of conftest.py is not."""
    monkeypatch.setattr(harvest, "open_transcripts", store.open_transcripts)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So that two workers fit on two cores: a worker has as many threads as the driver."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One cluster on this machine for the tests here, with room for two workers of one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    lines = [json.dumps({"id": chat["id"], "messages": chat["messages"]}) for chat in support.chats(150)]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import_chats(ImportConfig(sources=(folder / "chats.jsonl",), out=folder / "transcripts"))
    return folder / "transcripts"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, transcripts: Path, model: Path) -> dict[str, str]:
    """Hashes of every file of the harvest in one process, manifests included."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvest, "open_transcripts", store.open_transcripts)
        run(HarvestConfig(transcripts=transcripts, model=str(model), out=out, **SETTINGS))
    return support.hashes(out)


def on_cluster(transcripts: Path, model: Path, out: Path, **settings: Any) -> HarvestResult:
    shared = {**SETTINGS, "engine": "ray", "workers": 2, **settings}
    return run(HarvestConfig(transcripts=transcripts, model=str(model), out=out, **shared))


def finished(out: Path) -> int:
    """Shards of the second site that are there."""
    return len(list(out.glob("resid.1/turns.parquet/[0-9]*.parquet")))


@needs_ray
@pytest.mark.cluster
def test_two_workers_give_the_bytes_of_one_process(
    session: None, transcripts: Path, model: Path, tmp_path: Path, local: dict[str, str]
) -> None:
    result = on_cluster(transcripts, model, tmp_path / "out")
    assert support.hashes(tmp_path / "out") == local
    assert "resid.1/manifest.json" in local
    assert result.shards_computed == finished(tmp_path / "out") > 20
    assert result.tokens > 0
    assert result.padding == 0, "workers pack"
    assert not list((tmp_path / "out").rglob(".work"))


@needs_ray
@pytest.mark.cluster
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_worker_changes_nothing(
    session: None, transcripts: Path, model: Path, tmp_path: Path, local: dict[str, str]
) -> None:
    psutil = pytest.importorskip("psutil")
    out, killed = tmp_path / "out", []

    def kill() -> None:
        while not finished(out):
            time.sleep(0.002)
        for process in psutil.Process().children(recursive=True):
            if "MapWorker" in process.name() + " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                killed.append(finished(out))
                return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = on_cluster(transcripts, model, out)
    killer.join()
    assert killed, "no worker was found to kill"
    assert killed[0] < finished(out), "it was killed after its work"
    assert support.hashes(out) == local
    assert result.shards_computed == finished(out)


SCRIPT = """
import sys
from pathlib import Path
from turnscope.harvest import HarvestConfig, run
transcripts, model, out = sys.argv[1:]
run(HarvestConfig(transcripts=Path(transcripts), model=model, out=Path(out), engine="ray", **{settings}))
"""


@needs_ray
@pytest.mark.cluster
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_driver_is_resumed_by_one_process(
    transcripts: Path, model: Path, tmp_path: Path, local: dict[str, str]
) -> None:
    out = tmp_path / "out"
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(settings=SETTINGS), str(transcripts), str(model), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TURNSCOPE_QUIET": "1"},
        stderr=subprocess.PIPE,
    )
    while finished(out) < 3:
        assert driver.poll() is None, driver.stderr.read().decode()  # type: ignore[union-attr]
        time.sleep(0.002)
    driver.kill()
    driver.communicate()
    found = finished(out)
    assert not list(out.rglob("manifest.json"))
    result = on_cluster(transcripts, model, out, engine="local")
    assert support.hashes(out) == local
    assert result.shards_found >= found


LISTENERS = """
import json, psutil
from turnscope.harvest import cluster
with cluster._cluster(None) as ray:
    actor = ray.remote(type("Actor", (), {"answer": lambda self: 1})).remote()
    ray.get(actor.answer.remote())
    places = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for socket in process.net_connections("inet"):
            if socket.status == "LISTEN":
                places.setdefault(process.name(), []).append(socket.laddr.ip)
    print(json.dumps(places))
"""


@needs_ray
@pytest.mark.cluster
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the sockets of Linux")
@pytest.mark.parametrize(
    "stray", [{}, {"RAY_ADDRESS": "192.0.2.1:6379"}], ids=["plain", "another cluster's address set"]
)
def test_a_cluster_of_our_own_listens_on_this_machine_alone(stray: dict[str, str]) -> None:
    pytest.importorskip("psutil")
    ran = subprocess.run(
        [sys.executable, "-c", LISTENERS], env={**os.environ, **stray}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    places = json.loads(ran.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= places.keys(), "its servers were not looked at"
    heard = {ip.removeprefix("::ffff:") for ips in places.values() for ip in ips}
    assert heard <= {"127.0.0.1", "::1"}, places


@needs_ray
@pytest.mark.cluster
def test_a_worker_with_another_model_is_refused(session: None, transcripts: Path, model: Path, tmp_path: Path) -> None:
    config = HarvestConfig(transcripts=transcripts, model=str(model), out=tmp_path, **SETTINGS)
    drafts = {Site.parse("resid.1"): Draft(tmp_path / "resid.1", "activations", {}, {})}
    with pytest.raises(IntegrityError, match="another model"):
        list(cluster._run([cluster.Task(0, 0, 5, "")], "of another model", config, drafts, print))


def test_a_shard_that_ends_its_workers_is_named(transcripts: Path, model: Path, tmp_path: Path) -> None:
    config = HarvestConfig(transcripts=transcripts, model=str(model), out=tmp_path, **SETTINGS)
    task = cluster.Task(7, 20, 25, "")
    for _ in range(cluster._TRIES):
        cluster._Worker(config, {}, tmp_path / "attempts", "", 1)._begin(task)
    with pytest.raises(TurnscopeError, match="shard 7 was begun") as caught:
        cluster._Worker(config, {}, tmp_path / "attempts", "", 1)._begin(task)
    assert caught.value.where == "conversations 20 to 24"


@needs_ray
@pytest.mark.cluster
def test_more_workers_than_there_is_room_for(session: None, transcripts: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room for 2 workers"):
        on_cluster(transcripts, model, tmp_path / "out", workers=3)


def test_without_ray_the_install_line_is_given(
    transcripts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    with pytest.raises(DependencyError) as caught:
        on_cluster(transcripts, model, tmp_path / "out")
    assert "turnscope[cluster]" in caught.value.fix


def test_a_slice_is_read_from_the_middle(transcripts: Path) -> None:
    chats = store.open_transcripts(transcripts)
    everything = [chat.id for chat in chats]
    for start, stop in [(0, 1), (7, 7), (3, 90), (149, 150), (0, 150)]:
        assert [chat.id for chat in chats.slice(start, stop)] == everything[start:stop]
