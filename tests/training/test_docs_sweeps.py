"""The Python example of docs/sweeps.md runs as it is printed."""

import re
from pathlib import Path
from typing import Any

import pytest
from training_synthetic import planted

from turnscope.training import TrainResult


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text("utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"x_ND": planted(3000, 16, 24, 3).x_ND}
    exec(compile(found[1], "docs/sweeps.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, TrainResult)
    assert (tmp_path / "saes" / "mine" / "manifest.json").exists()
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 5
