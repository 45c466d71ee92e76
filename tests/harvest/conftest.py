from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for harvest_support, under any import mode of pytest

import harvest_support as support

from turnscope.harvest import harvest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def list_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read transcripts from a list; test_harvest_real.py goes through a real import."""
    monkeypatch.setattr(harvest, "open_transcripts", support.ListStore)
    monkeypatch.setenv("TURNSCOPE_QUIET", "1")
