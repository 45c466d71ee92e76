"""Neighbours, co-firing and duplicates against dense products and planted pairs."""

from __future__ import annotations

import itertools
from pathlib import Path

import index_support as support
import numpy as np
import pytest

from turnscope.features.relations import neighbours


def test_neighbours_are_those_of_the_whole_cosine_matrix() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(1300, 12)).astype(np.float32)  # more than two blocks
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    w[7] = 0
    cosine = w @ w.T
    np.fill_diagonal(cosine, -2)
    cosine[:, 7] = -2
    table, pairs = neighbours(w, 5, 0.9)
    got = table.to_pandas()
    assert not (got.feature == 7).any()
    assert not (got.other == 7).any()
    for feature in (0, 511, 512, 1299):
        mine = got[got.feature == feature]
        np.testing.assert_array_equal(mine.other, np.argsort(-cosine[feature], kind="stable")[:5])
        np.testing.assert_allclose(mine.cosine, np.sort(cosine[feature])[::-1][:5], rtol=1e-5)
        assert mine["rank"].tolist() == [0, 1, 2, 3, 4]
    wanted = {(i, j) for i, j in np.argwhere(np.triu(cosine, 1) >= 0.9).tolist() if 7 not in (i, j)}
    assert {(pair.low, pair.high) for pair in pairs} == wanted
    assert wanted


def test_partners_on_a_turn_are_counted_exactly(turn_world: support.World) -> None:
    fires = turn_world.codes_NF > 0
    table = turn_world.index.table("cofiring.parquet").to_pandas()
    n = len(fires)
    for row in table[table.kind == "same"].itertuples():
        a, b = fires[:, row.feature], fires[:, row.other]
        assert row.turns == np.count_nonzero(a & b)
        assert row.jaccard == pytest.approx(np.count_nonzero(a & b) / np.count_nonzero(a | b))
        if np.isnan(row.pmi):
            assert row.turns < 5
        else:
            assert row.pmi == pytest.approx(np.log2(row.turns * n / a.sum() / b.sum()), abs=1e-5)
    mine = table[(table.kind == "same") & (table.feature == 3) & table.rank_jaccard.notna()].sort_values("rank_jaccard")
    jaccards = [
        np.count_nonzero(fires[:, 3] & fires[:, j]) / np.count_nonzero(fires[:, 3] | fires[:, j]) for j in range(16)
    ]
    jaccards[3] = 0
    np.testing.assert_array_equal(mine.other, np.argsort(-np.array(jaccards), kind="stable")[: len(mine)])


def test_partners_on_the_next_turn_are_found(tmp_path: Path) -> None:
    """Feature 9 fires on the turn after feature 8, and only there."""
    chats = support.planted(80, seed=5)
    for chat, after in itertools.pairwise(chats):
        follows = after.conversation == chat.conversation
        after.codes_F[9] = 1.5 if follows and chat.codes_F[8] > 0 else 0
    for chat in chats:
        if chat.turn == 0:
            chat.codes_F[9] = 0
    index = support.make_world(tmp_path, chats).index
    table = index.table("cofiring.parquet").to_pandas()
    following = table[(table.kind == "next") & (table.feature == 8)]
    best = following[following.rank_pmi == 0].iloc[0]
    assert best.other == 9
    assert best.jaccard == 1
    back = table[(table.kind == "next") & (table.feature == 9) & (table.other == 8) & (table.rank_pmi == 0)]
    assert back.empty
    assert index.facts["cofiring_turns"] == index.n_turns


def test_a_copy_is_a_duplicate_and_a_look_alike_is_not(tmp_path: Path) -> None:
    """4 repeats 2 in direction and firing; 6 has the direction of 5 and fires elsewhere; 10 fires with 9 only."""
    decoder = np.linalg.qr(np.random.default_rng(0).normal(size=(support.F, support.F)))[0]
    decoder[4], decoder[6] = decoder[2], decoder[5]
    chats = support.planted(40, seed=6)
    for chat in chats:
        chat.codes_F[4] = chat.codes_F[2] * 2
        chat.codes_F[10] = chat.codes_F[9]
        chat.codes_F[6] = 0 if chat.codes_F[5] else 1
    features = support.make_world(tmp_path, chats, support.identity(decoder_FD=decoder)).index.features
    assert features["duplicate_of"].to_pylist() == [2 if f == 4 else None for f in range(support.F)]
