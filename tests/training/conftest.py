"""One thread for every test here."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for training_synthetic, under any import mode of pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def helper_path() -> str:
    """Folder of `training_synthetic.py`, for subprocesses."""
    return str(Path(__file__).parent)
