"""An endpoint for each test, and a client's config for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from endpoint import Endpoint, serving

from turnscope.llm import LLMConfig


@pytest.fixture
def endpoint() -> Generator[Endpoint]:
    with serving() as served:
        yield served


@pytest.fixture
def config(endpoint: Endpoint, tmp_path: Path) -> Callable[..., LLMConfig]:
    def make(**fields: Any) -> LLMConfig:
        given = {"model": "judge", "base_url": endpoint.url + "/v1", "table": tmp_path / "llm.sqlite", "wait_s": 0.01}
        return LLMConfig(**{**given, **fields})

    return make
