"""A whole contrast on planted turns: what is found, on which turns, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_support import write_index

from turnscope.artifacts import ConfigError, DataError, IntegrityError
from turnscope.audit.config import ContrastConfig
from turnscope.audit.confounds import auroc_within, rates
from turnscope.audit.contrast import contrast, run
from turnscope.features.query.errors import QueryError
from turnscope.features.store import FeatureIndex
from turnscope.stats import Estimate, Withheld, auroc

CHATS, EACH, F = 160, 6, 40


def make(folder: Path, *, seed: int = 0, chats: int = CHATS, mood: bool = True) -> FeatureIndex:
    """F3 goes with the label mood = sad, F5 with its absence, F7 with turn length alone, which goes with mood."""
    rng = np.random.default_rng(seed)
    chat_N = np.repeat(np.arange(chats), EACH)
    n = len(chat_N)
    sad_N = rng.random(n) < 0.4
    length_N = np.where(sad_N, rng.integers(20, 60, n), rng.integers(5, 45, n))
    values = (rng.random((n, F)) < 0.15) * rng.gamma(2, 1, (n, F))
    if mood:
        values[:, 3] = np.where(sad_N, rng.random(n) < 0.9, rng.random(n) < 0.03) * rng.gamma(4, 1, n)
        values[:, 5] = np.where(sad_N, rng.random(n) < 0.1, rng.random(n) < 0.8) * 2.0
        values[:, 7] = length_N / 10
    labels = [{"mood": "sad" if sad else "calm", "topic": "law"} for sad in sad_N.tolist()]
    return write_index(folder / "features" / "x", values, chat_N, labels=labels, n_tokens=length_N.astype(np.int32))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return make(tmp_path_factory.mktemp("planted"))


def config(index: FeatureIndex, a: str = "mood = sad", b: str = "", **changes: Any) -> ContrastConfig:
    return ContrastConfig(index=index.artifact.path, a=a, b=b, n_boot=100, **changes)


def test_planted_features_come_first_in_their_direction_and_are_judged_on_other_conversations(
    index: FeatureIndex,
) -> None:
    result = contrast(index, config(index))
    report = result.report
    ups = {side: [row for row in result.features if row["up_in"] == side] for side in "ab"}
    assert ups["a"][0]["feature"] == 3
    assert ups["b"][0]["feature"] == 5
    assert {3, 5} <= set(result.found)
    split = np.asarray(index.turns["split"].to_pylist())
    labels = np.array([json.loads(each)["mood"] == "sad" for each in index.turns["labels"].to_pylist()])
    judged = np.flatnonzero(split == "eval")
    wanted = auroc(index.matrix([3], judged)[:, 0], labels[judged])
    assert ups["a"][0]["auroc"] == pytest.approx(wanted)
    low, high = ups["a"][0]["ci"]
    assert low < wanted < high
    assert report["a"]["turns"]["judge"] == int(labels[judged].sum())
    assert (report["chosen_on"], report["judged_on"]) == ("split explain", "split eval")
    assert "separate A from B" in result.verdict
    assert all(row["q"] > 0.05 for row in result.features if row["feature"] not in (3, 5, 7) and row["rank"] > 3)


def test_counter_examples_speak_against_the_feature(index: FeatureIndex) -> None:
    first = contrast(index, config(index, examples=4)).features[0]
    assert len(first["against"]) == 4
    for each in first["against"]:
        assert each["labels"]["mood"] == "calm"
        assert dict(zip(*map(np.ndarray.tolist, index.turn_features(each["row"])), strict=True))[3] > 0
    values = [each["value"] for each in first["against"]]
    assert values == sorted(values, reverse=True)
    for each in first["silent"]:
        assert each["labels"]["mood"] == "sad"
        assert 3 not in index.turn_features(each["row"])[0]


def test_a_feature_of_length_is_unmasked_among_turns_of_equal_length(index: FeatureIndex) -> None:
    result = contrast(index, config(index))
    rows = {row["feature"]: row for row in result.features}
    assert rows[7]["auroc"] > 0.7
    assert "turn length" in rows[7]["confounded_by"]
    assert rows[3]["confounded_by"] == []
    confound = next(each for each in result.report["confounds"] if each["name"] == "turn length")
    assert confound["auroc"] > 0.7
    assert "turn length alone reaches" in result.verdict


def test_where_the_sets_share_no_source_the_source_may_be_all_there_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    chat_N = np.repeat(np.arange(CHATS), EACH)
    sad_N = chat_N // 2 % 2 == 0
    values = (rng.random((len(chat_N), F)) < 0.15) * rng.gamma(2, 1, (len(chat_N), F))
    values[:, 3] = np.where(sad_N, rng.random(len(chat_N)) < 0.9, rng.random(len(chat_N)) < 0.03) * 2.0
    labels = [{"mood": "sad" if sad else "calm", "source": "x" if sad else "y"} for sad in sad_N.tolist()]
    index = write_index(tmp_path / "features" / "x", values, chat_N, labels=labels)
    result = contrast(index, config(index))
    first = result.features[0]
    assert first["feature"] == 3
    assert first["separates"]
    within = {each["name"]: each for each in first["within"]}
    assert within["source"]["auroc"] is None
    assert "source" in first["confounded_by"]
    assert result.verdict.startswith("No feature separates A from B better than source does alone (1)")


def test_what_has_too_many_values_to_check_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    chat_N = np.repeat(np.arange(CHATS), EACH)
    values = (rng.random((len(chat_N), F)) < 0.2) * rng.gamma(2, 1, (len(chat_N), F))
    labels = [{"mood": ("sad", "calm")[i // 2 % 2], "topic": f"topic {i % 300}"} for i in range(len(chat_N))]
    index = write_index(tmp_path / "features" / "x", values, chat_N, labels=labels)
    report = contrast(index, config(index)).report
    assert "topic" not in [each["name"] for each in report["confounds"]]
    assert any("topic has 300 values" in notice for notice in report["notices"])


def test_what_a_query_names_is_neither_ranked_nor_a_confound(index: FeatureIndex) -> None:
    result = contrast(index, config(index, a="F3 > 0 & role = user", b="!F3 & role = user"))
    assert 3 not in [row["feature"] for row in result.features]
    assert "role" not in [each["name"] for each in result.report["confounds"]]
    assert any("F3" in notice and "left out" in notice for notice in result.report["notices"])


def test_the_rest_of_the_same_roles_is_b_when_none_is_given(index: FeatureIndex) -> None:
    result = contrast(index, config(index, a="mood = sad & role = user"))
    role = np.asarray(index.turns["role"].to_pylist())
    assert result.report["b"]["turns"]["all"] == (role == "user").sum() - result.report["a"]["turns"]["all"]


def test_turns_in_both_are_taken_out_of_both_and_counted(index: FeatureIndex) -> None:
    both = len(index.query("mood = sad & role = user").rows)
    report = contrast(index, config(index, a="mood = sad", b="role = user")).report
    assert report["in_both"] == both
    assert report["a"]["turns"]["all"] == len(index.query("mood = sad").rows) - both
    assert any(f"{both:,} turns are in both" in notice for notice in report["notices"])


@pytest.mark.parametrize(
    ("a", "b", "kind", "words"),
    [
        ("mood = sad", "mood = sad", ConfigError, "same turns"),
        ("mood = sad & role = user", "mood = sad", ConfigError, "of A are in B too"),
        ("mood = sad", "mood = sad & role = user", ConfigError, "of B are in A too"),
        ("mood = angry", "", DataError, "no turn satisfies the query for A"),
        ("mood = sad", "mood = angry", DataError, "no turn satisfies the query for B"),
        ("mod = sad", "", QueryError, "no field or label"),
        ("F99", "", QueryError, "there is no feature F99"),
        ("has(mood)", "", DataError, "nothing is left for B"),
    ],
)
def test_bad_questions_are_told(index: FeatureIndex, a: str, b: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        contrast(index, config(index, a=a, b=b))


def test_near_names_are_suggested(index: FeatureIndex) -> None:
    with pytest.raises(QueryError) as told:
        contrast(index, config(index, a="mod = sad"))
    assert 'did you mean "mood"' in str(told.value)
    with pytest.raises(ConfigError, match="moods") as told_of_confound:
        contrast(index, config(index, confounds=("moods",)))
    assert '"mood"' in str(told_of_confound.value)


def test_too_few_conversations_withhold_everything(tmp_path: Path) -> None:
    small = make(tmp_path, chats=8)
    result = contrast(small, config(small, a='conversation = "chat-1"'))
    assert "set A has only" in result.report["withheld"]
    assert result.features == []
    assert result.verdict.startswith("No figures: set A has only")


def test_where_a_split_has_too_few_conversations_are_halved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((300, 10)) < 0.5) * 1.0
    sad_N = rng.random(300) < 0.5
    values[:, 2] = sad_N
    labels = [{"mood": "sad" if sad else "calm"} for sad in sad_N.tolist()]
    chats = np.repeat(np.arange(60), 5)
    index = write_index(tmp_path / "features" / "x", values, chats, labels=labels, split=["eval"] * 300)
    result = contrast(index, config(index))
    assert result.found == [2]
    assert result.report["chosen_on"] == "one half of the conversations"
    assert any("divided at random" in notice for notice in result.report["notices"])
    with_splits = contrast(index, config(index, divide="splits"))
    assert "set A has only 0 conversations to choose on" in with_splits.report["withheld"]


def test_nothing_planted_is_told_in_plain_words(tmp_path: Path) -> None:
    index = make(tmp_path, mood=False, seed=3)
    result = contrast(index, config(index))
    assert result.found == []
    assert result.verdict.startswith("No feature separates A from B: best F")
    assert ".70 asked for" in result.verdict


def test_the_artifact_is_written_once_and_read_back(index: FeatureIndex, tmp_path: Path) -> None:
    out = tmp_path / "contrasts" / "mood"
    first = run(config(index, out=out))
    assert first.artifact is not None
    assert first.artifact.manifest.inputs == {"index": index.artifact.fingerprint}
    again = run(config(index, out=out))
    assert again.report == first.report
    assert again.table.num_rows == F
    assert {"judge_auroc", "choose_auroc", "judge_q"} <= set(again.table.column_names)
    assert run(config(index, out=tmp_path / "other")).artifact.fingerprint == first.artifact.fingerprint  # type: ignore[union-attr]
    with pytest.raises(IntegrityError):
        run(config(index, out=out, seed=1))


def test_within_strata_only_like_is_held_against_like() -> None:
    """Simpson's paradox: the score follows the stratum, and within each it is reversed."""
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1], 200)
    is_a = rng.random(400) < np.where(stratum, 0.8, 0.2)
    scores = stratum * 10 - is_a + rng.normal(size=400) / 100
    found = auroc_within(scores, is_a, stratum, np.arange(400))
    assert isinstance(found, Estimate)
    assert auroc(scores, is_a) > 0.6
    assert found.value < 0.01
    shares = [auroc(scores[stratum == s], is_a[stratum == s]) for s in (0, 1)]
    pairs = [is_a[stratum == s].sum() * (~is_a[stratum == s]).sum() for s in (0, 1)]
    assert found.value == pytest.approx(np.average(shares, weights=pairs))
    assert isinstance(auroc_within(scores, is_a, is_a.astype(np.int64), np.arange(400)), Withheld)


def test_rates_are_learnt_on_the_choosing_turns_only() -> None:
    stratum = np.array([0, 0, 0, 1, 1, 1, 0, 1, 2])
    is_a = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1], bool)
    learnt = np.arange(9) < 6
    found = rates(stratum, is_a, learnt)
    assert found[6] == found[0] > 0.8
    assert found[7] == found[3] < 0.2
    assert found[8] == 0.5  # never seen


def test_the_same_split_may_not_choose_and_judge(index: FeatureIndex) -> None:
    with pytest.raises(ConfigError, match="no split in common"):
        config(index, choose_on=("eval",), judge_on=("eval",))
