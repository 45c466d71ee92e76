"""The stages one by one, then at once, with output that a program can read."""

from __future__ import annotations

import json
from pathlib import Path

import cli_support
import pipeline_support
import pytest

import turnscope as package


def test_the_stages_one_by_one(turnscope: cli_support.Command, inputs: pipeline_support.Inputs, tmp_path: Path) -> None:
    transcripts, activations, sae = tmp_path / "transcripts", tmp_path / "acts", tmp_path / "sae"
    ran = turnscope("import", inputs.chats, "--out", transcripts, "--json")
    told = json.loads(ran.out)
    assert told["counts"]["conversations"] == pipeline_support.CHATS
    assert "messages" in str(told["formats"])

    sites = ("--site", "embed", "resid.1")
    ran = turnscope("harvest", transcripts, "--model", inputs.model, *sites, "--out", activations, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)["artifacts"]
    assert [Path(row["path"]).name for row in told] == ["embed", "resid.1"]
    assert all(row["counts"]["turns.kept"] > 100 for row in told)

    size = ("--features", "32", "--k", "4", "--epochs", "2")
    ran = turnscope("train", activations / "resid.1", "--out", sae, *size, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["final"] is True

    given = (
        "--transcripts", transcripts, "--activations", activations / "resid.1", "--sae", sae, "--model", inputs.model,
        "--out", tmp_path / "eval", "--min-positives", "8",
    )  # fmt: skip
    ran = turnscope("evaluate", *given, "--json")
    assert ran.code == 0, ran.err
    assert any("auroc" in row for row in json.loads(ran.out)["traits"])
    assert "AUROC" in turnscope("evaluate", *given).out

    ran = turnscope("verify", tmp_path, "--json")
    assert json.loads(ran.out) == {"artifacts": 5, "bad": []}
    assert turnscope("verify", tmp_path).out == "5 artifacts read, 0 bad files\n"


def test_a_nested_dictionary(turnscope: cli_support.Command, inputs: pipeline_support.Inputs, tmp_path: Path) -> None:
    transcripts, activations, sae = tmp_path / "transcripts", tmp_path / "acts" / "resid.1", tmp_path / "sae"
    assert turnscope("import", inputs.chats, "--out", transcripts).code == 0
    harvest = ("harvest", transcripts, "--model", inputs.model, "--site", "resid.1", "--out", tmp_path / "acts")
    size = ("--unit", "nested", "--features", "32", "--k", "4", "--turn-k", "3", "--turn-share", ".25", "--epochs", "2")
    weights = ("--turn-weight", ".3", "--detach-turn")
    assert turnscope(*harvest).code == 0
    refused = turnscope("train", activations, *size, "--out", tmp_path / "none")
    assert refused.code
    assert "harvest with --tokens all" in refused.err

    assert turnscope(*harvest[:-1], tmp_path / "tokens", "--tokens", "6").code == 0
    activations = tmp_path / "tokens" / "resid.1"
    ran = turnscope("train", activations, *size, *weights, "--out", sae, "--json")
    assert ran.code == 0, ran.err
    assert {"held_nmse_raw", "held_token_nmse_raw"} < set(json.loads(ran.out))
    trained = json.loads((sae / "manifest.json").read_text())["config"]
    assert (trained["turn_k"], trained["turn_weight"], trained["detach_turn"]) == (3, 0.3, True)

    given = (
        "evaluate", "--transcripts", transcripts, "--activations", activations, "--model", inputs.model,
        "--min-positives", "8", "--json",
    )  # fmt: skip
    for block, features in (("turn", 8), ("token", 24)):
        ran = turnscope(*given, "--sae", sae, "--block", block, "--out", tmp_path / block)
        assert ran.code == 0, ran.err
        told = json.loads(ran.out)
        assert (told["unit"], told["features"]) == (block, features)
        assert any("auroc" in row for row in told["traits"])
    default = json.loads(turnscope(*given, "--sae", sae, "--out", tmp_path / "default").out)
    assert default["unit"] == "turn"


def test_a_whole_run(turnscope: cli_support.Command, inputs: pipeline_support.Inputs, tmp_path: Path) -> None:
    given = (
        "run", "--model", inputs.model, "--transcripts", inputs.chats, "--out", tmp_path / "run", "--features", "32",
        "--k", "4", "--too-long", "truncate-left", "--limit", "60",
    )  # fmt: skip
    ran = turnscope(*given)
    assert ran.code == 0, ran.err
    assert "The turn SAE of tiny at resid.2" in ran.out
    assert str(tmp_path / "run" / "report.md") in ran.err
    told = json.loads(turnscope(*given, "--json").out)
    assert told["conversations"] == 60
    assert told == json.loads((tmp_path / "run" / "report.json").read_text())
    assert told["saes"]["turn"]["features"] == 32
    # sixty conversations are too few to judge most traits on
    assert any("25 needed" in row.get("withheld", "") for row in told["saes"]["turn"]["traits"])


def test_recipe_and_flags(
    turnscope: cli_support.Command, inputs: pipeline_support.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'model = "{inputs.model}"\ntranscripts = "{inputs.chats}"\ntoo_long = "truncate-left"\nlimit = 70\n'
        "min_positives = 5\n[[saes]]\nn_features = 32\nk = 4\nn_samples = 1000\n"
    )
    told = json.loads(turnscope("run", recipe, "--limit", "80", "--json").out)
    assert told["conversations"] == 80
    assert any("auroc" in row for row in told["saes"]["turn"]["traits"])
    assert (tmp_path / "runs" / "mine" / "report.json").exists()


def test_demo_corpus_is_ready_to_import(turnscope: cli_support.Command, tmp_path: Path) -> None:
    assert turnscope("demo", "corpus", tmp_path / "c.jsonl", "--conversations", "5").code == 0
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 5
    assert turnscope("import", tmp_path / "c.jsonl", "--out", tmp_path / "t").code == 0


def test_version(turnscope: cli_support.Command) -> None:
    assert turnscope("--version").out.strip() == package.__version__
