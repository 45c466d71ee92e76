"""Words and tokens that are planted in features are found, judged on other turns, and beat their shuffled controls."""

from __future__ import annotations

from pathlib import Path

import index_support as support
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from turnscope.features.statistics import mutual_information


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory):
    """Feature 2 is the word tea, 3 the pair "tea boat", 4 follows a turn with figs, 5 is nothing."""
    chats = support.planted(300, seed=9)
    before = None
    for chat in chats:
        words = chat.text.split()
        chat.codes_F[2] = 2.0 if "tea" in words else 0
        chat.codes_F[3] = 3.0 if "tea boat" in chat.text else 0
        follows = before is not None and before.conversation == chat.conversation
        chat.codes_F[4] = 1.0 if follows and "fig" in before.text.split() else 0
        before = chat
    return support.make_world(tmp_path_factory.mktemp("words"), chats).index


def best(index, feature: int, kind: str) -> dict:
    rows = [row for row in index.words(feature).to_pylist() if row["kind"] == kind]
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("feature", "kind", "word"), [(2, "word", "tea"), (3, "pair", "tea boat"), (4, "word_before", "fig")]
)
def test_a_planted_word_is_found(index, feature: int, kind: str, word: str) -> None:
    row = best(index, feature, kind)
    assert row["word"] == word
    assert row["f1"] == row["precision"] == row["recall"] == 1
    assert row["f1_shuffled"] < 0.7


def test_a_feature_of_no_word_does_no_better_than_words_of_other_turns(index) -> None:
    gains = [best(index, f, "word")["f1"] - best(index, f, "word")["f1_shuffled"] for f in range(5, 15)]
    assert abs(np.mean(gains)) < 0.05


def test_a_dead_feature_has_no_words(index) -> None:
    assert index.words(support.F - 1).num_rows == 0


def test_planted_tokens_are_found(tmp_path: Path) -> None:
    """Feature 2 is token 7, 3 the pair (8, 9), 4 fires after token 11, 5 on nothing in particular."""
    chats = support.planted(200, seed=10)
    rng = np.random.default_rng(0)
    long = []
    for chat in chats:
        ids = rng.integers(0, 15, 30).astype(np.int32)
        tokens = support.sparse(rng, 30, 0.2)
        after = np.concatenate([[-1], ids[:-1]])
        tokens[:, 2] = ids == 7
        tokens[:, 3] = (ids == 9) & (after == 8)
        tokens[:, 4] = after == 11
        long.append(support.Chat(**{**vars(chat), "ids_T": ids, "tokens_TF": tokens}))
    index = support.make_world(tmp_path, long, support.identity(unit="token"), tokens=True).index
    for feature, kind, word in ((2, "token", "7"), (3, "token_pair", "8 9"), (4, "token_before", "11")):
        row = best(index, feature, kind)
        assert row["word"] == word
        assert row["f1"] == 1
        assert row["f1_shuffled"] < 0.3
    row = best(index, 5, "token")
    assert abs(row["f1"] - row["f1_shuffled"]) < 0.1


def test_information_is_that_of_scikit_learn_less_its_bias() -> None:
    rng = np.random.default_rng(0)
    category = rng.integers(0, 6, 4000)
    fires = rng.random((4000, 3)) < np.stack([category / 8, np.full(4000, 0.3), category == 2], axis=1)
    counts = np.stack([np.bincount(category[fires[:, g]], minlength=6) for g in range(3)])
    got = mutual_information(counts, np.bincount(category))
    bias = 5 / (2 * 4000 * np.log(2))
    for g in range(3):
        wanted = mutual_info_score(category, fires[:, g]) / np.log(2)
        assert got[g] == pytest.approx(max(0, wanted - bias), abs=1e-9)
    assert got[1] < 0.002 < 0.1 < got[0]


def test_a_feature_of_the_first_turn_tells_the_place(tmp_path: Path) -> None:
    chats = support.planted(100, seed=11)
    for chat in chats:
        chat.codes_F[2] = 1.0 if chat.turn == 0 else 0
    bits = support.make_world(tmp_path, chats).index.features["position_information"].to_numpy()
    share = np.mean([chat.turn == 0 for chat in chats])
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert bits[2] == pytest.approx(entropy, abs=0.1)
    assert bits[3:].max() < 0.05
