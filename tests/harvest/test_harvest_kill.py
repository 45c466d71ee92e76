"""A harvest killed at any point goes on to the same bytes, and finished shards are not run again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import harvest_support as support
import pytest

from turnscope.artifacts import IntegrityError, RunFolder
from turnscope.harvest import run

SETTINGS = {"sites": ("embed", "resid.1"), "tokens": 3, "shard_turns": 10}

# Runs a harvest and kills itself at the n-th call of os.replace or os.fsync: in mid-write, between two files, or at
# the commit.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import harvest_support as support
from pathlib import Path
from turnscope.harvest import harvest
harvest.open_transcripts = support.ListStore
name, n = sys.argv[1], int(sys.argv[2])
real, calls = getattr(os, name), [0]
def deadly(*args, **kwargs):
    calls[0] += 1
    if calls[0] == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, deadly)
harvest.run(support.config(Path({folder!r}), Path({model!r}), **{settings!r}))
"""


def start(folder: Path, model: Path, call: str, n: int) -> int:
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), model=str(model), settings=SETTINGS)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TURNSCOPE_QUIET": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, call, str(n)], env=env, capture_output=True, check=False
    ).returncode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("unbroken")
    support.write_chats(folder / "chats.json", support.chats(20))
    assert start(folder, model, "replace", 10_000) == 0
    return support.hashes(folder / "out")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    ("call", "n"),
    [
        ("replace", 9),
        ("replace", 26),
        pytest.param("replace", 2, marks=pytest.mark.slow),
        pytest.param("fsync", 14, marks=pytest.mark.slow),
        pytest.param("replace", 24, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_byte_identical(
    tmp_path: Path, model: Path, unbroken: dict[str, str], call: str, n: int
) -> None:
    support.write_chats(tmp_path / "chats.json", support.chats(20))
    out = tmp_path / "out"
    assert start(tmp_path, model, call, n) == -signal.SIGKILL
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("turns.parquet/[0-9]*.parquet")}
    shards = [path.parent.parent / f"shard-{path.stem}.safetensors" for path in stamps]
    written = {path: path.stat().st_mtime_ns for path in shards}
    result = run(support.config(tmp_path, model, **SETTINGS))
    assert support.hashes(out) == unbroken
    assert written == {path: path.stat().st_mtime_ns for path in shards}, "a finished shard was written again"
    if not list(out.rglob("manifest.json")):
        assert result.shards_found * 2 >= len(stamps) - 1
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp" or path.name == ".work"]


# A copy of the harvest is forked for each try, so that two hundred do not load torch two hundred times. It runs until
# it is killed from outside, at a moment that chance chooses, and is taken up again until one runs to its end.
FORKING = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import harvest_support as support
from pathlib import Path
import torch
torch.set_num_threads(1)
from turnscope.harvest import harvest
harvest.open_transcripts = support.ListStore
config = support.config(Path({folder!r}), Path({model!r}), **{settings!r})
rng, kills = random.Random({seed}), 0
longest = 0.5
while kills < {kills}:
    start = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            harvest.run(config)
            code = 0
        finally:
            os._exit(code)
    time.sleep(rng.uniform(0, longest))
    pid, status = os.waitpid(child, os.WNOHANG)
    if not pid:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
        longest *= 1.05  # far enough for the whole harvest in the end
        continue
    if os.waitstatus_to_exitcode(status):
        sys.exit("a harvest that was taken up again failed")
    longest = 0.5
    if support.hashes(Path({folder!r}) / "out") != {expected!r}:
        sys.exit("other bytes")
    import shutil
    shutil.rmtree(Path({folder!r}) / "out")
    print("whole", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch can be forked on Linux alone")
@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, model: Path, unbroken: dict[str, str], kills: int
) -> None:
    support.write_chats(tmp_path / "chats.json", support.chats(20))
    script = FORKING.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), model=str(model), settings=SETTINGS,
        seed=random.Random(kills).randrange(1000), kills=kills, expected=unbroken,
    )  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TURNSCOPE_QUIET": "1"}
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    run(support.config(tmp_path, model, **SETTINGS))  # what the last kill left
    assert support.hashes(tmp_path / "out") == unbroken


COMMAND = """
import sys
sys.path.insert(0, {tests!r})
import harvest_support as support
from pathlib import Path
from turnscope.harvest import harvest, write
harvest.open_transcripts = support.ListStore
real = write.read_batch
def told(*args, **how):
    print("running", flush=True)
    import time; time.sleep(0.2)
    return real(*args, **how)
write.read_batch = told
from turnscope.cli.main import main
main(["harvest", {chats!r}, "--model", {model!r}, "--site", "resid.1", "--out", {out!r}, "--batch-tokens", "200"])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_it_soon_and_it_goes_on_later(
    tmp_path: Path, model: Path, number: signal.Signals, code: int
) -> None:
    chats = support.write_chats(tmp_path / "chats.json", support.chats(40))
    script = COMMAND.format(
        tests=str(Path(__file__).parent), chats=str(chats), model=str(model), out=str(tmp_path / "out")
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TURNSCOPE_QUIET": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    start = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - start < 50
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert not list((tmp_path / "out").rglob("manifest.json"))
    settings = {"shard_turns": 4096, "batch_tokens": 200}
    run(support.config(tmp_path, model, **settings))
    whole = support.config(tmp_path, model, **settings, out=tmp_path / "whole")
    run(whole)
    assert support.hashes(tmp_path / "out") == support.hashes(tmp_path / "whole")


def test_resume_with_another_config_names_the_field(tmp_path: Path, model: Path) -> None:
    support.write_chats(tmp_path / "chats.json", support.chats(20))
    assert start(tmp_path, model, "replace", 6) == -signal.SIGKILL
    with pytest.raises(IntegrityError, match=r"tokens: 3 -> 4"):
        run(support.config(tmp_path, model, **{**SETTINGS, "tokens": 4}))


def test_a_second_writer_is_refused(tmp_path: Path, model: Path) -> None:
    support.write_chats(tmp_path / "chats.json", support.chats(5))
    with RunFolder(tmp_path / "out").lock(), pytest.raises(IntegrityError, match="in use by process") as refused:
        start = time.monotonic()
        run(support.config(tmp_path, model))
    assert time.monotonic() - start < 20
    assert str(os.getpid()) in str(refused.value)
    assert socket.gethostname() in str(refused.value)
