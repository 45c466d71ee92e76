"""Configs: frozen, strict, and silent about places."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, model_validator

from turnscope.artifacts import Config, ConfigError


class Inner(Config):
    where: Path = Path("x")
    rate: float = Field(0.5, gt=0)


class Outer(Config):
    name: str
    inner: Inner = Inner()
    inputs: tuple[Path, ...] = ()
    model: Path | str = "m"
    device: str = Field("cpu", exclude=True)

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.name == "bad":
            raise ValueError("a bad name")
        return self


def test_record_leaves_out_paths_and_excluded_fields() -> None:
    assert Outer(name="a", inputs=(Path("y"),)).recorded() == {"name": "a", "inner": {"rate": 0.5}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name: must be given"),
        ({"name": 3}, "name: Input should be a valid string"),
        ({"name": "a", "colour": 1}, "colour: no such field"),
        ({"name": "a", "inner": {"rate": -1}}, r"rate: Input should be greater than 0 \(got -1\)"),
        ({"name": "bad"}, "a bad name"),
    ],
)
def test_bad_values_are_config_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Outer.model_validate(fields)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=message):
        Outer(**fields)  # pyright: ignore[reportArgumentType]


def test_no_mapping_at_all() -> None:
    with pytest.raises(ConfigError):
        Outer.model_validate(3)


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().rate = 0.1  # pyright: ignore[reportAttributeAccessIssue]
