"""What simpler readers find where something is planted, and that they find nothing in noise."""

from __future__ import annotations

import random
from typing import Any

import harvest_support
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from turnscope.evaluation.baselines import BestToken, bag_of_words_scores, probe_scores, token_counts

N = 500


class Words:
    """A tokenizer of the digits 0 to 9."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def __len__(self) -> int:
        return 10


def texts(labels: list[bool], word: str | None, *, says: bool = True) -> list[str]:
    """Random digits 0 to 6, with `word` in those whose label is `says`."""
    rng = random.Random(len(labels))
    return [" ".join(rng.choices("0123456", k=6) + ([word] if word and label == says else [])) for label in labels]


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).random(N) < 0.4


def test_token_counts_by_hand() -> None:
    counts = token_counts(Words(), ["1 1 3", "", "9"])
    assert counts.shape == (3, 10)
    assert counts.toarray().nonzero()[1].tolist() == [1, 3, 9]
    assert counts[0, 1] == 2
    assert token_counts(Words(), []).shape == (0, 10)


def test_token_counts_of_a_real_tokenizer_leave_special_tokens_out() -> None:
    counts = token_counts(harvest_support.make_tokenizer(), ["abc", "a"])
    assert counts.sum(1).ravel().tolist() == [[3.0, 1.0]]


@pytest.mark.parametrize("says", [True, False], ids=["for", "against"])
def test_a_planted_word_is_found(labels: np.ndarray, says: bool) -> None:
    fit, score = labels[: N // 2], labels[N // 2 :]
    fit_NV, score_NV = (token_counts(Words(), texts(part.tolist(), "8", says=says)) for part in (fit, score))
    assert roc_auc_score(score, bag_of_words_scores(fit_NV, fit, score_NV)) == 1.0
    scores, token = BestToken(fit_NV, score_NV).scores(fit)
    assert token == 8
    assert roc_auc_score(score, scores) == 1.0
    assert set(scores.tolist()) == ({0.0, 1.0} if says else {0.0, -1.0})


def test_a_planted_direction_is_found(labels: np.ndarray) -> None:
    x_ND = np.random.default_rng(2).normal(size=(N, 20)).astype(np.float32)
    x_ND[:, 4] += 3.0 * labels
    scores = probe_scores(x_ND[: N // 2], labels[: N // 2], x_ND[N // 2 :])
    assert roc_auc_score(labels[N // 2 :], scores) > 0.95


def test_noise_gives_chance(labels: np.ndarray) -> None:
    fit, score = labels[: N // 2], labels[N // 2 :]
    x_ND = np.random.default_rng(3).normal(size=(N, 20)).astype(np.float32)
    counts_NV = token_counts(Words(), texts(labels.tolist(), None))
    fit_NV, score_NV = counts_NV[: N // 2], counts_NV[N // 2 :]
    for scores in (
        probe_scores(x_ND[: N // 2], fit, x_ND[N // 2 :]),
        bag_of_words_scores(fit_NV, fit, score_NV),
        BestToken(fit_NV, score_NV).scores(fit)[0],
    ):
        assert 0.4 < roc_auc_score(score, scores) < 0.6
