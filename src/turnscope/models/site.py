"""Sites: the places in a model where the residual stream is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from turnscope.artifacts import ConfigError


@dataclass(frozen=True, order=True)
class Site:
    """A place in the residual stream.

    ``Site("resid", L)`` is the output of the 0-based block L, which is ``hidden_states[L + 1]`` of a transformers model
    (for the last block before the final norm). ``Site("embed")`` is the input of block 0.

    >>> str(Site.parse("resid.3")), str(Site.parse("embed"))
    ('resid.3', 'embed')
    """

    kind: Literal["embed", "resid"]
    block: int = -1

    def __post_init__(self) -> None:
        if (self.kind == "embed") != (self.block == -1) or self.block < -1:
            raise ConfigError(
                f"no such site: {self.kind} of block {self.block}",
                fix="write 'embed' or 'resid.L', L >= 0",
            )

    def __str__(self) -> str:
        return "embed" if self.kind == "embed" else f"resid.{self.block}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read the string form; raises ConfigError for anything but ``embed`` and ``resid.L``."""
        if text == "embed":
            return cls("embed")
        kind, _, number = text.partition(".")
        if kind != "resid" or not (number.isascii() and number.isdigit()):
            raise ConfigError(
                f"not a site: {text!r}",
                fix="write 'embed' or 'resid.L' with L a 0-based block, as resid.3",
            )
        return cls("resid", int(number))
