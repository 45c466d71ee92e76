"""Checkpoints: one safetensors file, replaced atomically, whose metadata carries everything that is not a tensor.

One file rather than a pair, since a kill between two renames would leave weights of one step beside counters of
another. Never a pickle. A damaged file is refused as one line (`IntegrityError`), as every dictionary file is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from turnscope.artifacts import IntegrityError
from turnscope.sae.weights import Layout, read_weights, write_weights

NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the folder's checkpoint. `state` is plain JSON; floats come back as they were, to the bit."""
    write_weights(folder / NAME, tensors, {"state": json.dumps(state, sort_keys=True)})


def load_checkpoint(folder: Path, layout: Layout) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The folder's checkpoint, or None when it has none. IntegrityError when it does not hold exactly `layout`."""
    path = folder / NAME
    if not path.exists():
        return None
    tensors, metadata = read_weights(path, layout)
    try:
        return tensors, json.loads(metadata["state"])
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"{path.name} is refused: it does not hold the state of a run",
            where=str(path),
            fix="remove it to start the run anew",
        ) from error
