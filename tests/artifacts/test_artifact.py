"""Artifacts: complete or absent; resumed only under the settings they were begun with."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from turnscope.artifacts import Artifact, Config, Draft, IntegrityError, StorageError, begin, write_bytes, write_json
from turnscope.artifacts import manifest as manifest_module

INPUTS = {"transcripts": "ab" * 32}


class Inner(Config):
    rate: float = 0.1


class Stage(Config):
    n: int = 1
    names: tuple[str, ...] = ("a",)
    inner: Inner = Inner()
    out: Path | None = None


def draft(path: Path, config: Config | None = None, inputs: dict[str, str] | None = None) -> Draft:
    begun = begin(path, "thing", config or Stage(), INPUTS if inputs is None else inputs)
    assert isinstance(begun, Draft)
    return begun


def finished(path: Path) -> Artifact:
    begun = draft(path)
    write_bytes(begun.path / "a.bin", b"a" * 1000)
    write_bytes(begun.path / "sub" / "b.bin", b"b" * 10)
    return begun.commit({"rows": 3})


def test_commit_records_every_file_and_nothing_else(tmp_path: Path) -> None:
    begun = draft(tmp_path / "x", Stage(out=tmp_path))
    write_bytes(begun.path / "a.bin", b"abc")
    write_bytes(begun.path / "sub" / "b.bin", b"")
    write_bytes(begun.path / ".hidden", b"no")
    write_bytes(begun.work / "checkpoint", b"no")
    artifact = begun.commit({"rows": 3, "dropped: empty": 0})
    assert set(artifact.manifest.files) == {"a.bin", "sub/b.bin"}
    assert artifact.manifest.files["a.bin"].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert artifact.manifest.counts == {"rows": 3, "dropped: empty": 0}
    assert not begun.work.exists()
    assert artifact.verify() == []
    raw = (tmp_path / "x/manifest.json").read_bytes()
    assert artifact.fingerprint == hashlib.sha256(raw).hexdigest()
    assert str(tmp_path).encode() not in raw
    assert Artifact.open(tmp_path / "x", "thing") == artifact


def test_same_work_in_two_places_gives_the_same_fingerprint(tmp_path: Path) -> None:
    assert finished(tmp_path / "x").fingerprint == finished(tmp_path / "elsewhere" / "y").fingerprint


def test_begin_gives_the_finished_one_back(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "x")
    assert begin(tmp_path / "x", "thing", Stage(out=tmp_path), INPUTS) == artifact


def test_no_manifest_is_not_there(tmp_path: Path) -> None:
    draft(tmp_path / "x")
    with pytest.raises(IntegrityError, match="no manifest"):
        Artifact.open(tmp_path / "x", "thing")
    with pytest.raises(StorageError, match="no such folder"):
        Artifact.open(tmp_path / "nowhere", "thing")


def test_pieces_outlive_a_kill_and_leftovers_do_not(tmp_path: Path) -> None:
    begun = draft(tmp_path / "x")
    write_bytes(begun.path / "shard-0", b"0")
    write_bytes(begun.work / "checkpoint", b"7")
    (begun.path / ".shard-1.99-abc.tmp").write_bytes(b"half")
    (begun.work / "c.tmp").write_bytes(b"half")
    again = draft(tmp_path / "x")
    assert (again.path / "shard-0").exists()
    assert (again.work / "checkpoint").exists()
    assert not list(again.path.rglob("*.tmp"))


@pytest.mark.parametrize("state", ["half-done", "finished"])
def test_changed_config_is_refused_with_the_difference(tmp_path: Path, state: str) -> None:
    if state == "finished":
        finished(tmp_path / "x")
    else:
        draft(tmp_path / "x")
    changed = Stage(n=2, names=("a", "b"), inner=Inner(rate=0.2))
    with pytest.raises(IntegrityError) as caught:
        begin(tmp_path / "x", "thing", changed, {"transcripts": "cd" * 32, "model": "m"})
    message = str(caught.value)
    assert state in message
    for line in (
        "n: 1 -> 2",
        'names: ["a"] -> ["a", "b"]',
        "inner.rate: 0.1 -> 0.2",
        'inputs.model: (absent) -> "m"',
        f'inputs.transcripts: "{"ab" * 32}" -> "{"cd" * 32}"',
    ):
        assert f"\n    {line}\n" in message
    assert caught.value.exit_code == 5


def test_other_kind_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "x")
    with pytest.raises(IntegrityError, match="expected 'other', found 'thing'"):
        Artifact.open(tmp_path / "x", "other")
    with pytest.raises(IntegrityError, match='kind: "thing" -> "other"'):
        begin(tmp_path / "x", "other", Stage(), INPUTS)


@pytest.mark.parametrize("named", ["run", "run/things/trun", "run/others/turn"])
def test_a_wrong_folder_is_answered_with_the_right_one(tmp_path: Path, named: str) -> None:
    finished(tmp_path / "run/things/turn")
    done = begin(tmp_path / "run/others/turn", "other", Stage(), INPUTS)
    assert isinstance(done, Draft)
    done.commit({})
    with pytest.raises((IntegrityError, StorageError)) as caught:
        Artifact.open(tmp_path / named, "thing")
    assert caught.value.fix == f"did you mean {tmp_path / 'run/things/turn'}?"


def test_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.tmp").write_text("dear")
    with pytest.raises(IntegrityError, match=r"letter\.tmp"):
        begin(tmp_path, "thing", Stage(), INPUTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.tmp"]


@pytest.mark.parametrize("damage", ["missing", "torn", "flipped", "longer"])
def test_verify_names_the_damaged_file(tmp_path: Path, damage: str) -> None:
    artifact = finished(tmp_path / "x")
    file = artifact.path / "a.bin"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(data[:-1])
    elif damage == "longer":
        file.write_bytes(data + b"a")
    else:
        data[500] ^= 1
        file.write_bytes(data)
    assert artifact.verify() == ["a.bin"]
    if damage != "flipped":
        with pytest.raises(IntegrityError, match=r"missing or torn: a\.bin"):
            begin(tmp_path / "x", "thing", Stage(), INPUTS)


def test_every_truncation_and_flip_is_found(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "x")
    file = artifact.path / "a.bin"
    whole = file.read_bytes()
    for place in range(0, 1000, 10):
        file.write_bytes(whole[:place])
        assert artifact.verify() == ["a.bin"]
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert artifact.verify() == ["a.bin"]


def rewrite(path: Path, **fields: object) -> None:
    raw = json.loads((path / "manifest.json").read_text())
    write_json(path / "manifest.json", raw | fields)


def test_newer_schema_is_refused_with_the_version_needed(tmp_path: Path) -> None:
    finished(tmp_path / "x")
    rewrite(tmp_path / "x", schema_version=7, something_new=True)
    with pytest.raises(IntegrityError, match="reads schema 7"):
        Artifact.open(tmp_path / "x", "thing")


def test_older_schema_is_refused_with_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "x")
    monkeypatch.setattr(manifest_module, "SCHEMA_VERSION", 2)
    with pytest.raises(IntegrityError, match="older Turnscope: schema 1, this one reads 2"):
        Artifact.open(tmp_path / "x", "thing")


RECORD = {"sha256": "0", "size": 0}


@pytest.mark.parametrize(
    "fields",
    [
        {"schema_version": 0},
        {"schema_version": True},
        {"schema_version": "1"},
        {"files": {"../x": RECORD}},
        {"files": {"/etc/passwd": RECORD}},
        {"files": {"a\\..\\b": RECORD}},
        {"files": {"C:x": RECORD}},
        {"files": {"": RECORD}},
        {"files": 3},
        {"unknown": 1},
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    finished(tmp_path / "x")
    rewrite(tmp_path / "x", **fields)
    with pytest.raises(IntegrityError, match="damaged manifest"):
        Artifact.open(tmp_path / "x", "thing")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_no_json_object(tmp_path: Path, data: bytes) -> None:
    finished(tmp_path / "x")
    (tmp_path / "x/manifest.json").write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged manifest"):
        Artifact.open(tmp_path / "x", "thing")


def test_a_kill_between_manifest_and_sweep_is_harmless(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "x")
    write_bytes(tmp_path / "x/.work/plan.json", b"{}")
    assert artifact.verify() == []
    assert begin(tmp_path / "x", "thing", Stage(), INPUTS) == artifact
    assert not (tmp_path / "x/.work").exists()


def test_symlinks_unfinished_files_and_second_commits_are_refused(tmp_path: Path) -> None:
    begun = draft(tmp_path / "x")
    (begun.path / "link").symlink_to(tmp_path)
    with pytest.raises(IntegrityError, match="plain files"):
        begun.commit({})
    (begun.path / "link").unlink()
    (begun.path / "shard.tmp").write_bytes(b"")
    with pytest.raises(IntegrityError, match="still being written"):
        begun.commit({})
    (begun.path / "shard.tmp").unlink()
    begun.commit({})
    with pytest.raises(IntegrityError, match="already committed"):
        begun.commit({})


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        begin(tmp_path / "file" / "x", "thing", Stage(), INPUTS)


STAGE = """
import sys
from pathlib import Path
from turnscope.artifacts import Artifact, Config, begin, write_bytes
class Stage(Config):
    n: int = 40
print("ready", flush=True)
made = begin(sys.argv[1], "thing", Stage(), {})
if not isinstance(made, Artifact):
    for i in range(40):
        if not (made.path / f"{i}.bin").exists():
            write_bytes(made.path / f"{i}.bin", bytes([i]) * 100_000)
    made.commit({"files": 40})
"""


def test_kills_and_resumes_end_in_the_same_bytes(tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", STAGE, str(tmp_path / folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return process

    assert start("unbroken").wait() == 0
    for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        process = start("killed")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "killed/manifest.json").exists():
            assert Artifact.open(tmp_path / "killed", "thing").verify() == []
    assert start("killed").wait() == 0
    one, two = (Artifact.open(tmp_path / name, "thing") for name in ("unbroken", "killed"))
    assert one.fingerprint == two.fingerprint
    assert two.verify() == []
    assert not list((tmp_path / "killed").rglob("*.tmp"))
