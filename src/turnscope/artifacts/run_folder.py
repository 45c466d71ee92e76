"""The run folder: one lock, one log, one folder per artifact."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, cast

from turnscope.artifacts.atomic import TEMP_SUFFIX, storage_error, write_json
from turnscope.artifacts.errors import ConfigError, IntegrityError

_LOCK = ".lock"
_HOLDER = ".lock-holder.json"
_LOG = "run.log"
_WAIT_SECONDS = 0.5
_TEMP = re.compile(rf"\..+\.\d+-[0-9a-f]{{8}}{re.escape(TEMP_SUFFIX)}")  # as atomic_path names them


class RunFolder:
    """`runs/NAME/`. Nothing is made on disk until it is locked or logged to."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def artifact(self, *parts: str) -> Path:
        """The folder of an artifact, such as `artifact("saes", "turn")`. Raises ConfigError if it leads outside."""
        for part in parts:
            pure = PurePath(part)
            if not part or pure.is_absolute() or ".." in pure.parts or part.startswith("."):
                raise ConfigError(f"not a name for an artifact: {part!r}", where=self.path)
        return self.path.joinpath(*parts)

    @contextlib.contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Hold the folder as its only writer.

        The operating system drops the lock of a process that dies, so a stale lock never needs a hand.
        Raises IntegrityError within a second, naming pid and host of the holder; StorageError.
        """
        from filelock import FileLock, Timeout

        self._make()
        # Not a singleton, not thread-local: a second holder in this very process is refused like any other.
        lock = FileLock(self.path / _LOCK, timeout=_WAIT_SECONDS, thread_local=False, is_singleton=False)
        try:
            lock.acquire(poll_interval=0.05)
        except Timeout:
            raise self._held() from None
        except RuntimeError:  # filelock's word for a second holder in the same thread
            raise self._held() from None
        except OSError as error:
            raise storage_error(error, error.errno or 0, self.path / _LOCK) from error
        try:
            self._sweep()
            write_json(self.path / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            with contextlib.suppress(OSError):
                (self.path / _HOLDER).unlink()
            lock.release()

    def log(self, message: str) -> None:
        """Append a line with the time (UTC) to run.log. Raises StorageError."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{time} {message}".replace("\n", "\n  ") + "\n"
        self._make()
        path = self.path / _LOG
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(line)
        except OSError as error:
            raise storage_error(error, error.errno or 0, path, len(line)) from error

    def _sweep(self) -> None:
        """Remove what a killed holder left in mid-write beside its artifacts (those sweep their own)."""
        for temp in self.path.glob(f".*{TEMP_SUFFIX}"):
            if _TEMP.fullmatch(temp.name):
                with contextlib.suppress(OSError):
                    temp.unlink()

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, error.errno or 0, self.path) from error

    def _held(self) -> IntegrityError:
        who = "another process"
        with contextlib.suppress(OSError, ValueError, KeyError):
            holder = cast("dict[str, Any]", json.loads((self.path / _HOLDER).read_bytes()))
            who = f"process {holder['pid']} on {holder['host']}"
        return IntegrityError(
            f"the run folder is in use by {who}", where=self.path, fix="wait for it, or choose another run name"
        )
