from __future__ import annotations

import sys
from pathlib import Path

import pytest

# for evaluation_support and harvest_support, under any import mode of pytest
sys.path.insert(0, str(Path(__file__).parents[1] / "harvest"))
sys.path.insert(0, str(Path(__file__).parent))

import evaluation_support as support


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> support.World:
    return support.make_world(tmp_path_factory.mktemp("world"))
