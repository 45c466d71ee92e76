"""The whole evaluation on a world in which one feature is planted for a trait and one for a matched pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluation_support as support
import pytest

from turnscope.artifacts import DataError, IntegrityError
from turnscope.evaluation import PlantedConfig, Trait, run
from turnscope.evaluation.planted import families_reached, load_report

MOOD = Trait(name="mood:sunny", family="mood", key="mood", value="sunny")
COIN = Trait(name="coin", family="noise", key="coin", value=True)
RARE = Trait(name="rare", family="noise", key="rare", value=True)
VERDICT = Trait(name="verdict", family="verdict", key="verdict", value="wrong", pair="pair")


def config(world: support.World, out: Path, **settings: Any) -> PlantedConfig:
    return PlantedConfig(
        **{
            "transcripts": world.transcripts, "activations": world.activations[support.SITE],
            "sae": world.saes["turn"], "embedding": (world.activations["embed"], world.saes["embed"]),
            "out": out, "model": str(world.model), "traits": (MOOD, COIN, RARE, VERDICT), "min_positives": 5,
            "n_boot": 200, "permutations": 40, **settings,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(world: support.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(config(world, tmp_path_factory.mktemp("planted") / "eval")).report


@pytest.fixture(scope="module")
def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["traits"]}


def test_the_planted_feature_is_found(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["mood:sunny"]
    assert row["feature"] == support.PLANTED
    assert row["auroc"] > 0.97
    assert row["ci"] is None or row["ci"][0] > 0.9
    assert row["probe_auroc"] > 0.97
    assert row["bow_auroc"] > 0.97
    assert row["unigram_auroc"] > 0.97
    assert {"embedding_auroc", "positives", "eligible", "unigram_token", "probe_ci", "bow_ci"} <= row.keys()
    assert "random_model_auroc" not in row
    assert abs(row["shuffled_auroc"] - 0.5) < 0.05
    assert len(row["shuffled_values"]) == 40


def test_the_examples_are_its_top_turns(rows: dict[str, dict[str, Any]]) -> None:
    examples = rows["mood:sunny"]["examples"]
    assert len(examples) == 5
    assert all("zzz" in example["text"] and example["has_trait"] is True for example in examples)
    strengths = [example["activation"] for example in examples]
    assert strengths == sorted(strengths, reverse=True)
    assert len({example["text"] for example in examples}) == 5


def test_noise_is_at_chance(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["coin"]
    assert row["ci"][0] < 0.5 < row["ci"][1]
    assert row["bow_ci"][0] < 0.5 < row["bow_ci"][1]
    assert row["probe_ci"][0] < 0.5 < row["probe_ci"][1]
    assert abs(row["shuffled_auroc"] - 0.5) < 0.05


def test_a_trait_in_matched_pairs(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["verdict"]
    assert row["feature"] == support.PAIRED
    assert row["auroc"] == 1.0
    assert row["ci"] == [1.0, 1.0]  # every pair goes one way, and an interval cannot see beyond the data
    assert abs(row["shuffled_auroc"] - 0.5) < 0.1
    assert row["eligible"] == 2 * row["positives"]


def test_too_few_positives_are_withheld_with_the_reason(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["rare"].keys() == {"name", "family", "withheld"}
    assert rows["rare"]["withheld"] == "0 positive or negative turns in a split, 5 needed"


def test_the_fit_of_the_dictionary_stands_beside(report: dict[str, Any]) -> None:
    assert report["features"] == support.FEATURES
    assert report["unit"] == "turn"
    assert {"nmse_raw", "nmse_centred", "l0", "dead", "k", "rows"} <= report.keys()


def test_families() -> None:
    rows = [{"family": "a", "auroc": 0.95}, {"family": "a", "auroc": 0.2}, {"family": "b", "withheld": "few"}]
    assert families_reached(rows) == {"a": (1, 2), "b": (0, 1)}


def test_labels_name_the_traits_when_none_are_given(world: support.World, tmp_path: Path) -> None:
    report = run(config(world, tmp_path / "eval", traits=(), permutations=2, n_boot=100, embedding=None)).report
    assert {"mood:sunny", "mood:grey", "coin", "verdict:wrong", "verdict:right"} <= {
        r["name"] for r in report["traits"]
    }


def test_again_is_reused_and_other_settings_are_refused(world: support.World, tmp_path: Path) -> None:
    settings = {"traits": (MOOD,), "permutations": 2, "n_boot": 100, "embedding": None}
    first = run(config(world, tmp_path / "eval", **settings))
    stamp = (tmp_path / "eval" / "planted.json").stat().st_mtime_ns
    assert run(config(world, tmp_path / "eval", **settings)).artifact.fingerprint == first.artifact.fingerprint
    assert (tmp_path / "eval" / "planted.json").stat().st_mtime_ns == stamp
    assert load_report(tmp_path / "eval") == first.report
    with pytest.raises(IntegrityError, match="permutations: 2 -> 3"):
        run(config(world, tmp_path / "eval", **{**settings, "permutations": 3}))


def test_another_site_is_refused(world: support.World, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"site resid\.1, these have embed"):
        run(config(world, tmp_path / "eval", activations=world.activations["embed"]))
    assert not (tmp_path / "eval").exists()


def test_nothing_to_judge_leaves_nothing_behind(world: support.World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trait has enough labelled turns"):
        run(config(world, tmp_path / "eval", traits=(RARE,)))
    assert not (tmp_path / "eval").exists()
