"""`diff` over stores whose codes are known: planted changes are found where they are, and what cannot be compared is
refused.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
import index_support as support

from turnscope.artifacts import ConfigError, DataError, IntegrityError, write_json
from turnscope.audit import pairs
from turnscope.audit.config import DiffConfig
from turnscope.audit.difference import DiffResult, run
from turnscope.harvest.store import open_activations
from turnscope.sae import SparseAutoencoder
from turnscope.transcripts.store import open_transcripts

PLANTED, WORD = 5, "fig"


def changed(chats: list[support.Chat], seed: int = 9) -> list[support.Chat]:
    """The second model: all a little otherwise, and feature 5 up wherever the word stands."""
    rng = np.random.default_rng(seed)
    out = list[support.Chat]()
    for chat in chats:
        codes = chat.codes_F * rng.normal(1.0, 0.02, chat.codes_F.shape).astype(np.float32)
        if WORD in chat.text.split():
            codes[PLANTED] += 3.0
        out.append(support.Chat(chat.conversation, chat.turn, chat.text, codes, chat.tokens_TF, chat.ids_T, {}))
    return out


@pytest.fixture(scope="module")
def chats() -> list[support.Chat]:
    return support.planted(conversations=80)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, chats: list[support.Chat]) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    transcripts = support.make_transcripts(folder / "transcripts", chats)
    support.make_activations(folder / "a", transcripts, chats)
    support.make_activations(folder / "b", transcripts, changed(chats))
    support.save_sae(folder / "sae", support.identity())
    return folder


def config(world: Path, out: Path, **settings: Any) -> DiffConfig:
    given = {
        "before": world / "a", "after": world / "b", "sae": world / "sae", "transcripts": world / "transcripts",
        "out": out, "n_boot": 200,
    }  # fmt: skip
    return DiffConfig(**(given | settings))


@pytest.fixture(scope="module")
def found(world: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffResult:
    return run(config(world, tmp_path_factory.mktemp("out") / "diff"))


def test_copies_of_a_conversation_are_one(chats: list[support.Chat], tmp_path: Path) -> None:
    copies = [replace(chat, conversation=f"{chat.conversation}-again") for chat in chats]
    both = [*chats, *copies]
    transcripts = support.make_transcripts(tmp_path / "transcripts", both)
    support.make_activations(tmp_path / "a", transcripts, both)
    support.make_activations(tmp_path / "b", transcripts, [*changed(chats), *changed(copies)])
    support.save_sae(tmp_path / "sae", support.identity())
    every = ("train", "explain", "eval", "locked")
    counts = run(config(tmp_path, tmp_path / "diff", splits=every, block_turns=5)).facts["counts"]
    assert (counts["turns"], counts["conversations"]) == (len(both), 80)


def test_the_planted_change_is_first_and_alone(found: DiffResult, chats: list[support.Chat]) -> None:
    table = found.features.to_pylist()
    assert table[0]["feature"] == PLANTED
    assert [row["feature"] for row in table if row["claimed"]] == [PLANTED]
    row = table[0]
    assert row["net_low"] < row["net"] < row["net_high"]
    assert row["low"] < row["change"] < row["high"]
    share = np.mean([WORD in chat.text.split() for chat in chats])
    assert row["came_on"] == pytest.approx(share, abs=0.05)  # one split is left out
    assert found.facts["counts"]["features.claimed"] == 1


def test_it_is_shown_on_the_turns_where_it_is(found: DiffResult) -> None:
    shown = [row for row in found.turns.to_pylist() if row["feature"] == PLANTED]
    assert len(shown) == 10
    assert all(WORD in row["text"].split() for row in shown)
    assert all(row["after"] - row["before"] == pytest.approx(3.0, abs=0.5) for row in shown)


def test_each_mean_is_that_of_the_codes(found: DiffResult, world: Path, chats: list[support.Chat]) -> None:
    splits = {c.id: c.split for c in open_transcripts(world / "transcripts")}
    kept = [i for i, chat in enumerate(chats) if splits[chat.conversation] != "locked"]
    assert found.facts["counts"]["turns.kept"] == len(kept)
    before, after = (np.stack([side[i].codes_F for i in kept]).mean(axis=0) for side in (chats, changed(chats)))
    for row in found.features.to_pylist():
        assert row["mean_before"] == pytest.approx(before[row["feature"]], rel=1e-5)
        assert row["change"] == pytest.approx((after - before)[row["feature"]], rel=1e-4, abs=1e-6)


def test_the_same_store_twice_gives_no_change(world: Path, tmp_path: Path) -> None:
    same = run(config(world, tmp_path / "out", after=world / "a", margin=0))
    assert set(np.nan_to_num(same.features["change"].to_numpy())) == {0.0}
    assert not any(same.features["claimed"].to_pylist())
    assert same.facts["notes"] == ["both were harvested from the same model"]
    assert same.facts["variance_explained"]["before"] == pytest.approx(1.0)


def test_turns_that_are_explained_worse_are_left_out(
    world: Path, chats: list[support.Chat], tmp_path: Path
) -> None:  # fmt: skip
    """What the dictionary has no feature for: it reads no negative numbers."""
    worse = list(changed(chats))
    spoilt = [i for i, chat in enumerate(chats) if chat.turn == 1][::2]
    for i in spoilt:
        codes = worse[i].codes_F.copy()
        codes[7] = -40.0
        worse[i] = support.Chat(worse[i].conversation, 1, worse[i].text, codes, worse[i].tokens_TF, worse[i].ids_T, {})
    other = support.make_activations(tmp_path / "b", world / "transcripts", worse)
    result = run(config(world, tmp_path / "out", after=other, splits=("train", "explain", "eval", "locked")))
    counts = result.facts["counts"]
    assert counts["turns.withheld"] == len(spoilt)
    assert counts["turns.kept"] == len(chats) - len(spoilt)
    listed = {(row["conversation_id"], row["turn"]) for row in result.withheld.to_pylist()}
    assert listed == {(chats[i].conversation, 1) for i in spoilt}
    assert result.facts["variance_explained"]["after"] < 0.7 < result.facts["variance_explained"]["before"]


def test_a_stopped_comparison_goes_on_to_the_same_bytes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config(world, tmp_path / "whole", block_turns=40))
    real, calls = pairs.Reading._read, {"n": 0}

    def stop(self: Any, *args: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(pairs.Reading, "_read", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config(world, tmp_path / "parts", block_turns=40))
    assert not (tmp_path / "parts" / "manifest.json").exists()
    parts = run(config(world, tmp_path / "parts", block_turns=40))
    assert parts.artifact.manifest == whole.artifact.manifest
    assert not (tmp_path / "parts" / ".work").exists()


def test_the_size_of_blocks_changes_no_figure(world: Path, found: DiffResult, tmp_path: Path) -> None:
    small = run(config(world, tmp_path / "out", block_turns=7))
    for name in ("feature", "effect", "q", "came_on"):
        np.testing.assert_allclose(
            small.features[name].to_numpy().astype(float), found.features[name].to_numpy().astype(float), rtol=1e-6
        )


def test_activations_of_other_transcripts_are_refused(world: Path, tmp_path: Path) -> None:
    others = support.planted(conversations=20, seed=4)
    transcripts = support.make_transcripts(tmp_path / "transcripts", others)
    other = support.make_activations(tmp_path / "b", transcripts, others)
    with pytest.raises(IntegrityError) as told:
        run(config(world, tmp_path / "out", after=other))
    for folder in (world / "transcripts", transcripts):
        assert open_transcripts(folder).fingerprint in str(told.value)
    with pytest.raises(IntegrityError, match="other transcripts"):
        run(config(world, tmp_path / "out", transcripts=transcripts))
    assert not (tmp_path / "out").exists()


def test_other_policies_are_refused_with_both_fingerprints(
    world: Path, chats: list[support.Chat], tmp_path: Path
) -> None:
    other = support.make_activations(tmp_path / "b", world / "transcripts", chats)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["config"]["span_policy"] = "as_of_turn"
    write_json(other / "manifest.json", manifest)
    with pytest.raises(IntegrityError, match="span_policy full_render and as_of_turn") as told:
        run(config(world, tmp_path / "out", after=other))
    for folder in (world / "a", other):
        assert open_activations(folder).fingerprint in str(told.value)


def test_other_widths_and_tokens_are_refused(world: Path, chats: list[support.Chat], tmp_path: Path) -> None:
    wide = support.planted(conversations=80, width=20)
    support.make_activations(tmp_path / "b", world / "transcripts", wide)
    with pytest.raises(ConfigError, match="width 16 and 20"):
        run(config(world, tmp_path / "out", after=tmp_path / "b"))
    support.save_sae(tmp_path / "wide", support.identity(width=20))
    with pytest.raises(ConfigError, match="dictionary of width 20"):
        run(config(world, tmp_path / "out", sae=tmp_path / "wide"))
    support.save_sae(tmp_path / "tokens", support.identity(unit="token"))
    with pytest.raises(ConfigError, match="dictionary of tokens"):
        run(config(world, tmp_path / "out", sae=tmp_path / "tokens"))


def test_nothing_in_common_and_nothing_explained(world: Path, chats: list[support.Chat], tmp_path: Path) -> None:
    one = [chat for chat in chats if chat.conversation == "chat-0"]
    rest = [chat for chat in chats if chat.conversation != "chat-0"]
    first = support.make_activations(tmp_path / "first", world / "transcripts", one)
    second = support.make_activations(tmp_path / "second", world / "transcripts", rest)
    with pytest.raises(DataError, match="no turns of the splits"):
        run(config(world, tmp_path / "out", before=first, after=second, splits=("train", "explain", "eval", "locked")))
    dead: SparseAutoencoder = support.identity()
    dead.threshold_F.fill_(1e9)
    dead.b_dec_D.data.fill_(100.0)
    support.save_sae(tmp_path / "dead", dead)
    with pytest.raises(DataError, match="explained well enough"):
        run(config(world, tmp_path / "none", sae=tmp_path / "dead"))


def test_turns_that_only_one_model_read_are_counted(
    world: Path, chats: list[support.Chat], tmp_path: Path
) -> None:  # fmt: skip
    some = [chat for chat in changed(chats) if chat.conversation != "chat-0"]
    fewer = support.make_activations(tmp_path / "b", world / "transcripts", some)
    result = run(config(world, tmp_path / "out", after=fewer, splits=("train", "explain", "eval", "locked")))
    counts = result.facts["counts"]
    assert counts["turns.only_in_first"] == len(chats) - len(some)
    assert counts["turns.only_in_second"] == 0
    assert counts["turns"] == len(some)


def test_torch_is_imported_only_when_it_reads() -> None:
    code = "import sys, turnscope.audit.difference; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_command_prints_a_table_or_all_rows(
    world: Path, found: DiffResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from turnscope.cli.main import main

    given = [str(world / "a"), str(world / "b"), "--sae", str(world / "sae"), "--transcripts",
             str(world / "transcripts"), "--n-boot", "200", "--out", str(tmp_path / "out")]  # fmt: skip

    def told() -> tuple[str, str]:
        with contextlib.suppress(SystemExit):
            main(["diff", *given])
        return capsys.readouterr()

    out, err = told()
    assert f"F{PLANTED}*" in out
    assert "1 of 15 tested features" in err  # the last one is never active
    given += ["--format", "jsonl"]
    rows = [json.loads(line) for line in told()[0].splitlines()]
    assert [row["feature"] for row in rows] == found.features["feature"].to_pylist()
    assert rows[-1]["withheld"] == "active on no turn in either reading"
    assert rows[-1]["q"] is None
