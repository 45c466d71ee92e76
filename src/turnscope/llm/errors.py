"""Two ways in which a job that asks a language model stops before its end; both go on when run again."""

from __future__ import annotations

from turnscope.artifacts import TurnscopeError


class PendingAnswers(TurnscopeError):  # noqa: N818 - nothing has gone wrong
    """With the files backend: requests wait for answers; `where` is the file to fill."""

    exit_code = 8


class CeilingReached(TurnscopeError):  # noqa: N818
    """The next call could pass the ceiling, so it was not made. Answers so far are kept."""

    exit_code = 9
