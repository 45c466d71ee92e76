"""Postings and statistics against planted codes, read off a dense matrix."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import index_support as support
import numpy as np
import pytest

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError
from turnscope.features.index import run
from turnscope.features.sorting import plan_groups, sort_by_feature
from turnscope.features.store import open_index


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_token_codes_are_pooled_as_asked(token_world: support.World, tmp_path: Path, pool: str) -> None:
    config = token_world.config("x").model_copy(update={"out": tmp_path / pool, "pool": pool})
    index = run(config).open()
    found = dense(index, support.F)
    for row in range(index.n_turns):
        numbers, features, values = index.turn_tokens(row)
        expected = np.zeros(support.F)
        np.add.at(expected, features, values)
        if pool == "mean":  # tokens without codes are sinks, or count with 0
            _, positions = index.token_ids(row)
            expected /= sum(1 for number in range(len(positions)) if number in numbers or positions[number] > 0)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


def dense(index: Any, n_features: int) -> Any:
    out = np.zeros((index.n_turns, n_features), np.float32)
    for feature in range(n_features):
        rows, values = index.feature_turns(feature)
        assert (np.diff(rows) > 0).all()
        out[rows, feature] = values
    return out


def test_both_directions_hold_the_planted_codes(turn_world: support.World) -> None:
    index, codes_NF = turn_world.index, turn_world.codes_NF
    assert (index.n_turns, index.n_features, index.unit) == (*codes_NF.shape, "turn")
    np.testing.assert_array_equal(dense(index, support.F), codes_NF)
    for row in range(index.n_turns):
        features, values = index.turn_features(row)
        np.testing.assert_array_equal(features, np.flatnonzero(codes_NF[row]))
        np.testing.assert_array_equal(values, codes_NF[row][features])


def test_a_block_is_a_block_of_the_matrix(turn_world: support.World) -> None:
    features, rows = [5, 15, 0, 5], [7, 2, 2, turn_world.index.n_turns - 1]
    np.testing.assert_array_equal(turn_world.index.matrix(features, rows), turn_world.codes_NF[rows][:, features])
    ptr, found, values = turn_world.index.turn_codes(rows)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(found[ptr[i] : ptr[i + 1]], np.flatnonzero(turn_world.codes_NF[row]))
        np.testing.assert_array_equal(
            values[ptr[i] : ptr[i + 1]], turn_world.codes_NF[row][turn_world.codes_NF[row] > 0]
        )
    ptr, found, _ = turn_world.index.feature_codes([3, 15])
    np.testing.assert_array_equal(found[: ptr[1]], np.flatnonzero(turn_world.codes_NF[:, 3]))
    assert ptr[2] == ptr[1]


def test_token_postings_hold_the_planted_codes(token_world: support.World) -> None:
    index = token_world.index
    np.testing.assert_array_equal(dense(index, support.F), token_world.pooled_NF)
    for feature in (0, 3, 15):
        rows, numbers, values = index.feature_tokens(feature)
        wanted = [
            (row, t, chat.tokens_TF[t, feature])
            for row, chat in enumerate(token_world.chats)
            for t in np.flatnonzero(chat.tokens_TF[:, feature])
        ]
        assert list(zip(rows, numbers, values, strict=True)) == wanted
    for row, chat in enumerate(token_world.chats):
        numbers, features, values = index.turn_tokens(row)
        np.testing.assert_array_equal(np.stack([numbers, features]), np.nonzero(chat.tokens_TF))
        np.testing.assert_array_equal(values, chat.tokens_TF[numbers, features])
        ids, positions = index.token_ids(row)
        np.testing.assert_array_equal(ids, chat.ids_T)
        np.testing.assert_array_equal(positions, np.arange(len(ids)) + 4)


def test_a_nested_dictionary_numbers_its_blocks_through(tmp_path: Path) -> None:
    from turnscope.sae.nested import NestedSAE

    nested = NestedSAE(support.identity(), support.identity(unit="token"))
    world = support.make_world(tmp_path, support.planted(20, seed=2), nested, tokens=True)
    assert world.index.unit == "token"
    np.testing.assert_array_equal(dense(world.index, 2 * support.F), np.hstack([world.codes_NF, world.pooled_NF]))
    assert len(world.index.feature_tokens(3)[0]) == 0
    assert len(world.index.feature_tokens(support.F)[0]) == sum(len(chat.ids_T) for chat in world.chats)
    assert world.index.features["block"].to_pylist() == ["turn"] * support.F + ["token"] * support.F


def test_statistics_are_those_of_a_dense_matrix(turn_world: support.World) -> None:
    table, codes_NF = turn_world.index.features.to_pandas(), turn_world.codes_NF
    for feature, row in table.iterrows():
        column = codes_NF[:, feature]
        active = column[column > 0]
        assert row["n_turns"] == len(active)
        assert row["density"] == len(active) / len(column)
        assert row["dead"] == (len(active) == 0)
        assert row["dense"] == (len(active) > len(column) / 2)
        if not len(active):
            assert row["max"] == row["q50"] == sum(row["histogram"]) == 0
            continue
        assert row["max"] == active.max()
        for name, q in (("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
            assert row[name] == pytest.approx(np.quantile(active, q), rel=1e-6)
        np.testing.assert_allclose(row["deciles"], np.quantile(active, np.linspace(0, 1, 11)), rtol=1e-6)
        assert sum(row["histogram"]) == len(active)
        upper = np.count_nonzero(active >= np.float32(active.max()) * 0.5)
        assert sum(row["histogram"][10:]) == pytest.approx(upper, abs=1)
        assert row["share"] == pytest.approx((active.astype(float) ** 2).sum() / (codes_NF.astype(float) ** 2).sum())


def test_persistence_is_counted_from_turn_to_turn(turn_world: support.World) -> None:
    at = {(chat.conversation, chat.turn): i for i, chat in enumerate(turn_world.chats)}
    table, fires = turn_world.index.features.to_pandas(), turn_world.codes_NF > 0
    for step, name in ((1, "persistence"), (2, "persistence_of_role")):
        pairs = [(i, at[c, t + step]) for (c, t), i in at.items() if (c, t + step) in at]
        for feature in (0, 2, 7):
            after = [fires[j, feature] for i, j in pairs if fires[i, feature]]
            assert table[name][feature] == pytest.approx(np.mean(after))
            assert table[f"{name}_turns"][feature] == len(after)
            assert table[f"{name}_by_chance"][feature] == pytest.approx(np.mean([fires[j, feature] for _, j in pairs]))
    assert np.isnan(table["persistence"][support.F - 1])


def test_firing_is_parted_by_role_split_and_script(turn_world: support.World) -> None:
    groups = turn_world.index.table("groups.parquet").to_pandas()
    user = np.array([chat.turn % 2 == 0 for chat in turn_world.chats])
    fires = turn_world.codes_NF[:, 4] > 0
    row = groups[(groups.feature == 4) & (groups.by == "role") & (groups.value == "user")].iloc[0]
    assert (row.n_turns, row.of) == (np.count_nonzero(fires & user), np.count_nonzero(user))
    cyrillic = np.array([int(chat.conversation[5:]) % 5 == 0 for chat in turn_world.chats])
    row = groups[(groups.feature == 4) & (groups.by == "script") & (groups.value == "CYRILLIC")].iloc[0]
    assert row.of == np.count_nonzero(cyrillic)
    assert row.n_turns == np.count_nonzero(fires & cyrillic)


def test_locked_turns_are_left_out_unless_named(turn_world: support.World) -> None:
    assert set(turn_world.index.turns["split"].to_pylist()) == {"train", "explain", "eval"}
    with_locked = run(turn_world.config("locked", splits=("locked",))).open()
    assert set(with_locked.turns["split"].to_pylist()) == {"locked"}


def test_the_order_of_the_rows_changes_no_statistic(turn_world: support.World, tmp_path: Path) -> None:
    chats = support.planted()
    order = np.random.default_rng(3).permutation(len(chats))
    shuffled = support.make_world(tmp_path, chats, order=order, block_turns=7).index
    assert shuffled.turns["activation_row"].to_pylist() != turn_world.index.turns["turn"].to_pylist()
    assert shuffled.features.equals(turn_world.index.features)
    assert shuffled.table("groups.parquet").equals(turn_world.index.table("groups.parquet"))


def test_block_and_memory_sizes_change_no_byte_of_the_postings(turn_world: support.World) -> None:
    other = run(turn_world.config("other", block_turns=1000, memory_entries=1_000_000)).artifact.manifest.files
    for name, record in turn_world.index.artifact.manifest.files.items():
        assert other[name] == record, name


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    token_world: support.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the n-th file that it is about to put in place, until it comes through."""
    config = token_world.config("x").model_copy(update={"out": tmp_path / "stopped", "memory_entries": 2000})
    replace, left = os.replace, 0

    def stopping(*args: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        replace(*args)

    monkeypatch.setattr("turnscope.artifacts.atomic.os.replace", stopping)
    stops = 0
    for after in itertools.count(1):
        left = after
        try:
            run(config)
            break
        except Killed:
            stops += 1
            with pytest.raises((IntegrityError, StorageError)):
                open_index(tmp_path / "stopped")
    assert stops >= 4
    found, whole = open_index(tmp_path / "stopped").artifact.manifest, token_world.index.artifact.manifest
    assert [name for name in whole.files if found.files.get(name) != whole.files[name]] == []
    assert found == whole


@pytest.mark.slow
def test_killed_without_a_word_it_goes_on_to_the_same_bytes(token_world: support.World, tmp_path: Path) -> None:
    script = """
import os, sys
from turnscope.artifacts import atomic
from turnscope.features.config import IndexConfig
from turnscope.features.index import run
left, replace = int(sys.argv[2]), os.replace
def dying(*args):
    global left
    left -= 1
    if left < 0: os._exit(9)
    replace(*args)
atomic.os.replace = dying
run(IndexConfig.model_validate_json(sys.argv[1]))
"""
    config = token_world.config("x").model_copy(update={"out": tmp_path / "killed"})
    codes = [
        subprocess.run([sys.executable, "-c", script, config.model_dump_json(), str(after)], check=False).returncode
        for after in (3, 12, 10_000)
    ]
    assert codes == [9, 9, 0]
    assert open_index(tmp_path / "killed").artifact.manifest == token_world.index.artifact.manifest


def test_a_finished_index_is_not_made_again_and_other_settings_are_refused(turn_world: support.World) -> None:
    again = run(turn_world.config("index"))
    assert again.artifact.fingerprint == turn_world.index.artifact.fingerprint
    with pytest.raises(IntegrityError, match="bins: 20 -> 5"):
        run(turn_world.config("index", bins=5))


def test_sinks_get_no_codes(tmp_path: Path) -> None:
    chats = support.planted(20, seed=4)
    chats[3].tokens_TF[0, 5] = 1e4
    everything = ("train", "explain", "eval", "locked")
    world = support.make_world(tmp_path, chats, support.identity(unit="token"), tokens=True, splits=everything)
    assert world.index.artifact.manifest.counts["tokens.sinks"] == 1
    assert world.index.features["max"].to_numpy().max() < 100
    assert 0 not in world.index.turn_tokens(3)[0]
    assert len(world.index.token_ids(3)[0]) == len(chats[3].ids_T)  # the token is still in the table


def test_what_does_not_fit_is_refused(turn_world: support.World, token_world: support.World, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="other transcripts"):
        run(turn_world.config("a").model_copy(update={"transcripts": token_world.transcripts}))
    with pytest.raises(DataError, match="turn means only"):
        run(turn_world.config("b").model_copy(update={"sae": token_world.sae}))
    narrow = support.save_sae(tmp_path / "narrow", support.identity(8))
    with pytest.raises(ConfigError, match="width 8"):
        run(turn_world.config("c").model_copy(update={"sae": narrow}))
    with pytest.raises(ConfigError, match="no feature 16"):
        turn_world.index.feature_turns(16)
    with pytest.raises(ConfigError, match="no token features"):
        turn_world.index.feature_tokens(1)


def test_a_cut_file_is_told_from_a_whole_one(token_world: support.World, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(token_world.index.artifact.path, tmp_path / "cut")
    path = tmp_path / "cut" / "by_turn.values.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=r"by_turn\.values\.npy"):
        open_index(tmp_path / "cut").turn_features(0)


def test_transcripts_are_found_beside_and_others_are_refused(
    turn_world: support.World, token_world: support.World
) -> None:
    found = open_index(turn_world.index.artifact.path)
    assert found.transcripts is not None
    assert found.transcripts.get("chat-0").turns[0].text == turn_world.chats[0].text
    with pytest.raises(IntegrityError, match="other transcripts"):
        open_index(turn_world.index.artifact.path, token_world.transcripts)


def test_explanations_are_kept_beside_the_artifact(turn_world: support.World, tmp_path: Path) -> None:
    import shutil

    import pyarrow as pa

    shutil.copytree(turn_world.index.artifact.path, tmp_path / "copy")
    index = open_index(tmp_path / "copy")
    assert index.explanations().num_rows == 0
    index.set_explanations(pa.table({"feature": [3], "text": ["tea"], "source": ["me"]}))
    assert open_index(tmp_path / "copy").explanations()["text"].to_pylist() == ["tea"]
    with pytest.raises(ConfigError, match="none of the 16"):
        index.set_explanations(pa.table({"feature": [16], "text": ["tea"], "source": ["me"]}))


def test_reading_never_imports_torch(turn_world: support.World) -> None:
    code = """
import sys
from turnscope.features.store import open_index
index = open_index(sys.argv[1])
index.feature_turns(0), index.turn_features(0), index.matrix([1], [2]), index.features, index.turns
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(index_path(turn_world))], check=True)


def index_path(world: support.World) -> Path:
    return world.index.artifact.path


def test_the_command_indexes(turn_world: support.World, capsys: pytest.CaptureFixture[str]) -> None:
    from turnscope.cli.index import index

    index(
        turn_world.activations, sae=turn_world.sae, transcripts=turn_world.transcripts,
        out=turn_world.folder / "features" / "command", json=True,
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out)["counts"]["turns"] == turn_world.index.n_turns


@pytest.mark.parametrize("most", [1, 7, 40, 10_000])
def test_the_sort_is_a_stable_sort_by_feature(tmp_path: Path, most: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 30, 5000) ** 2 // 30
    values = rng.random(5000).astype(np.float32)
    chunks = [(np.arange(i, i + 500), features[i : i + 500], values[i : i + 500]) for i in range(0, 5000, 500)]
    counts = np.bincount(features, minlength=40)
    groups = list(sort_by_feature(chunks, counts, tmp_path / "spill", most))
    order = np.lexsort((np.arange(5000), features))
    np.testing.assert_array_equal(np.concatenate([group.places_E for group in groups]), order)
    np.testing.assert_array_equal(np.concatenate([group.values_E for group in groups]), values[order])
    assert [group.first for group in groups] + [40] == [0] + [group.last for group in groups]
    assert not (tmp_path / "spill").exists()


def test_groups_hold_no_more_than_asked_or_one_feature() -> None:
    counts = np.array([5, 5, 5, 100, 1, 1, 0, 0, 9])
    firsts = plan_groups(counts, 10)
    sums = np.add.reduceat(counts, firsts[:-1])
    assert all(total <= 10 or last == first + 1 for first, last, total in zip(firsts, firsts[1:], sums, strict=False))
    assert (firsts[0], firsts[-1]) == (0, len(counts))
