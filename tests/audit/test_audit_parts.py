"""The figures of an audit against other ways of finding them: brute force, scipy, planted truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import audit_support as support
import numpy as np
import pytest
from scipy.stats import binomtest

from turnscope.audit.reports.bounds import highest_prevalence, highest_share
from turnscope.audit.reports.described import conversation_numbers
from turnscope.audit.reports.surprise import surprise, turn_bits
from turnscope.audit.reports.together import Together, drawn
from turnscope.audit.reports.unusual import chosen_interval, differing
from turnscope.audit.separation import clusters_of, separate
from turnscope.stats import Estimate


def chats(rng: np.random.Generator, conversations: int, features: int = 12) -> tuple[Any, Any]:
    """Codes and conversation numbers; a conversation has a habit of its own, so its turns are alike."""
    turns = rng.integers(3, 9, conversations)
    of = np.repeat(np.arange(conversations), turns)
    habit = rng.beta(1, 4, (conversations, features))[of]
    codes = rng.gamma(2, 1, habit.shape) * (rng.random(habit.shape) < habit)
    return codes.astype(np.float32), of


def two(tmp_path: Path, seed: int, n_file: int = 30, n_baseline: int = 120, change: Any = None, **columns: Any):
    rng = np.random.default_rng(seed)
    codes, of = chats(rng, n_file)
    usual, usual_of = chats(rng, n_baseline)
    if change is not None:
        codes = change(codes, of)
    file = support.write_index(tmp_path / "file", codes, of)
    group = usual_of + 10_000  # no conversation of the one is in the other
    return file, support.write_index(tmp_path / "usual", usual, usual_of, group=group, **columns)


def numbers(both: Together) -> tuple[Any, Any]:
    return clusters_of(both, np.arange(both.n_turns)), conversation_numbers(both)


def test_two_indexes_together_are_what_one_index_of_both_is(tmp_path: Path) -> None:
    file, usual = two(tmp_path, 0)
    rows = np.arange(usual.n_turns)
    both = Together(file, usual, rows)
    codes = np.concatenate([file.matrix(range(12), range(file.n_turns)), usual.matrix(range(12), rows)])
    of = np.concatenate([file.turns["group"].to_numpy(), usual.turns["group"].to_numpy()])
    one = support.write_index(tmp_path / "one", codes, of)
    a, b = np.arange(file.n_turns), np.arange(file.n_turns, both.n_turns)
    mine, wanted = separate(both, a, b), separate(one, a, b)
    for name in ("auroc_F", "share_a_F", "share_b_F", "effect_F", "p_F", "q_F"):
        np.testing.assert_allclose(getattr(mine, name), getattr(wanted, name), atol=1e-12)
    np.testing.assert_array_equal(both.values(3), codes[:, 3])


def test_bits_are_those_counted_one_by_one(tmp_path: Path) -> None:
    file, usual = two(tmp_path, 1, 4, 9)
    both = Together(file, usual, np.arange(usual.n_turns))
    cluster_N, _ = numbers(both)
    codes = both.codes_NF.toarray()
    found = turn_bits(both, cluster_N)
    for row in range(both.n_turns):
        others = [
            r for r in range(both.n_file, both.n_turns)
            if both.roles[r] == both.roles[row] and (row < both.n_file or cluster_N[r] != cluster_N[row])
        ]  # fmt: skip
        bits = [
            -np.log2((1 + sum(codes[r, f] >= codes[row, f] for r in others)) / (1 + len(others)))
            for f in np.flatnonzero(codes[row])
        ]
        assert found[row] == pytest.approx(np.mean(bits) if bits else 0.0)


def test_p_of_usual_conversations_is_uniform(tmp_path: Path) -> None:
    """Conformal: no more than the share u of conversations like the baseline's has p of u or less, in the mean."""
    p: list[float] = []
    for seed in range(8):
        file, usual = two(tmp_path / str(seed), seed, 40, 100)
        both = Together(file, usual, np.arange(usual.n_turns))
        p += surprise(both, *numbers(both)).p_C.tolist()
    for share in (0.05, 0.2, 0.5, 0.8):
        # 320 draws; those of one seed share a baseline
        assert abs(np.mean(np.array(p) <= share) - share) < 4.5 * np.sqrt(share * (1 - share) / len(p))


def test_a_conversation_of_another_kind_is_found(tmp_path: Path) -> None:
    def other(codes: Any, of: Any) -> Any:
        codes[of == 7] = 0
        codes[np.ix_(of == 7, [2, 5])] = 60  # never so strong
        return codes

    file, usual = two(tmp_path, 3, 30, 1200, other)
    both = Together(file, usual, np.arange(usual.n_turns))
    found = surprise(both, *numbers(both))
    planted_N = np.asarray(file.turns["conversation_id"].to_pylist()) == "chat-7"
    (planted,) = np.unique(found.conversation_N[planted_N])
    assert int(np.argmin(found.p_C)) == planted
    assert found.q_C[planted] <= 0.05
    assert (np.delete(found.q_C, planted) > 0.05).all()
    assert (found.place_N[planted_N] >= 0.99).all()


def test_too_small_a_baseline_withholds_what_is_unusual(tmp_path: Path) -> None:
    file, usual = two(tmp_path, 4, 30, 19)
    both = Together(file, usual, np.arange(usual.n_turns))
    found = surprise(both, *numbers(both))
    assert "19 conversations" in found.withheld
    assert np.isnan(found.p_C).all()


def test_a_frequent_feature_is_first_and_usual_files_claim_nothing(tmp_path: Path) -> None:
    def more(codes: Any, of: Any) -> Any:
        codes[:, 4] = np.where(np.arange(len(codes)) % 3 > 0, 3.0, 0.0)
        return codes

    claims = 0
    for seed in range(12):
        file, usual = two(tmp_path / f"a{seed}", 100 + seed, 20, 60)
        both = Together(file, usual, np.arange(usual.n_turns))
        found = separate(both, np.arange(both.n_file), np.arange(both.n_file, both.n_turns))
        claims += len(found.discoveries()) > 0
    assert claims <= 3  # fewer than 1 expected; more than 3 has a chance of .002

    file, usual = two(tmp_path / "b", 5, change=more)
    both = Together(file, usual, np.arange(usual.n_turns))
    found = separate(both, np.arange(both.n_file), np.arange(both.n_file, both.n_turns))
    told = differing(both, found, numbers(both)[0], fdr=0.05, shown=3, n_boot=200, seed=0)
    first = told["features"][0]
    assert (first["feature"], first["more_in"]) == (4, "file")
    assert first["ci"][0] < first["auroc"] < first["ci"][1]
    assert first["share_file"] == pytest.approx(first["file_turns"] / both.n_file)


def test_features_on_the_same_turns_are_told_once(tmp_path: Path) -> None:
    def twins(codes: Any, of: Any) -> Any:
        fires = np.arange(len(codes)) % 3 > 0
        codes[:, 4], codes[:, 9] = np.where(fires, 3.0, 0.0), np.where(fires, 2.5, 0.0)
        return codes

    file, usual = two(tmp_path, 6, change=twins)
    both = Together(file, usual, np.arange(usual.n_turns))
    found = separate(both, np.arange(both.n_file), np.arange(both.n_file, both.n_turns))
    told = differing(both, found, numbers(both)[0], fdr=0.05, shown=5, n_boot=100, seed=0)
    leads = {row["feature"]: row["same_turns"] for row in told["features"]}
    assert (leads.get(4) == [9]) or (leads.get(9) == [4])
    assert told["differ"] >= 2


def test_intervals_of_chosen_figures_are_wider() -> None:
    one = Estimate(0.8, 0.7, 0.87, 50, 50, 50)
    low, high = chosen_interval(one, 0.999)
    assert low < 0.7
    assert 0.87 < high < 1


def test_whole_conversations_are_drawn(tmp_path: Path) -> None:
    _, usual = two(tmp_path, 7)
    rows = drawn(usual, np.arange(usual.n_turns), 100, seed=3)
    assert 80 < len(rows) <= 100
    ids = np.asarray(usual.turns["conversation_id"].to_pylist())
    assert set(ids[rows]).isdisjoint(np.delete(ids, rows))
    np.testing.assert_array_equal(rows, drawn(usual, np.arange(usual.n_turns), 100, seed=3))


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 37), (3, 40), (40, 40)])
def test_highest_share_is_scipys(hits: int, n: int) -> None:
    exact = binomtest(hits, n).proportion_ci(0.95, method="exact").high
    assert highest_share(hits, n) == pytest.approx(exact)


def test_the_bound_holds_in_19_of_20_audits() -> None:
    """Recall measured on 40 positives, then conversations watched: the bound covers the prevalence, whatever it is."""
    rng = np.random.default_rng(0)
    lows = [binomtest(k, 40).proportion_ci(0.95, method="exact").low for k in range(41)]
    for prevalence, recall in ((0.02, 0.8), (0.1, 0.5), (0.3, 0.3)):
        held = 0
        for _ in range(400):
            low = lows[rng.binomial(40, recall)]
            alerted = int(rng.binomial(60, prevalence * recall))
            held += highest_prevalence(alerted, 60, low) >= prevalence
        assert held / 400 >= 0.95


def test_no_recall_is_no_bound() -> None:
    assert highest_prevalence(0, 1000, 0.0) == 1.0
    assert highest_prevalence(0, 0, 0.9) == 1.0
