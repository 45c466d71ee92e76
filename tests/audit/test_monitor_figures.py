from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from turnscope.artifacts import ConfigError
from turnscope.audit.monitors.contenders import Contender, best_other
from turnscope.audit.monitors.drift import bin_edges, binned, psi
from turnscope.audit.monitors.figures import (
    conformal_threshold,
    effective_number,
    figure_from_plain,
    figure_to_plain,
    judge,
    needed,
    precision_at,
    rate,
    wilson,
)
from turnscope.stats import Estimate, Withheld


def test_wilson_is_scipys():
    for hits, n in ((0, 40), (3, 40), (40, 40), (17, 1000)):
        reference = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits / n, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(("fpr", "n"), [(0.05, 100), (0.05, 400), (0.01, 99), (0.2, 31)])
def test_a_new_negative_exceeds_the_threshold_as_often_as_was_asked_and_not_oftener(fpr: float, n: int):
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(3000, n + 1))
    thresholds = np.array([conformal_threshold(row[:-1], fpr) for row in draws])
    above = (draws[:, -1] > thresholds).mean()
    slack = 3 * np.sqrt(fpr / 3000)
    assert above < fpr + slack
    assert above > fpr - 1 / (n + 1) - slack  # and nothing is given away


def test_equal_negatives_raise_no_alert():
    assert conformal_threshold([0.0] * 500, 0.01) == 0.0
    assert conformal_threshold([0.0] * 497 + [1.0, 2.0, 3.0], 0.01) == 0.0


def test_too_few_negatives_are_said_with_the_rate_that_they_allow():
    withheld = conformal_threshold(np.arange(40), 0.01)
    assert isinstance(withheld, Withheld)
    assert "0.01 cannot be set with 40 negatives" in withheld.reason
    assert "0.024" in withheld.reason
    assert "99" in withheld.reason
    assert needed(0.01) == 99
    assert needed(0.05) == 19
    assert not isinstance(conformal_threshold(np.arange(needed(0.01)), 0.01), Withheld)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        conformal_threshold([1.0], 1.0)


def test_turns_that_repeat_each_other_count_once():
    rng = np.random.default_rng(1)
    each = rng.random(200) < 0.3
    repeated, clusters = np.repeat(each, 10), np.repeat(np.arange(200), 10)
    assert effective_number(repeated, clusters) == pytest.approx(200, rel=0.02)
    independent = rng.random(2000) < 0.3
    assert effective_number(independent, clusters) == pytest.approx(2000, rel=0.25)
    assert effective_number(np.ones(50, bool), np.repeat(np.arange(10), 5)) == 10


def test_intervals_hold_the_truth_where_turns_hang_together():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        chance = np.repeat(rng.beta(1, 4, 60), 8)  # a share of its own for each conversation, 0.2 on average
        found = rate(rng.random(480) < chance, np.repeat(np.arange(60), 8))
        assert isinstance(found, Estimate)
        held += found.low <= 0.2 <= found.high
    assert held / 400 > 0.92


def test_rates_are_withheld_below_five():
    assert isinstance(rate([True] * 4, range(4)), Withheld)
    assert "conversations" in str(rate([True] * 20, [0, 1, 2, 3] * 5))


def test_precision_at_another_prevalence_is_bayes_rule():
    recall = Estimate(0.8, 0.7, 0.9, 80, 20, 50)
    fpr = Estimate(0.01, 0.005, 0.02, 10, 990, 500)
    found = precision_at(recall, fpr, 0.001)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(0.001 * 0.8 / (0.001 * 0.8 + 0.999 * 0.01))
    assert found.low < found.value < found.high
    assert isinstance(precision_at(Withheld("few"), fpr, 0.01), Withheld)


def test_judge_counts_what_a_hand_would():
    labels = np.arange(200) < 100
    scores = np.concatenate([np.repeat([3.0, 1.0], [60, 40]), np.repeat([3.0, 0.0], [10, 90])])
    point = judge(scores, labels, np.arange(200), 2.0, 0.2, n_boot=100)
    assert isinstance(point.recall, Estimate)
    assert isinstance(point.precision, Estimate)
    assert isinstance(point.fpr, Estimate)
    assert isinstance(point.recall_here, Estimate)
    assert (point.recall.value, point.precision.value, point.fpr.value) == pytest.approx((0.6, 60 / 70, 0.1))
    assert point.recall_here.value == 1.0  # at one in five, all that is above 0
    gate = judge(np.where(labels, np.inf, 0.0), labels, np.arange(200), 1.0, 0.2, n_boot=100)
    assert isinstance(gate.auroc, Estimate)
    assert gate.auroc.value == 1.0
    without = judge(scores, labels, np.arange(200), None, 0.2, n_boot=100)
    assert isinstance(without.recall, Withheld)
    assert isinstance(without.auroc, Estimate)


def test_figures_survive_a_file():
    for figure in (Estimate(0.5, 0.25, 0.75, 3, 4, 5), Withheld("because")):
        assert figure_from_plain(figure_to_plain(figure)) == figure


def test_a_reference_of_one_value_tells_others_from_it() -> None:
    points = np.full(201, 1.5)
    edges = bin_edges(points)
    usual = binned(points, edges) / len(points)
    assert psi(binned(np.full(50, 1.5), edges) / 50, usual) == 0
    for moved in (1.4, 1.6):
        assert psi(binned(np.full(50, moved), edges) / 50, usual) > 1


class Turns:
    """What a comparison reads of labelled turns."""

    labels = np.arange(40) % 2 == 0
    clusters = np.arange(40) // 2

    def __len__(self) -> int:
        return len(self.labels)


def test_the_best_contender_is_chosen_on_the_turns_of_the_fit() -> None:
    perfect, blind = Turns.labels.astype(float), np.zeros(40)
    mine = Contender("this monitor", lambda _: blind, 0.0)
    honest = Contender("honest", lambda _: blind, 0.0, held_auroc=0.8)
    lucky = Contender("lucky", lambda _: perfect, 0.0, held_auroc=0.7)
    never_fitted = Contender("never fitted", lambda _: perfect, 0.0)
    turns: Any = Turns()
    found = best_other(mine, [honest, lucky, never_fitted], turns, 0)
    assert found is not None
    assert found.name == "honest"
    assert best_other(mine, [never_fitted], turns, 0) is None
