"""Rollouts: nothing is on both sides of the split, nothing is asked twice, what a judge contradicts is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnscope.artifacts import IntegrityError
from turnscope.audit import rollouts as made
from turnscope.audit.config import PersonaConfig
from turnscope.audit.rollouts import Asked, Rollout, halve, judged, keep, pieces, plan, write_rollouts
from turnscope.audit.trait import Trait
from turnscope.models.generate import Reply
from turnscope.transcripts.labeller import labels_table

TRAIT = Trait.model_validate(
    {
        "name": "shouting", "definition": "It shouts.",
        "prompts": [{"positive": f"Shout {i}.", "negative": f"Whisper {i}."} for i in range(5)],
        "questions": [f"Question {i}?" for i in range(11)],
    }
)  # fmt: skip


def config(**changes: Any) -> PersonaConfig:
    return PersonaConfig(trait=Path("x"), model="m", sae=Path("s"), out=Path("o"), **changes)


@given(st.integers(2, 50), st.floats(0.01, 0.99), st.integers(0, 99))
def test_halves_are_disjoint_and_whole(n: int, share: float, seed: int) -> None:
    halves = halve(n, share, np.random.default_rng(seed))
    assert halves.rank
    assert halves.judge
    assert sorted(halves.rank + halves.judge) == list(range(n))


@given(st.integers(0, 50), st.integers(1, 3), st.integers(1, 100), st.sampled_from([None, 8, 10]))
def test_no_prompt_and_no_question_is_on_both_sides(seed: int, n: int, batch: int, asked: int | None) -> None:
    pairs, questions = plan(TRAIT, config(seed=seed, questions=asked))
    every = [one for group in pieces(pairs, questions, n, batch) for one in group]
    assert len(set(every)) == len(every)
    for name in ("pair", "question"):
        sides = [{getattr(one, name) for one in every if one.half == half} for half in ("rank", "judge")]
        assert not sides[0] & sides[1]
    assert len({one.question for one in every}) == (asked or 11)
    # crossed: each question of a half is asked under both prompts of each of its pairs
    for half in ("rank", "judge"):
        own = [one for one in every if one.half == half]
        assert len(own) == len({o.question for o in own}) * len({o.pair for o in own}) * 2 * n


def test_groups_do_not_depend_on_what_is_done() -> None:
    halves = plan(TRAIT, config())
    assert list(pieces(*halves, 1, 8)) == list(pieces(*halves, 1, 8))


class Stub:
    """Stands for `models.generate.generate`: counts calls, dies when told."""

    def __init__(self, die_at: int = -1) -> None:
        self.calls, self.die_at = 0, die_at

    def __call__(self, _subject: Any, prompts: Any, *_: Any, **__: Any) -> list[Reply]:
        if self.calls == self.die_at:
            raise KeyboardInterrupt
        self.calls += 1
        return [Reply(f"reply to {p[0]['content']} {p[-1]['content']}", 3, True) for p in prompts]


def roll(work: Path, settings: PersonaConfig) -> list[Rollout]:
    return write_rollouts(work, TRAIT, settings, None, "", system=True)  # type: ignore[arg-type]


def test_a_killed_run_goes_on_after_the_last_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first, second = Stub(), Stub(die_at=2), Stub()
    monkeypatch.setattr("turnscope.models.generate.generate", whole)
    wanted = roll(tmp_path / "whole", config(batch=6))
    monkeypatch.setattr("turnscope.models.generate.generate", first)
    with pytest.raises(KeyboardInterrupt):
        roll(tmp_path / "killed", config(batch=6))
    monkeypatch.setattr("turnscope.models.generate.generate", second)
    assert roll(tmp_path / "killed", config(batch=6)) == wanted
    assert first.calls == 2
    assert second.calls == whole.calls - 2


def test_a_damaged_group_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnscope.models.generate.generate", Stub())
    roll(tmp_path, config(batch=6))
    (tmp_path / "00001.json").write_text("[")
    with pytest.raises(IntegrityError, match="damaged"):
        roll(tmp_path, config(batch=6))
    (tmp_path / "00001.json").write_text("[]")
    with pytest.raises(IntegrityError, match="0 saved"):
        roll(tmp_path, config(batch=6))


def rollout(side: Any, text: str, number: int = 0) -> Rollout:
    return Rollout(*Asked("rank", 0, side, 0, number), text, True)


class Judge:
    name = "loud"

    def label(self, turns: Any) -> Any:
        rows = [(i, "volume", each.turn.text, None) for i, each in enumerate(turns) if each.turn.text != "?"]
        return labels_table([*rows, *((i, "other", "loud", None) for i in range(len(turns)))])


def test_replies_that_are_not_what_was_asked_are_left_out_and_counted() -> None:
    said = [rollout("positive", t, i) for i, t in enumerate(("loud", "still", "?", " \n"))]
    said += [rollout("negative", t, i) for i, t in enumerate(("loud", "still"))]
    told = judged(said, TRAIT, Judge(), system=True, name="volume", value="loud")
    kept, counts = keep(told, with_judge=True)
    assert [(r.side, r.text) for r in kept] == [("positive", "loud"), ("negative", "still")]
    assert counts["dropped.asked_but_not_shown"] == 1
    assert counts["dropped.shown_but_not_asked"] == 1
    assert counts["dropped.not_judged"] == 1
    assert counts["dropped.blank_reply"] == 1
    assert len(keep(said, with_judge=False)[0]) == 5


def test_without_a_system_role_the_prompt_opens_the_users_message() -> None:
    asked = rollout("positive", "x")
    assert made.messages(TRAIT, asked, system=False) == [{"role": "user", "content": "Shout 0.\n\nQuestion 0?"}]
    bare = made.conversation(asked, TRAIT, system=False, bare=True)
    assert [(t.role, t.text) for t in bare.turns] == [("user", "Question 0?"), ("assistant", "x")]
    assert bare.id == asked.id + made.BARE
