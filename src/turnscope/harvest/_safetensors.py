"""The typed door to safetensors, for writing (reading maps files without it, see ``shards.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import safetensors.torch
import torch


def pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of a safetensors file: the same for the same tensors (no metadata, whose order safetensors does not
    fix).
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return cast(bytes, cast(Any, safetensors.torch).save(contiguous))
