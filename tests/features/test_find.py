"""Find by example: against figures counted by hand on planted codes."""

from __future__ import annotations

import subprocess
import sys

import index_support as support
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from turnscope.artifacts import ConfigError
from turnscope.features.find import Codes, codes_of, find_active, find_shared, joined, picked, row_of_turn, strongest


def dense(codes: Codes) -> np.ndarray:
    out = np.zeros((len(codes), support.F))
    for i in range(len(codes)):
        part = slice(codes.ptr[i], codes.ptr[i + 1])
        out[i, codes.features_E[part]] = codes.values_E[part]
    return out


def test_groups_take_their_largest_value(turn_world: support.World) -> None:
    codes = codes_of(turn_world.index, np.arange(12))
    group = np.array([5, 1, 5, 1, 9, 9, 9, 1, 5, 5, 1, 9])
    whole, found = dense(codes), dense(strongest(codes, group))
    assert np.array_equal(found, [whole[group == g].max(0) for g in (1, 5, 9)])
    parts = joined([picked(codes, [7, 2]), picked(codes, [0])])
    assert np.array_equal(dense(parts), whole[[7, 2, 0]])


@pytest.mark.parametrize("by", ["surprise", "value", "rarity"])
def test_active_features_against_dense_codes(turn_world: support.World, by: str) -> None:
    index = turn_world.index
    every = dense(codes_of(index, np.arange(index.n_turns)))
    rows = [3, 40, 41]
    table = find_active(index, rows, by=by, limit=None).to_pylist()  # type: ignore[arg-type]
    assert {row["feature"] for row in table} == set(np.flatnonzero(every[rows].max(0) > 0).tolist())
    for row in table:
        mine = every[:, row["feature"]]
        value = mine[rows].max()
        assert row["value"] == value
        assert row["example"] == int(mine[rows].argmax())
        assert row["rarity"] == (mine >= value).mean()
        assert row["percentile"] == pytest.approx((mine[mine > 0] <= value).mean())
        share = ((mine > 0).sum() + 1) / (len(mine) + 1)
        assert row["surprise"] == pytest.approx(value * -np.log2(share), rel=1e-5)
    key = [row[by] for row in table]
    assert key == sorted(key, reverse=by != "rarity")


def test_a_feature_that_always_fires_is_no_surprise(turn_world: support.World) -> None:
    last = find_active(turn_world.index, [0], limit=None).to_pylist()[-1]
    assert (last["feature"], last["surprise"]) == (0, 0)


def test_the_filter_against_dense_codes(turn_world: support.World) -> None:
    index = turn_world.index
    every = dense(codes_of(index, np.arange(index.n_turns)))
    feature = 4
    ups = np.flatnonzero(every[:, feature] > 0)[:12]
    downs = np.flatnonzero(every[:, feature] == 0)[:15]
    table = find_shared(index, ups, downs, least=0.4, most=0.3, limit=None).to_pylist()
    share_up, share_down = (every[ups] > 0).mean(0), (every[downs] > 0).mean(0)
    assert table[0]["feature"] == feature
    assert {row["feature"] for row in table} == set(np.flatnonzero((share_up >= 0.4) & (share_down <= 0.3)).tolist())
    for row in table:
        high, low = every[ups, row["feature"]], every[downs, row["feature"]]
        assert row["auroc"] == pytest.approx(mannwhitneyu(high, low).statistic / (len(ups) * len(downs)))
        assert (row["share_positive"], row["share_negative"]) == ((high > 0).mean(), (low > 0).mean())
    alone = find_shared(index, ups, least=1.0, limit=None).to_pylist()
    assert {row["feature"] for row in alone} == set(np.flatnonzero((every[ups] > 0).all(0)).tolist())
    assert all(row["auroc"] is None for row in alone)


def test_mistakes(turn_world: support.World) -> None:
    index = turn_world.index
    with pytest.raises(ConfigError, match="no positive examples"):
        find_shared(index, [])
    with pytest.raises(ConfigError, match="share"):
        find_shared(index, [0], least=80)
    with pytest.raises(ConfigError, match="there are"):
        find_active(index, [index.n_turns])
    alien = Codes(np.array([0, 1]), np.array([support.F]), np.ones(1, np.float32))
    with pytest.raises(ConfigError, match="another dictionary"):
        find_active(index, alien)


def test_turns_by_name(turn_world: support.World) -> None:
    index = turn_world.index
    row = 17
    at = index.turns.slice(row, 1).to_pylist()[0]
    assert row_of_turn(index, at["conversation_id"], at["turn"]) == row
    with pytest.raises(ConfigError) as told:
        row_of_turn(index, at["conversation_id"] + "x", 0)
    assert at["conversation_id"] in told.value.fix
    with pytest.raises(ConfigError, match="turn 99"):
        row_of_turn(index, at["conversation_id"], 99)


def test_finding_among_indexed_turns_needs_no_torch() -> None:
    rooms = "features.find, turnscope.features.labelling, turnscope.features.meaning, turnscope.models.sentences"
    code = f"import sys, turnscope.{rooms}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
