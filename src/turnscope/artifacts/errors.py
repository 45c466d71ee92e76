"""The error tree. Every message says what failed, where, and what to do; every class has its exit code.

TurnscopeError 1
  ConfigError 2       a setting is wrong or contradicts another
  StorageError 3      disk full, read-only folder, missing path
  DataError 4         bad transcripts, too few rows, numbers that are not finite
  IntegrityError 5    manifest, fingerprint, config changed on resume, two writers
  ModelError 6        a model or tokenizer that cannot be used as asked
  DependencyError 7   an optional library is missing; the message names the extra

The room llm adds two ends that are no mistakes: PendingAnswers 8 and CeilingReached 9.
"""

from __future__ import annotations


class TurnscopeError(Exception):
    """Root of the tree. `str(error)` is `what`, then indented `where:` and `fix:` lines for those given."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", fix: str = "") -> None:
        self.what = what
        self.where = str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions rebuild from `args` alone, which would lose `where` and `fix` between processes.
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[TurnscopeError], what: str, where: str, fix: str) -> TurnscopeError:
    return cls(what, where=where, fix=fix)


class ConfigError(TurnscopeError):
    """A setting is wrong or contradicts another."""

    exit_code = 2


class StorageError(TurnscopeError):
    """Disk full, read-only folder, missing path."""

    exit_code = 3


class DataError(TurnscopeError):
    """Bad transcripts, too few rows, numbers that are not finite."""

    exit_code = 4


class IntegrityError(TurnscopeError):
    """A manifest or fingerprint does not hold, a config changed on resume, or two writers met."""

    exit_code = 5


class ModelError(TurnscopeError):
    """A model or tokenizer cannot be used as asked."""

    exit_code = 6


class DependencyError(TurnscopeError):
    """An optional library is missing; `fix` names the extra that brings it."""

    exit_code = 7
