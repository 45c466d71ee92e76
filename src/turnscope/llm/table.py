"""One SQLite table that is cache, ledger and resume of all calls. Safe for several processes and for being killed.

A row is a call: made before it is sent (`asking`, with the most that it can cost), finished when the answer is on disk
(`ok`, or `failed` when what came cannot be used), `lost` when no answer came though one may have been paid for, removed
when the endpoint refused to take it. So no call that was sent is missing, and what a killed process was waiting for
stays counted.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from turnscope.artifacts import ConfigError, IntegrityError, StorageError
from turnscope.llm.errors import CeilingReached
from turnscope.llm.request import Failed, Reply

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    n INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, model TEXT NOT NULL, purpose TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('asking', 'ok', 'failed', 'lost')), owner TEXT, reserved_usd REAL,
    text TEXT, kind TEXT, reason TEXT, finish TEXT, input_tokens INTEGER, output_tokens INTEGER, usd REAL, at TEXT
);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE UNIQUE INDEX IF NOT EXISTS one_asks ON calls (key) WHERE state = 'asking';
"""
_ANSWERED = "state IN ('ok', 'failed')"


@dataclass(frozen=True)
class Ledger:
    """Sums over a table. `lost` calls got no answer and may have cost up to `lost_usd`; `unpriced` have no price."""

    calls: int
    usd: float
    input_tokens: int
    output_tokens: int
    unpriced: int
    lost: int
    lost_usd: float


@dataclass(frozen=True)
class Claim:
    """The right and the duty to make one call."""

    n: int


Busy = Literal["asked", "full"]


class CallTable:
    """The table at `path`, made when missing. Threads may share it. Raises StorageError, IntegrityError."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"
        self._settled, self._settled_usd, self._settled_calls = 0, 0.0, 0
        self._claimed = set[int]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder: {error.strerror}", where=path.parent) from error
        with self._told():
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._base.close()
                raise

    def _open(self) -> None:
        version = int(self._base.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise IntegrityError(f"a table of version {version}; {VERSION} is known", where=self.path)
        names = {str(row[0]) for row in self._base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names - {"calls", "sqlite_sequence"}:
            raise IntegrityError("an SQLite file of another kind", where=self.path, fix="name another --table")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        if version < VERSION:
            self._base.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file. Calls still on their way are lost: nobody will put down what comes."""
        for n in sorted(self._claimed):
            with suppress(StorageError, IntegrityError, ConfigError):
                self.lose(Claim(n), "cut off")
        self._base.close()

    def find(self, key: bytes) -> Reply | Failed | None:
        """The answer on disk, the last one where there are several."""
        with self._told(), self._lock:
            return self._find(key)

    def claim(
        self, key: bytes, *, model: str, purpose: str, need_usd: float | None, max_usd: float | None = None,
        max_calls: int | None = None, again: bool = False,
    ) -> Reply | Failed | Claim | Busy:  # fmt: skip
        """The answer on disk, or else the right to ask for it.

        "asked" when another is asking just now, "full" when the ceiling leaves no room before calls on their way are
        back. `again` passes over an answer that failed. Raises CeilingReached when nothing is on its way and the call,
        which costs `need_usd` at most, would pass a ceiling.
        """
        with self._told(), self._writing():
            found = self._find(key)
            if found is not None and not (again and isinstance(found, Failed)):
                return found
            self._bury_the_dead()
            if self._base.execute("SELECT 1 FROM calls WHERE key = ? AND state = 'asking'", (key,)).fetchone():
                return "asked"
            if max_usd is not None or max_calls is not None:
                full = self._full(need_usd or 0.0, max_usd, max_calls)
                if full and self._base.execute("SELECT 1 FROM calls WHERE state = 'asking' LIMIT 1").fetchone():
                    return "full"
                if full:
                    raise CeilingReached(full, where=self.path, fix="raise it and run again: answers so far are kept")
            row = self._base.execute(
                "INSERT INTO calls (key, model, purpose, state, owner, reserved_usd, at) "
                "VALUES (?, ?, ?, 'asking', ?, ?, ?)",
                (key, model, purpose, self._owner, need_usd, _now()),
            )
            n = int(row.lastrowid or 0)
            self._claimed.add(n)
            return Claim(n)

    def finish(
        self, claim: Claim, answer: Reply | Failed, *, tokens: tuple[int, int] | None, usd: float | None
    ) -> None:
        """Put down what came. Without `usd` the most that it can have cost stays counted against the ceiling."""
        failed = isinstance(answer, Failed)
        values = (
            "failed" if failed else "ok", _clean(answer.text), answer.kind if failed else None,
            _clean(answer.reason) if failed else None, "" if failed else answer.finish,
            *(tokens or (None, None)), usd, _now(), claim.n,
        )  # fmt: skip
        with self._told(), self._writing():
            self._claimed.discard(claim.n)
            self._base.execute(
                "UPDATE calls SET state = ?, text = ?, kind = ?, reason = ?, finish = ?, input_tokens = ?, "
                "output_tokens = ?, usd = ?, at = ?, owner = NULL WHERE n = ?",
                values,
            )

    def lose(self, claim: Claim, reason: str) -> None:
        """No answer came, though one may have been paid for."""
        with self._told(), self._writing():
            self._claimed.discard(claim.n)
            self._base.execute(
                "UPDATE calls SET state = 'lost', reason = ?, owner = NULL, at = ? WHERE n = ?",
                (_clean(reason), _now(), claim.n),
            )

    def drop(self, claim: Claim) -> None:
        """The call was not made, or not taken: it costs nothing."""
        with self._told(), self._writing():
            self._claimed.discard(claim.n)
            self._base.execute("DELETE FROM calls WHERE n = ?", (claim.n,))

    def put(self, key: bytes, reply: Reply, *, purpose: str, tokens: tuple[int, int] | None) -> None:
        """Keep an answer that was not asked for by a call of ours (the files backend), once."""
        with self._told(), self._writing():
            if isinstance(self._find(key), Reply):
                return
            self._base.execute(
                "INSERT INTO calls (key, model, purpose, state, text, finish, input_tokens, output_tokens, usd, at) "
                "VALUES (?, ?, ?, 'ok', ?, ?, ?, ?, ?, ?)",
                (key, reply.model, purpose, _clean(reply.text), reply.finish, *(tokens or (None, None)), reply.usd,
                 _now()),
            )  # fmt: skip

    def ledger(self) -> Ledger:
        """Sums over all calls."""
        with self._told(), self._lock:
            row = self._base.execute(
                "SELECT COUNT(*), TOTAL(usd), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0), "
                f"SUM({_ANSWERED} AND usd IS NULL), SUM(state = 'lost'), "
                "TOTAL(CASE WHEN state = 'lost' THEN reserved_usd END) FROM calls"
            ).fetchone()
        return Ledger(row[0], row[1], row[2], row[3], row[4] or 0, row[5] or 0, row[6])

    def _find(self, key: bytes) -> Reply | Failed | None:
        row = self._base.execute(
            "SELECT state, text, model, input_tokens, output_tokens, usd, finish, kind, reason FROM calls "
            f"WHERE key = ? AND {_ANSWERED} ORDER BY n DESC LIMIT 1",
            (key,),
        ).fetchone()
        if row is None:
            return None
        if row[0] == "failed":
            return Failed(str(row[8]), row[7], str(row[1] or ""))
        return Reply(str(row[1]), str(row[2]), row[3] or 0, row[4] or 0, row[5], True, str(row[6] or ""))

    def _full(self, need_usd: float, max_usd: float | None, max_calls: int | None) -> str:
        """Which ceiling another call would pass, in words, or ""."""
        usd, calls = self._committed()
        if max_calls is not None and calls + 1 > max_calls:
            return f"the ceiling of {max_calls:,} calls is reached: {calls:,} are in the table"
        if max_usd is not None and usd + need_usd > max_usd:
            spent = f"{usd:.6f} USD of {max_usd:g} are spent or bound"
            return f"the ceiling is reached: {spent}, and the next call may cost {need_usd:.6f}"
        return ""

    def _committed(self) -> tuple[float, int]:
        """What calls have cost or can still cost, and their number; rows that no longer change are summed once."""
        first = self._base.execute("SELECT MIN(n) FROM calls WHERE state = 'asking'").fetchone()[0]
        last = self._base.execute("SELECT COALESCE(MAX(n), 0) FROM calls").fetchone()[0]
        until = last if first is None else int(first) - 1
        if until > self._settled:
            usd, calls = self._sum(self._settled, until)
            self._settled, self._settled_usd = until, self._settled_usd + usd
            self._settled_calls += calls
        usd, calls = self._sum(self._settled, last)
        return self._settled_usd + usd, self._settled_calls + calls

    def _sum(self, after: int, until: int) -> tuple[float, int]:
        query = "SELECT TOTAL(COALESCE(usd, reserved_usd)), COUNT(*) FROM calls WHERE n > ? AND n <= ?"
        usd, calls = self._base.execute(query, (after, until)).fetchone()
        return float(usd), int(calls)

    def _bury_the_dead(self) -> None:
        """Calls of processes that are gone: whether they were paid for, nobody knows."""
        rows = self._base.execute("SELECT DISTINCT owner FROM calls WHERE state = 'asking'").fetchall()
        for (owner,) in rows:
            if owner != self._owner and not _alive(str(owner)):
                self._base.execute(
                    "UPDATE calls SET state = 'lost', reason = 'cut off', owner = NULL "
                    "WHERE state = 'asking' AND owner = ?",
                    (owner,),
                )

    @contextmanager
    def _writing(self) -> Generator[None]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise ConfigError(f"the table of calls is closed: {error}", where=self.path) from error
        except sqlite3.OperationalError as error:
            raise StorageError(f"the table of calls cannot be used: {error}", where=self.path) from error
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"not a table of calls, or damaged: {error}", where=self.path, fix="name another --table"
            ) from error


def _clean(text: str) -> str:
    """Text that SQLite can hold: a lone surrogate has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _alive(owner: str) -> bool:
    """Whether a process still runs; one on another host is taken to."""
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process started, in ticks, so that another one with its number is not taken for it; "" where untold."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
