"""The one list of chat formats. A new format is one file beside this one and one name in `_FORMATS`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from turnscope.artifacts.errors import ConfigError, DataError
from turnscope.transcripts.conversation import Conversation

# In order of detection: the more particular first.
_FORMATS = ("hh_rlhf", "lmsys", "messages")


class _ReaderModule(Protocol):
    NAME: str
    KEYS: str

    def detect(self, record: Mapping[str, Any]) -> bool: ...
    def read(self, record: Mapping[str, Any]) -> Iterator[Conversation]: ...


class Reader(NamedTuple):
    """One chat format: its name, the keys it goes by, and its module's `read`."""

    name: str
    keys: str
    module: _ReaderModule

    def read(self, record: Mapping[str, Any]) -> Iterator[Conversation]:
        """The conversations of one record. `DataError` says what is wrong with it."""
        return self.module.read(record)


def readers() -> tuple[Reader, ...]:
    """All readers, in order of detection."""
    modules = [cast("_ReaderModule", import_module(f"{__package__}.{name}")) for name in _FORMATS]
    return tuple(Reader(module.NAME, module.KEYS, module) for module in modules)


def reader_for(record: Mapping[str, Any], name: str | None = None, where: str = "") -> Reader:
    """The reader called `name`, or the one that knows the record's keys.

    Raises:
        ConfigError: no format of that name.
        DataError: no reader knows these keys.
    """
    everyone = readers()
    for reader in everyone:
        if reader.name == name if name else reader.module.detect(record):
            return reader
    known = "; ".join(f"{reader.name} ({reader.keys})" for reader in everyone)
    if name:
        raise ConfigError(f"no such chat format: {name}", fix=f"one of: {known}")
    keys = ", ".join(list(record)[:12]) or "none"
    raise DataError(f"unknown chat format; the first record has the keys: {keys}", where=where, fix=f"known: {known}")
