"""`turnscope audit` from files to page, with a random model and dictionaries of other libraries."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cli_support
import pipeline_support
import pytest
import torch

from turnscope.artifacts import ConfigError, DataError, IntegrityError
from turnscope.features.store import open_index
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.formats.registry import export


def token_sae(out: Path, kind: str, *, features: int = 32) -> Path:
    """A random dictionary of tokens in another library's form, without a word of ours in it."""
    torch.manual_seed(1)
    architecture = "topk" if kind == "sparsify" else "relu"
    sae = SparseAutoencoder(
        SAEConfig(d_model=16, n_features=features, k=4, architecture=architecture, unit="token", site="resid.1")
    )
    sae.w_dec_FD.data = torch.nn.functional.normalize(torch.randn(features, 16), dim=1)
    sae.w_enc_DF.data = sae.w_dec_FD.data.T.clone()
    export(sae, kind, out)  # type: ignore[arg-type]
    file = out / ("cfg.json")
    told = json.loads(file.read_text())
    told.get("metadata", told).pop("turnscope", None)
    file.write_text(json.dumps(told))
    return out


@pytest.fixture(scope="module")
def chats(inputs: pipeline_support.Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(usual, new): the first three quarters of the grammar's chats, and the rest."""
    folder = tmp_path_factory.mktemp("chats")
    lines = inputs.chats.read_text("utf-8").splitlines()
    usual, new = folder / "usual.jsonl", folder / "new.jsonl"
    usual.write_text("\n".join(lines[:60]) + "\n", "utf-8")
    new.write_text("\n".join(lines[60:]) + "\n", "utf-8")
    return usual, new


def bytes_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def done(
    inputs: pipeline_support.Inputs, chats: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[object]]:
    """The run folder of a finished audit under a dictionary of SAELens, and the arguments that made it."""
    from turnscope.cli.main import main

    folder = tmp_path_factory.mktemp("audit")
    usual, new = chats
    sae = token_sae(folder / "foreign", "saelens")
    arguments: list[object] = ["audit", new, "--sae", sae, "--model", inputs.model, "--baseline", usual, "--out",
                               folder / "run", "--n-boot", 100]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert not stop.value.code
    return folder / "run", arguments


def test_any_token_dictionary_works_at_once(done: tuple[Path, list[object]]) -> None:
    run, _ = done
    page = (run / "reports" / "audit" / "audit.html").read_text("utf-8")
    report = json.loads((run / "reports" / "audit" / "audit.json").read_text())
    assert report["made_with"]["unit"] == "token"
    assert report["made_with"]["pool"] == "max"
    assert "taken on trust" in page  # a foreign dictionary does not name its model by fingerprint
    assert report["file"]["conversations"] == 20
    assert report["baseline"]["conversations"] > 40


def test_the_same_command_finds_the_report(turnscope: cli_support.Command, done: tuple[Path, list[object]]) -> None:
    run, arguments = done
    before = bytes_of(run / "reports" / "audit")
    assert turnscope(*arguments).code == 0
    assert bytes_of(run / "reports" / "audit") == before
    shutil.rmtree(run / "reports")  # as if it had been stopped before the last stage, or the one before
    shutil.rmtree(run / "features")
    ran = turnscope(*arguments)
    assert ran.code == 0
    assert bytes_of(run / "reports" / "audit") == before
    assert ran.out.splitlines()[-1].endswith("audit.html")


def test_search_contrast_and_monitors_work_on_the_index(
    turnscope: cli_support.Command, done: tuple[Path, list[object]], tmp_path: Path
) -> None:
    run, arguments = done
    (index,) = (run / "features").iterdir()
    row = int(open_index(index).features["n_turns"].to_numpy().argmax())
    assert "turns" in turnscope("query", index, f"F{row} > p50", "--count").out
    sides = ["--a", "role = user", "--b", "role = assistant", "--divide", "halves"]
    ran = turnscope("contrast", index, *sides, "--format", "json")
    assert ran.code == 0
    monitor = tmp_path / "watch.toml"
    ran = turnscope("monitor", "new", index, "--rule", f"F{row} > 1e6", "--out", monitor)
    assert ran.code == 0, ran.err
    ran = turnscope(*arguments, "--monitors", monitor, "--name", "watched")
    assert ran.code == 0, ran.err
    report = json.loads((run / "reports" / "watched" / "audit.json").read_text())
    (told,) = report["monitors"]
    assert (told["alerts"], told["bound"]) == (0, None)  # silent, and nobody measured what it misses
    assert "silence says nothing" in " ".join(report["verdict"])


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_other_poolings_and_a_site_that_is_named(
    turnscope: cli_support.Command, inputs: pipeline_support.Inputs, chats: tuple[Path, Path], tmp_path: Path, pool: str
) -> None:
    """A sparsify dictionary does not say where it reads."""
    usual, new = chats
    arguments = ["audit", new, "--sae", token_sae(tmp_path / "s", "sparsify"), "--model", inputs.model, "--baseline",
                 usual, "--out", tmp_path / "run", "--pool", pool, "--n-boot", 100]  # fmt: skip
    ran = turnscope(*arguments)
    if ran.code:  # the folder's name tells no site
        assert "--site" in ran.err
        ran = turnscope(*arguments, "--site", "resid.1")
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "run" / "reports" / "audit" / "audit.json").read_text())
    assert report["made_with"]["pool"] == pool
    assert any("was named by the caller" in note for note in report["notices"])


def test_bad_files_are_told_before_a_model_is_loaded(
    turnscope: cli_support.Command, done: tuple[Path, list[object]], chats: tuple[Path, Path], tmp_path: Path
) -> None:
    run, _ = done
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    (index,) = (run / "baseline" / "features").iterdir()
    own = ["--baseline", index, "--sae", run / "saes" / "foreign"]
    ran = turnscope("audit", empty, *own, "--model", "nowhere", "--out", tmp_path / "x")
    assert ran.code == DataError.exit_code
    assert "empty.jsonl" in ran.err
    ran = turnscope("audit", "--out", tmp_path / "x")
    assert "no chats named" in ran.err
    ran = turnscope("audit", chats[1], "--out", tmp_path / "x")
    assert "turnscope index" in ran.err
    ran = turnscope("audit", chats[1], "--baseline", chats[0], "--out", tmp_path / "x")
    assert "--sae" in ran.err


def test_another_dictionary_or_pooling_than_the_baselines_is_refused(
    turnscope: cli_support.Command, inputs: pipeline_support.Inputs, done: tuple[Path, list[object]],
    chats: tuple[Path, Path], tmp_path: Path,
) -> None:  # fmt: skip
    run, _ = done
    (index,) = (run / "baseline" / "features").iterdir()
    base = ["audit", chats[1], "--baseline", index, "--model", inputs.model, "--out", tmp_path / "x"]
    ran = turnscope(*base, "--sae", token_sae(tmp_path / "other", "saelens", features=48))
    assert ran.code == IntegrityError.exit_code
    assert "this is" in ran.err
    ran = turnscope(*base, "--sae", run / "saes" / "foreign", "--pool", "sum")
    assert ran.code == IntegrityError.exit_code
    assert "pool max, not sum" in ran.err
    ran = turnscope(*base, "--sae", run / "saes" / "foreign", "--site", "resid.2")
    assert ran.code == ConfigError.exit_code
    assert "resid.2" in ran.err


def test_one_conversation(
    turnscope: cli_support.Command, inputs: pipeline_support.Inputs, done: tuple[Path, list[object]],
    chats: tuple[Path, Path], tmp_path: Path,
) -> None:  # fmt: skip
    run, _ = done
    (index,) = (run / "baseline" / "features").iterdir()
    one = tmp_path / "one.jsonl"
    one.write_text(chats[1].read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    own = ["--baseline", index, "--sae", run / "saes" / "foreign", "--model", inputs.model]
    ran = turnscope("audit", one, *own, "--out", tmp_path / "x")
    assert ran.code == 0, ran.err
    assert "withheld" in ran.out
    assert "The one conversation" in ran.out
