"""Figures of a persona run against planted codes, closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import rankdata, ttest_1samp

from turnscope.audit import persona_figures as figures
from turnscope.audit.persona_figures import Part

F = 40
PLANTED, FALLS, SILENT = 7, 3, 39


def planted(questions: range, seed: int, *, pairs: int = 3) -> Part:
    """Random codes; one feature rises with the trait, one falls, one follows the question and not the trait."""
    rng = np.random.default_rng(seed)
    rows = [(q, side) for q in questions for _ in range(pairs) for side in (True, False)]
    positive = np.array([side for _, side in rows])
    asked = np.array([q for q, _ in rows])
    codes = rng.gamma(2.0, 1.0, (len(rows), F)) * (rng.random((len(rows), F)) < 0.3)
    codes[:, PLANTED] = np.where(
        positive, 2 + rng.random(len(rows)), rng.random(len(rows)) * (rng.random(len(rows)) < 0.2)
    )
    codes[:, FALLS] = np.where(positive, 0, 1 + rng.random(len(rows)))
    codes[:, 11] = asked
    codes[:, SILENT] = 0
    return Part(sparse.csr_array(codes), positive, asked)


def test_the_planted_feature_is_first_and_holds() -> None:
    ranking, judge = planted(range(10), 0), planted(range(10, 20), 1)
    found = figures.rank(ranking)
    assert found.best(1).tolist() == [PLANTED]
    assert FALLS not in found.best(F)
    assert found.auroc_F[FALLS] == 0
    assert found.q_F[PLANTED] < 1e-4
    assert found.q_F[FALLS] < 1e-4
    assert found.p_F[11] == 1  # goes with the question alone
    assert found.p_F[SILENT] == 1
    p_K, q_K = figures.held_tests(judge, found.best(3))
    assert q_K[0] < 1e-4
    assert (q_K >= p_K).all()
    told = figures.estimate(figures.column(judge, PLANTED), judge, 200, 0)
    assert told.value == 1  # type: ignore[union-attr]


def test_p_is_a_t_test_of_rank_differences_by_question() -> None:
    part = planted(range(6), 2)
    values = part.codes_NF[:, [5]].toarray()
    ranks = rankdata(values[:, 0])
    wanted = ttest_1samp(
        [
            np.mean([r for r, p, q in zip(ranks, part.positive_N, part.questions_N, strict=True) if p and q == asked])
            - np.mean(
                [r for r, p, q in zip(ranks, part.positive_N, part.questions_N, strict=True) if not p and q == asked]
            )
            for asked in range(6)
        ],
        0,
    ).pvalue
    assert figures.question_test(values, part.positive_N, part.questions_N)[0] == pytest.approx(wanted)


def test_too_few_questions_give_no_p() -> None:
    part = planted(range(3), 0)
    assert figures.question_test(part.codes_NF.toarray(), part.positive_N, part.questions_N).tolist() == [1.0] * F
    assert "questions" in part.usable


def test_one_side_alone_is_not_usable() -> None:
    part = planted(range(8), 0)
    alone = Part(part.codes_NF[part.positive_N], part.positive_N[part.positive_N], part.questions_N[part.positive_N])
    assert "without" in alone.usable


def test_effect_is_a_difference_of_means_in_pooled_deviations() -> None:
    part = planted(range(8), 3)
    values = part.codes_NF.toarray()[:, PLANTED]
    high, low = values[part.positive_N], values[~part.positive_N]
    wanted = (high.mean() - low.mean()) / np.sqrt((high.var() + low.var()) / 2)
    assert figures.rank(part).effect_F[PLANTED] == pytest.approx(wanted)


def test_swapped_sides_are_chance_even_with_a_planted_feature() -> None:
    told = figures.shuffled(planted(range(10), 0), planted(range(10, 20), 1), 20, 0)
    assert 0.35 < told["auroc"] < 0.65
    assert told["draws"] == 20
    assert told["draws_with_a_discovery"] <= 4


def test_no_discovery_without_a_trait() -> None:
    """Sides drawn at random by reply: the share of runs with any discovery keeps to the rate."""
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        asked = np.repeat(np.arange(12), 6)
        codes = rng.gamma(2.0, 1.0, (72, F)) * (rng.random((72, F)) < 0.4) * (1 + (asked % 3))[:, None]
        part = Part(sparse.csr_array(codes), np.tile([True, False], 36), asked)
        hits += bool((figures.rank(part).q_F <= 0.05).any())
    assert hits / 60 <= 0.1


def test_recall_is_read_where_one_in_twenty_of_the_judged_negatives_raises_an_alarm() -> None:
    sides = np.array([True] * 20 + [False] * 39)
    part = Part(sparse.csr_array((59, 1)), sides, np.arange(59))
    scores = np.concatenate([np.full(15, 37.5), np.zeros(5), np.arange(39.0)])
    assert figures.recall_at(scores, part) == {"recall": 0.75, "false_positive_rate": pytest.approx(1 / 39)}
    few = Part(sparse.csr_array((30, 1)), np.array([True] * 20 + [False] * 10), np.arange(30))
    found = figures.recall_at(np.zeros(30), few)
    assert found["recall"] is None
    assert "10 negatives" in found["recall_withheld"]


def test_a_reader_that_knows_its_own_turns_by_heart_has_no_recall_elsewhere() -> None:
    rng = np.random.default_rng(0)
    sides = np.tile([True, False], 60)
    judge = Part(sparse.csr_array((120, 1)), sides, np.arange(120))
    rates = [figures.recall_at(rng.normal(size=120), judge)["recall"] for _ in range(40)]
    assert np.mean(rates) < 0.1
