"""Chats through a small random model: what a monitor sees of them is what the index of the same chats holds."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

import pipeline_support

from turnscope.artifacts import ConfigError, Draft, IntegrityError, StorageError, begin
from turnscope.audit.config import MonitorRunConfig
from turnscope.audit.monitors import fit
from turnscope.audit.monitors.conversations import STDIN, conversations, files_of
from turnscope.audit.monitors.run import run
from turnscope.cli._monitor_view import print_alert
from turnscope.features.config import IndexConfig
from turnscope.features.index import run as run_index
from turnscope.features.store import FeatureIndex
from turnscope.harvest import HarvestConfig
from turnscope.harvest.harvest import run as harvest
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.import_ import run as import_

SPLITS = ("train", "explain", "eval", "locked")


class World(NamedTuple):
    """A run folder with everything, and a monitor over it."""

    inputs: pipeline_support.Inputs
    sae: Path
    index: FeatureIndex
    monitor: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("live")
    inputs = pipeline_support.make_inputs(folder / "inputs")
    import_(ImportConfig(sources=(inputs.chats,), out=folder / "transcripts"))
    activations = folder / "activations"
    harvest(
        HarvestConfig(
            transcripts=folder / "transcripts", model=str(inputs.model), sites=("resid.1",), out=activations,
            too_long="truncate-left",
        )
    )  # fmt: skip
    torch.manual_seed(1)
    sae = SparseAutoencoder(SAEConfig(d_model=16, n_features=24, k=4, architecture="topk", site="resid.1"))
    sae.w_enc_DF.data = torch.randn(16, 24)
    draft = begin(folder / "saes" / "turn", "sae", sae.config, {})
    assert isinstance(draft, Draft)
    sae.save(draft.path)
    draft.commit({"samples": 0})
    index = run_index(
        IndexConfig(
            activations=activations / "resid.1", sae=folder / "saes" / "turn", transcripts=folder / "transcripts",
            out=folder / "features" / "turn", splits=SPLITS,
        )
    ).open()  # fmt: skip
    rare = min(range(24), key=lambda f: abs(len(index.feature_turns(f)[0]) - 40))
    fit.new(index.artifact.path, f"F{rare} > p50 & turn > 1", folder / "m.toml", roles=("assistant", "user"))
    return World(inputs, folder / "saes" / "turn", index, folder / "m.toml")


def live(world: World, *files: Path, **changes: object) -> MonitorRunConfig:
    settings = {"monitor": world.monitor, "files": files, "sae": world.sae, "model": str(world.inputs.model), **changes}
    return MonitorRunConfig(**settings)  # type: ignore[arg-type]


def test_chats_give_the_alerts_that_their_index_gives(world: World, tmp_path: Path):
    of_index: list[dict[str, object]] = []
    run(MonitorRunConfig(monitor=world.monitor, index=world.index.artifact.path, splits=SPLITS), of_index.append)
    of_chats = run(live(world, world.inputs.chats, out=tmp_path / "run", block_turns=64))
    wanted = {(each["conversation_id"], each["turn"]): each for each in of_index}
    found = {(each["conversation_id"], each["turn"]): each for each in of_chats.alerts()}
    assert len(wanted) > 5
    assert found.keys() == wanted.keys()
    for key, alert in found.items():
        assert alert["score"] == pytest.approx(wanted[key]["score"], rel=1e-3)
        assert alert["text"] == wanted[key]["text"]
        assert alert["before"] == wanted[key]["before"]
    assert of_chats.counts["turns_scored"] == world.index.n_turns


def test_blocks_of_any_size_give_the_same_alerts_and_a_stopped_run_goes_on(world: World, tmp_path: Path):
    small = run(live(world, world.inputs.chats, out=tmp_path / "small", block_turns=7))
    large = run(live(world, world.inputs.chats, out=tmp_path / "large", block_turns=10_000))
    places = [[(each["conversation_id"], each["turn"]) for each in ran.alerts()] for ran in (small, large)]
    assert places[0] == places[1]

    def stop(alert: object) -> None:
        raise KeyboardInterrupt

    settings = live(world, world.inputs.chats, out=tmp_path / "stopped", block_turns=7)
    with pytest.raises(KeyboardInterrupt):
        run(settings, stop)
    run(settings)
    for name in ("alerts.jsonl", "manifest.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()


def test_another_model_and_settings_that_do_not_fit_are_refused(world: World, tmp_path: Path):
    other = pipeline_support.make_inputs(tmp_path / "other")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(other.model)
    model.model.embed_tokens.weight.data *= 2
    model.save_pretrained(other.model)
    with pytest.raises(IntegrityError, match="another model"):
        run(live(world, world.inputs.chats, model=str(other.model)))
    with pytest.raises(StorageError, match="no such file"):
        run(live(world, tmp_path / "missing.jsonl"))
    with pytest.raises(ConfigError, match="give sae and model"):
        MonitorRunConfig(monitor=world.monitor, files=(world.inputs.chats,))
    with pytest.raises(ConfigError, match="not both"):
        live(world, world.inputs.chats, index=world.index.artifact.path)
    with pytest.raises(ConfigError, match="by itself"):
        files_of([STDIN, world.inputs.chats])


def test_standard_input_is_read_line_by_line_and_bad_lines_are_counted(world: World):
    lines = world.inputs.chats.read_bytes().splitlines(keepends=True)[:3]

    class Stream(io.BytesIO):
        served = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            self.served += 1
            return super().readline(-1 if size is None else size)

    stream, counts = Stream(b"".join([lines[0], b"{nonsense\n", b"\n", *lines[1:]])), Counter[str]()
    chats = conversations([STDIN], counts, stdin=stream)
    assert next(chats).id == json.loads(lines[0])["id"]
    assert stream.served == 1  # the first is there before the second is asked for
    assert len(list(chats)) == 2
    assert counts["bad_lines"] == 1


def test_two_chats_of_one_id_are_not_read_as_one(world: World, tmp_path: Path):
    line = world.inputs.chats.read_text("utf-8").splitlines()[0]
    (tmp_path / "twice.jsonl").write_text(f"{line}\n{line}\n", "utf-8")
    ran = run(live(world, tmp_path / "twice.jsonl"))
    once = len(json.loads(line)["messages"])
    assert ran.counts["conversations"] == 2
    assert ran.counts["turns_scored"] <= 2 * once
    assert ran.counts["turns_scored"] % 2 == 0


def test_hostile_words_reach_neither_a_terminal_nor_a_line_of_their_own(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    evil = "\x1b]0;owned\x07\x1b[2J\u202e line\nnext \x9b31m"
    hostile = tmp_path / "hostile.jsonl"
    chats = [json.loads(line) for line in world.inputs.chats.read_text("utf-8").splitlines()]
    for number, chat in enumerate(chats):
        chat["id"] = f"chat\x1b[31m{number}"
        for message in chat["messages"]:
            message["content"] += " " + evil
    hostile.write_text("".join(json.dumps(chat) + "\n" for chat in chats), "utf-8")
    rule = "|".join(f"F{f}" for f in range(24))
    fit.new(world.index.artifact.path, f"({rule}) & turn > 0", tmp_path / "all.toml", roles=("assistant",))
    ran = run(live(world, hostile, monitor=tmp_path / "all.toml", out=tmp_path / "run"))
    written = (tmp_path / "run" / "alerts.jsonl").read_bytes()
    assert len(written.splitlines()) == ran.counts["alerts"] > 20
    assert not any(byte < 32 and byte != 10 for byte in written)
    assert written.isascii()
    alert = next(ran.alerts())
    assert evil in alert["text"]
    print_alert(alert)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b" in shown
