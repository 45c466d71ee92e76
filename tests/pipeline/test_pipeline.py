"""A whole run over a tiny model: what it leaves, that it is reused, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pipeline_support as support
import pytest

from turnscope.artifacts import Artifact, ConfigError, IntegrityError, StorageError
from turnscope.pipeline import PipelineResult, run
from turnscope.pipeline.config import read_recipe
from turnscope.transcripts.conversation import Conversation, Part, Turn

TRAIT_FIELDS = {
    "name", "family", "feature", "auroc", "ci", "shuffled_auroc", "shuffled_ci", "probe_auroc", "unigram_auroc",
    "bow_auroc", "embedding_auroc", "random_model_auroc", "positives",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(inputs: support.Inputs, tmp_path_factory: pytest.TempPathFactory) -> PipelineResult:
    return run(support.recipe(inputs, controls=True), tmp_path_factory.mktemp("runs") / "whole")


def test_the_report_has_every_field(finished: PipelineResult) -> None:
    report = json.loads((finished.path / "report.json").read_text("utf-8"))
    assert report == json.loads(json.dumps(finished.report))
    assert report["saes"].keys() == {"turn", "token"}
    assert report["seconds"] > 0
    assert report["peak_rss_mb"] > 0
    assert report["model"] == "tiny"
    assert report["site"] == "resid.2"
    for sae in report["saes"].values():
        assert {"nmse_raw", "nmse_centred", "l0", "dead", "features", "traits", "top_features"} <= sae.keys()
        assert sae["features"] == 32
        judged = [row for row in sae["traits"] if "auroc" in row]
        assert judged
        for row in judged:
            assert row.keys() >= TRAIT_FIELDS
            numbers = [row[name] for name in TRAIT_FIELDS if name.endswith("auroc")]
            assert all(math.isfinite(number) and 0 <= number <= 1 for number in numbers)


def test_no_place_or_time_is_in_any_artifact(finished: PipelineResult, inputs: support.Inputs) -> None:
    kinds = []
    for path in finished.path.rglob("manifest.json"):
        text = path.read_text("utf-8")
        assert str(finished.path.parent) not in text
        assert str(inputs.model.parent) not in text
        kinds.append(json.loads(text)["kind"])
        assert Artifact.open(path.parent, kinds[-1]).verify() == []
    counted = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counted == {"transcripts": 1, "activations": 3, "sae": 6, "evaluation": 2}


def test_again_reuses_every_stage(finished: PipelineResult, inputs: support.Inputs) -> None:
    def stamps() -> dict[str, int]:
        return {name: (finished.path / name).stat().st_mtime_ns for name in support.artifacts(finished.path)}

    before, hashes = stamps(), support.artifacts(finished.path)
    again = run(support.recipe(inputs, controls=True), finished.path)
    assert stamps() == before
    assert support.artifacts(finished.path) == hashes
    assert again.report["saes"] == finished.report["saes"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": 1}, r"seed: 0 -> 1"),
        ({"token_set": "all"}, r'token_set: "content" -> "all"'),
        ({"limit": 40}, r"limit: null -> 40"),
    ],
)
def test_a_changed_recipe_is_refused_with_a_diff(
    finished: PipelineResult, inputs: support.Inputs, settings: dict[str, Any], says: str
) -> None:
    before = support.artifacts(finished.path)
    with pytest.raises(IntegrityError, match=says):
        run(support.recipe(inputs, controls=True, **settings), finished.path)
    assert support.artifacts(finished.path) == before


def test_turns_without_labels_are_described_without_a_test(inputs: support.Inputs, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    lines = [json.loads(line) for line in inputs.chats.read_text("utf-8").splitlines()]
    plain.write_text("\n".join(json.dumps({"messages": line["messages"]}) for line in lines), "utf-8")
    result = run(support.recipe(inputs, transcripts=(plain,), saes=support.recipe(inputs).saes[:1]), tmp_path / "run")
    sae = result.report["saes"]["turn"]
    assert sae["traits"] == []
    assert sae["top_features"]
    assert all(feature["responds_to"] is None for feature in sae["top_features"])
    assert any("too few turns carry labels" in notice for notice in result.notices)
    assert (tmp_path / "run" / "report.md").exists()


def test_conversations_made_in_memory(inputs: support.Inputs, tmp_path: Path) -> None:
    made = [
        Conversation(f"c{i}", tuple(Turn(t, "user", (Part("text", f"the {i} boat {t}"),), {}) for t in range(2)))
        for i in range(120)
    ]
    settings = support.recipe(inputs, transcripts=(), saes=support.recipe(inputs).saes[:1])
    result = run(settings, tmp_path / "run", made, {"made": "by hand"})
    assert result.report["conversations"] == 120
    assert Artifact.open(tmp_path / "run" / "transcripts", "transcripts").manifest.inputs == {"made": "by hand"}


def test_hostile_text_and_labels_reach_the_report_as_text(inputs: support.Inputs, tmp_path: Path) -> None:
    hostile = "<script>x</script> | `y` \x1b[31m \u202e [z](http://q)"
    made = [
        Conversation(f"c{i}", (Turn(0, "user", (Part("text", f"{hostile} {i}"),), {"<b>": f"|`{i % 2}\x1b"}),))
        for i in range(300)
    ]
    settings = support.recipe(inputs, transcripts=(), saes=support.recipe(inputs).saes[:1], min_positives=5)
    report = (run(settings, tmp_path / "run", made).path / "report.md").read_text("utf-8")
    assert r"\<script\>x\</script\>" in report
    assert r"\<b\>:\|\`1\\u001b" in report
    for raw in ("<script>", " | `y`", "\x1b", "\u202e", "[z](", "<b>"):
        assert raw not in report


def test_a_recipe_file_is_read_beside_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('transcripts = "chats.jsonl"\nmodel = "./tiny"\nlimit = 9\n[[saes]]\nunit = "token"\nk = 3\n')
    recipe = read_recipe(path, limit=3, device=None)
    assert recipe.transcripts == (tmp_path / "chats.jsonl",)
    assert Path(recipe.model) == tmp_path / "tiny"
    assert (recipe.limit, recipe.device) == (3, "cpu")
    assert [(sae.unit, sae.k) for sae in recipe.saes] == [("token", 3)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = ", "not valid TOML"),
        ("", "model: must be given"),
        ('model = "m"\nsuprise = 1', "suprise: no such field"),
        ('model = "m"\nlimit = 0', "limit"),
        ('model = "m"\n[[saes]]\n[[saes]]', "name each unit"),
        ('model = "m"\nsaes = []', "name each unit"),
        ('model = "m"\ntranscripts = 3', "transcripts"),
    ],
)
def test_a_bad_recipe_names_its_fault(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_recipe(path)


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")
