"""Splits, drawn once, at import: hash(duplicate group, seed) -> train | explain | eval | locked.

No other room draws one. Exact duplicates share a group, so a text never stands on both sides of a split.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

from turnscope.artifacts.errors import ConfigError

Split = Literal["train", "explain", "eval", "locked"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES: dict[Split, float] = {"train": 0.6, "explain": 0.1, "eval": 0.2, "locked": 0.1}


def split_of(group: str, seed: int) -> Split:
    """The split of a duplicate group: a function of its name and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "locked"


def check_split(name: str) -> Split:
    """`name` as a split. `ConfigError` for any other word."""
    for split in SPLITS:
        if name == split:
            return split
    raise ConfigError(f"no such split: {name}", fix=f"one of {', '.join(SPLITS)}")
