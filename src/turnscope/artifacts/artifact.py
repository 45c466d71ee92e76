"""Artifacts: folders that are finished when, and only when, they hold `manifest.json`.

`begin` gives either the finished Artifact or a Draft to go on with; `Draft.commit` writes the manifest last. One writer
at a time is the run folder's business (`RunFolder.lock`), or `sole_writer`'s for a stage run by itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, cast

from turnscope.artifacts.atomic import TEMP_SUFFIX, fsync_file, fsync_folder, storage_error, write_json
from turnscope.artifacts.config import Config
from turnscope.artifacts.errors import IntegrityError, TurnscopeError
from turnscope.artifacts.fingerprint import canonical_json, file_sha256
from turnscope.artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileRecord, Manifest, read_manifest
from turnscope.artifacts.run_folder import RunFolder

_WORK = ".work"
_PLAN = "plan.json"
_ABSENT = "(absent)"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, for reading. `fingerprint` is the sha256 of its manifest.json."""

    path: Path
    manifest: Manifest
    fingerprint: str

    @staticmethod
    def open(path: str | Path, kind: str) -> Artifact:
        """Open a finished artifact of `kind`. File contents are not read: see `verify`.

        Raises StorageError when the folder is missing; IntegrityError when it holds no manifest, or one that is
        damaged, of another kind, or of a newer schema.
        """
        folder = Path(path)
        try:
            manifest, data = read_manifest(folder)
        except TurnscopeError as error:
            if not (folder / MANIFEST_NAME).exists():
                error.fix = _meant(folder, kind) or error.fix
            raise
        if manifest.kind != kind:
            fix = _meant(folder, kind) or f"name a folder that holds {kind}"
            raise IntegrityError(f"expected {kind!r}, found {manifest.kind!r}", where=folder, fix=fix)
        return Artifact(folder, manifest, sha256(data).hexdigest())

    def verify(self) -> list[str]:
        """Names of files that are missing, torn or altered, sorted; every file is read. Empty when all is well."""
        names = sorted(self.manifest.files)
        with ThreadPoolExecutor() as pool:
            return [name for name, sound in zip(names, pool.map(self.holds, names), strict=True) if not sound]

    def holds(self, name: str) -> bool:
        """Whether a file of the manifest is there, whole and unaltered; it is read."""
        record = self.manifest.files[name]
        return self._right_size(name, record) and file_sha256(self.path / name) == record.sha256

    def _right_size(self, name: str, record: FileRecord) -> bool:
        file = self.path / name
        return file.is_file() and file.stat().st_size == record.size

    def _torn(self) -> list[str]:
        return sorted(name for name, record in self.manifest.files.items() if not self._right_size(name, record))


def _meant(folder: Path, kind: str) -> str:
    """Which artifacts of the kind lie in the folder, else near it: a run folder is easily named for what it holds."""
    for place in (folder, folder.parent, folder.parent.parent):
        if place == Path(place.anchor):
            break
        near = (path.parent for under in ("*", "*/*") for path in place.glob(f"{under}/{MANIFEST_NAME}"))
        with contextlib.suppress(OSError):
            found = sorted(each for each in islice(near, 100) if _is_of(each, kind))
            if found:
                return f"did you mean {' or '.join(str(each) for each in found[:3])}?"
    return ""


def _is_of(folder: Path, kind: str) -> bool:
    try:
        return read_manifest(folder)[0].kind == kind
    except TurnscopeError:
        return False


@contextlib.contextmanager
def sole_writer(path: str | Path) -> Generator[None, None, None]:
    """Hold an artifact's folder while a stage begins and writes it by itself, outside a locked run folder.

    Raises IntegrityError when another process writes there, naming it. A finished artifact is only read: nothing is
    taken, and the folder may be read-only.
    """
    folder = Path(path)
    if (folder / MANIFEST_NAME).exists():
        yield
        return
    made = not folder.exists()
    work = folder / _WORK
    with RunFolder(work).lock():
        try:
            yield
        finally:
            if not (work / _PLAN).exists():  # begun and refused, or finished
                shutil.rmtree(work, ignore_errors=True)
                if made:
                    with contextlib.suppress(OSError):
                        folder.rmdir()


@dataclass(frozen=True)
class Draft:
    """An artifact being made. Pieces written atomically under `path` outlive a kill and are found again by `begin`."""

    path: Path
    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def work(self) -> Path:
        """`.work/`: checkpoints and the plan; deleted at commit, never in the manifest."""
        return self.path / _WORK

    def commit(self, counts: Mapping[str, int]) -> Artifact:
        """Hash every file, write manifest.json last, delete `.work/`.

        `counts` says how many things went in and how many were dropped, by reason. Hidden files are left out.
        Raises IntegrityError for symlinks, unfinished `*.tmp` files and a second commit; StorageError.
        """
        if (self.path / MANIFEST_NAME).exists():
            raise IntegrityError("already committed", where=self.path)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self.kind,
            config=dict(self.config),
            inputs=dict(self.inputs),
            files={file.relative_to(self.path).as_posix(): _record(file) for file in self._files()},
            counts={name: int(count) for name, count in counts.items()},
        )
        write_json(self.path / MANIFEST_NAME, manifest.model_dump(mode="json"))
        # From here the artifact is finished: what a kill leaves of .work is swept by the next `begin`.
        shutil.rmtree(self.work, ignore_errors=True)
        return Artifact.open(self.path, self.kind)

    def _files(self) -> Iterator[Path]:
        for file in sorted(self.path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(self.path).parts)
            if hidden or (file.is_dir() and not file.is_symlink()):
                continue
            if file.is_symlink() or not file.is_file():
                raise IntegrityError("an artifact holds plain files only", where=file)
            if file.name.endswith(TEMP_SUFFIX):
                raise IntegrityError("a file is still being written", where=file)
            yield file


def begin(path: str | Path, kind: str, config: Config, inputs: Mapping[str, str]) -> Artifact | Draft:
    """The finished artifact at `path`, or a Draft to make it (or go on making it).

    Args:
        path: the artifact's folder; made when absent.
        kind: what it is, such as "transcripts".
        config: the stage's settings; its `recorded()` fields (no paths) are compared and kept.
        inputs: name -> fingerprint of each artifact or model it is made from.

    Raises:
        IntegrityError: the folder holds an artifact, finished or half-done, of another kind, config or inputs (the
            message lists `field: old -> new`); a finished one whose files are missing or torn; or files of no artifact.
        StorageError: the folder cannot be made or written.
    """
    draft = Draft(Path(path), kind, _jsonable(config.recorded()), dict(inputs))
    if (draft.path / MANIFEST_NAME).exists():
        return _finished(draft)
    _make_folder(draft.work)
    plan = draft.work / _PLAN
    wanted = {"kind": draft.kind, "config": draft.config, "inputs": draft.inputs}
    if plan.exists():
        _require_same_work(_read_plan(plan), wanted, draft.path, "half-done")
        _sweep(draft.path)
    else:
        _sweep(draft.work)
        _require_ours(draft.path)
        write_json(plan, wanted)
    return draft


def _finished(draft: Draft) -> Artifact:
    manifest, _ = read_manifest(draft.path)
    old = {"kind": manifest.kind, "config": manifest.config, "inputs": manifest.inputs}
    new = {"kind": draft.kind, "config": draft.config, "inputs": draft.inputs}
    _require_same_work(old, new, draft.path, "finished")
    artifact = Artifact.open(draft.path, draft.kind)
    if torn := artifact._torn():  # pyright: ignore[reportPrivateUsage]
        raise IntegrityError(
            f"finished, but {len(torn)} of its files are missing or torn: {', '.join(torn[:5])}",
            where=draft.path,
            fix="delete the folder and run the stage again",
        )
    shutil.rmtree(draft.work, ignore_errors=True)
    return artifact


def _require_same_work(old: Mapping[str, Any], new: Mapping[str, Any], path: Path, state: str) -> None:
    if old["kind"] != new["kind"]:  # settings of two kinds have nothing to compare
        old, new = ({"kind": side["kind"]} for side in (old, new))
    fix = "use the old settings, another run name, or delete this folder"
    require_same(old, new, f"a {state} artifact is here, made otherwise:", where=path, fix=fix)


def require_same(old: Mapping[str, Any], new: Mapping[str, Any], what: str, *, where: object, fix: str) -> None:
    """Raise IntegrityError, saying `what` and each `field: old -> new`, unless two records are the same."""
    lines = _differences(_flat(old), _flat(new))
    if lines:
        raise IntegrityError("\n    ".join([what, *lines]), where=where, fix=fix)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`field: old -> new` for each field that differs, in order of name."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = (_shown(side[name]) if name in side else _ABSENT for side in (old, new))
        if before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(cast("Mapping[str, Any]", item), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}".removeprefix("config.")] = item
    return flat


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _jsonable(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` as JSON reads it back (tuples become lists), so that it compares equal to a stored one."""
    return cast("dict[str, Any]", json.loads(canonical_json(record)))


def _read_plan(plan: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(plan.read_bytes()))
    except OSError as error:
        raise storage_error(error, error.errno or 0, plan) from error
    except ValueError as error:
        raise IntegrityError(f"damaged plan: {error}", where=plan, fix="delete the artifact's folder") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, error.errno or 0, path) from error


def _sweep(folder: Path) -> None:
    """Remove what a kill left in mid-write."""
    for temp in folder.rglob(f"*{TEMP_SUFFIX}"):
        with contextlib.suppress(OSError):
            temp.unlink()


def _require_ours(folder: Path) -> None:
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name != _WORK)
    if strangers:
        with contextlib.suppress(OSError):
            (folder / _WORK).rmdir()
        raise IntegrityError(
            f"the folder holds files of no artifact: {', '.join(strangers[:5])}",
            where=folder,
            fix="choose an empty folder, or clear this one",
        )


def _record(file: Path) -> FileRecord:
    try:
        fsync_file(file)
        fsync_folder(file.parent)
        return FileRecord(sha256=file_sha256(file), size=file.stat().st_size)
    except OSError as error:
        raise storage_error(error, error.errno or 0, file) from error
