"""Lazy public names for a room's `__init__` (PEP 562), so that importing a room does not import all of it.

if TYPE_CHECKING:                                  # what type checkers and editors see
    from turnscope.room.thing import Thing as Thing

__getattr__, __dir__, __all__ = lazy(__name__, {"Thing": "thing"})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for `package`, whose public `names` map each name to its submodule.

    A name equal to its submodule's is imported at once: the import system would otherwise put the submodule itself
    in its place the first time anything imports it. Give such modules no heavy imports.
    """

    def load(name: str) -> Any:
        value = getattr(import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(name)

    for name, module in names.items():
        if name == module:
            load(name)
    return get, lambda: sorted(names), sorted(names)
