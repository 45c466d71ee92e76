from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for index_support, under any import mode of pytest

import index_support as support


@pytest.fixture(scope="session")
def turn_world(tmp_path_factory: pytest.TempPathFactory) -> support.World:
    return support.make_world(tmp_path_factory.mktemp("turn"), support.planted())


@pytest.fixture(scope="session")
def token_world(tmp_path_factory: pytest.TempPathFactory) -> support.World:
    sae = support.identity(unit="token")
    return support.make_world(tmp_path_factory.mktemp("token"), support.planted(seed=1), sae, tokens=True)
