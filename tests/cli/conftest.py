from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))  # for pipeline_support, under any import mode of pytest
sys.path.insert(0, str(Path(__file__).parent))

import cli_support
import pipeline_support


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> pipeline_support.Inputs:
    return pipeline_support.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def turnscope(capsys: pytest.CaptureFixture[str]) -> cli_support.Command:
    return cli_support.Command(capsys)
