"""Recipes and --set: what they come to, and how a mistake is told in one line."""

from pathlib import Path
from typing import Any

import pytest

from turnscope.artifacts import ConfigError, StorageError
from turnscope.pipeline.training import read_train_recipe, settings

RECIPE = """
source = "activations/resid.1"
out = "saes"
k = 8
lr = 1e-3

[[saes]]
name = "wide"
n_features = 512

[[saes]]
name = "narrow"
n_features = 64
k = 4
"""


def write(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def test_entries_change_what_is_common_and_options_change_both(tmp_path: Path) -> None:
    wide, narrow = read_train_recipe(write(tmp_path, RECIPE), {}).configs
    assert (wide.n_features, wide.k, wide.lr, wide.out) == (512, 8, 1e-3, tmp_path / "saes" / "wide")
    assert (narrow.n_features, narrow.k, narrow.source) == (64, 4, tmp_path / "activations" / "resid.1")
    changed = read_train_recipe(write(tmp_path, RECIPE), settings(["k=2", "schedule=cosine"])).configs
    assert {config.k for config in changed} == {2}
    assert {config.schedule for config in changed} == {"cosine"}
    (one,) = read_train_recipe(write(tmp_path, 'source = "a"\nout = "sae"'), {"out": Path("elsewhere")}).configs
    assert one.out == Path("elsewhere")


def test_a_harvest_in_place_of_a_store(tmp_path: Path) -> None:
    text = 'out = "saes"\nbuffer_rows = 100\n[harvest]\nmodel = "m"\ntranscripts = "t"\n'
    entries = '[[saes]]\nsite = "resid.1"\n[[saes]]\nsite = "resid.2"\n[[saes]]\nsite = "resid.1"\nk = 4\n'
    recipe = read_train_recipe(write(tmp_path, text + entries), {})
    assert recipe.sites == ("resid.1", "resid.2", "resid.1")
    assert recipe.harvest is not None
    assert recipe.harvest.sites == ("resid.1", "resid.2")
    assert recipe.harvest.transcripts == tmp_path / "t"
    assert recipe.buffer_rows == 100
    assert [config.out.name for config in recipe.configs] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["with=3"], "no setting 'with'"),
        (["n_feature=64"], "near it: n_features"),
        (["learning=1"], "no setting"),
        (["schedul=cosine"], "near it: schedule"),
        (["k"], "NAME=VALUE"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(pairs: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        settings(pairs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("k=0", "k: .*greater than or equal to 1"),
        ("k=many", "k: .*got 'many'"),
        ("schedule=sinus", "schedule: .*'linear', 'cosine' or 'constant'"),
        ("lr=-1", "lr: .*greater than 0"),
        ("device=tpu", "device"),
        ("n_features=4", "k = 8 is greater than n_features = 4"),
        ("encoder_dtype=int8", "encoder_dtype"),
        ("epochs=2", "epochs or n_samples"),
        ("decay_share=0.99", "exceed the whole run"),
        ("architecture=nested", "architecture"),
    ],
)
def test_a_wrong_value_names_the_setting(tmp_path: Path, pair: str, words: str) -> None:
    text = 'source = "a"\nout = "sae"\nk = 8\nn_samples = 100\n'
    with pytest.raises(ConfigError, match=words):
        read_train_recipe(write(tmp_path, text), settings([pair]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source = ", "TOML"),
        ('sourse = "a"', "near it: source"),
        ('source = "a"\nout = "b"\n[[saes]]\nwidth = 3\n', "no setting 'width'"),
        ('source = "a"\nout = "b"\n[harvest]\nmodel = "m"\n', "not from both"),
        ('source = "a"\n', "out: must be given"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_train_recipe(write(tmp_path, text), {})
    with pytest.raises(StorageError, match="recipe"):
        read_train_recipe(tmp_path / "none.toml", {})


def test_values_are_toml_or_words() -> None:
    found: dict[str, Any] = settings(["k=64", "lr=2e-4", "schedule=cosine", "prefixes=[0.25, 0.5]", "detach_turn=true"])
    expected = {"k": 64, "lr": 2e-4, "schedule": "cosine", "prefixes": [0.25, 0.5], "detach_turn": True}
    assert found == expected


@pytest.mark.parametrize("entries", ["saes = [1, 2]", "out = 3\n[[saes]]\nname = 'a'"])
def test_entries_of_another_type_are_named(entries: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"source = 'x'\n{entries}\n")
    with pytest.raises(ConfigError, match=r"list of tables|out"):
        read_train_recipe(path, {})


def test_folders_of_an_entry_are_relative_to_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("out = 'o'\n[[saes]]\nsource = 'a'\n[[saes]]\nsource = 'b'\nout = 'p'\n")
    first, second = read_train_recipe(path, {}).configs
    assert (first.source, first.out) == (tmp_path / "a", tmp_path / "o" / "0")
    assert (second.source, second.out) == (tmp_path / "b", tmp_path / "p" / "1")
