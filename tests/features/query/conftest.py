from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for query_support, under any import mode of pytest

import query_support

from turnscope.features.store import FeatureIndex


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    """A small index on disk, with the transcripts beside it."""
    return query_support.write_index(tmp_path_factory.mktemp("run"))
