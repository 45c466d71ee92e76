"""The run folder: one writer, found out at once; a dead one never stands in the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from turnscope.artifacts import ConfigError, IntegrityError, RunFolder, StorageError

HOLDER = """
import sys, time
from turnscope.artifacts import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        start = time.monotonic()
        with pytest.raises(IntegrityError) as caught, RunFolder(tmp_path).lock():
            pass
        assert time.monotonic() - start < 20
        assert f"process {process.pid} on {socket.gethostname()}" in str(caught.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with RunFolder(tmp_path).lock():  # the dead holder's lock is gone with it
        pass


def test_what_a_killed_holder_left_in_mid_write_is_swept(tmp_path: Path) -> None:
    left, foreign = tmp_path / "..lock-holder.json.123-0a1b2c3d.tmp", tmp_path / ".mine.tmp"
    left.touch()
    foreign.touch()
    with RunFolder(tmp_path).lock():
        assert not left.exists()
        assert foreign.exists()


def test_second_lock_in_one_process(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(IntegrityError, match=f"process {os.getpid()}"), RunFolder(tmp_path / "run").lock():
        pass
    with run.lock():
        pass


def test_lock_is_released_on_failure(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError), run.lock():
        raise ValueError
    with run.lock():
        pass


def test_log_appends_lines_with_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.log("one")
    run.log("two\nlines \ud800")
    lines = (tmp_path / "run/run.log").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("+00:00 one")
    assert lines[2] == "  lines \\ud800"


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError), RunFolder(tmp_path / "file").lock():
        pass
    with pytest.raises(StorageError):
        RunFolder(tmp_path / "file").log("x")


def test_artifact_paths_stay_inside(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.artifact("activations", "resid.3") == tmp_path / "activations" / "resid.3"
    for bad in ("..", "", "/etc", "a/../../b", ".work"):
        with pytest.raises(ConfigError):
            run.artifact("saes", bad)
