"""`turnscope harvest` says all that a harvest can be told, with the harvest's own defaults."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import cli_support
import pipeline_support
import pytest

from turnscope.cli import stages
from turnscope.harvest import HarvestConfig

NAMES = {"sites": "site", "dtype": "store_dtype", "model_dtype": "dtype"}
"""What the command calls otherwise."""


def choices(annotation: Any) -> Iterator[Any]:
    """The members of every Literal in a type."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif isinstance(annotation, types.UnionType) or get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from choices(part)


def test_every_setting_has_an_option_with_its_default_and_its_choices() -> None:
    options = inspect.signature(stages.harvest).parameters
    hints = get_type_hints(stages.harvest)
    for name, field in HarvestConfig.model_fields.items():
        option = NAMES.get(name, name)
        assert option in options, f"no --{option.replace('_', '-')}"
        if not field.is_required():
            assert options[option].default == field.default, name
        if name != "tokens":  # a word or a number
            assert set(choices(hints[option])) == set(choices(field.annotation)), name


def test_options_reach_the_manifest(
    turnscope: cli_support.Command, inputs: pipeline_support.Inputs, tmp_path: Path
) -> None:
    assert turnscope("import", inputs.chats, "--limit", 20, "--out", tmp_path / "t").code == 0
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}")
    ran = turnscope(
        "harvest", tmp_path / "t", "--model", inputs.model, "--site", "resid.1", "--out", tmp_path / "a",
        "--pool", "max", "--span-policy", "as_of_turn", "--control-tokens", "keep", "--no-packing",
        "--attention", "eager", "--store-dtype", "float16", "--tokens", "2", "--token-dtype", "bfloat16",
        "--shard-turns", "7", "--seed", "3", "--chat-template", template, "--dtype", "bfloat16",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "a" / "resid.1" / "manifest.json").read_text())
    wanted = {
        "pool": "max", "span_policy": "as_of_turn", "control_tokens": "keep", "packing": False, "attention": "eager",
        "dtype": "float16", "tokens": 2, "token_dtype": "bfloat16", "shard_turns": 7, "seed": 3,
        "model_dtype": "bfloat16", "quantization": None, "template": "given",
    }  # fmt: skip
    assert {name: manifest["config"][name] for name in wanted} == wanted
    assert manifest["counts"]["shards"] > 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--chat-template", "no-such-file"), "no-such-file"),
        (("--device-map", "everywhere"), "everywhere"),
        (("--quantization", "2bit"), "2bit"),
        (("--attention", "kernels-community/any"), "kernels-community/any"),
        (("--shard-turns", "0"), "shard_turns"),
        (("--engine", "ray", "--device-map", "auto"), "one GPU"),
    ],
)
def test_what_cannot_be_is_one_line(
    turnscope: cli_support.Command, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    ran = turnscope(
        "harvest", tmp_path / "t", "--model", "none", "--site", "resid.0", "--out", tmp_path / "a", *options
    )
    assert ran.code == 2
    assert named in ran.err
    assert "Traceback" not in ran.err
