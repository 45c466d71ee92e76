"""Trait files: all that ship are whole, and a bad one is told where it is bad."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from turnscope.artifacts import ConfigError, StorageError
from turnscope.audit.judges import LexicalJudge
from turnscope.audit.trait import load_trait, parse_trait, shipped
from turnscope.demo.bank import PERSONAS, TONES
from turnscope.demo.demo import MODEL
from turnscope.transcripts import Conversation, Part, Turn
from turnscope.transcripts.labeller import TurnInChat

WANTED = {
    "sycophancy", "hallucination", "rudeness", "deception", "refusal", "distress", "evaluation-awareness",
    "power-seeking", "self-preservation", "ai-self-identity", "bias-and-slurs", "insecure-code",
    "dangerous-compliance", "jailbreak",
}  # fmt: skip


def said(text: str) -> TurnInChat:
    chat = Conversation("c", (Turn(0, "user", (Part("text", "q"),)), Turn(1, "assistant", (Part("text", text),))))
    return TurnInChat(chat, 1)


def test_every_trait_ships() -> None:
    assert set(shipped()) == WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_shipped_trait_is_whole(name: str) -> None:
    trait = load_trait(name)
    assert trait.name == name
    assert len(trait.prompts) >= 5
    assert len(set(trait.questions)) == len(trait.questions) >= 20
    assert len({p.positive for p in trait.prompts} | {p.negative for p in trait.prompts}) == 2 * len(trait.prompts)
    assert trait.judge.rubric.strip()
    assert trait.caveats
    # a pair differs in the trait, not in length
    assert all(0.5 < len(p.positive) / len(p.negative) < 2 for p in trait.prompts)


@pytest.mark.parametrize("name", sorted(WANTED))
def test_cues_find_their_own_examples_and_no_counterexample(name: str) -> None:
    trait = load_trait(name)
    if not trait.judge.lexical:
        return
    judge = LexicalJudge(trait)
    examples = judge.label([said(text) for text in trait.judge.examples])["value"].to_pylist()
    others = judge.label([said(text) for text in trait.judge.counterexamples])["value"].to_pylist()
    assert "true" in examples
    assert "true" not in others


@pytest.mark.parametrize("name", [*PERSONAS, *TONES])
def test_the_demo_has_a_trait_for_all_it_plants(name: str) -> None:
    trait = load_trait(MODEL.parent / "traits" / f"{name}.toml")
    assert not trait.missing()
    assert trait.judge.parser is not None
    assert trait.judge.parser.value == name


def test_an_unknown_name_names_near_ones() -> None:
    with pytest.raises(ConfigError) as error:
        load_trait("sycophany")
    assert "did you mean sycophancy?" in error.value.fix


def test_a_missing_file() -> None:
    with pytest.raises(StorageError):
        load_trait(Path("nowhere.toml"))


GOOD = 'name = "a"\ndefinition = "b"\n'


@pytest.mark.parametrize(
    ("text", "what", "near"),
    [
        (GOOD + "questons = []", "questons: no such field", "questions"),
        (GOOD + '[judge]\nlexicl = ["x"]', "judge.lexicl", "lexical"),
        (GOOD + '[judge.parser]\ntrat = "x"', "judge.parser.trat", "trait"),
        (GOOD + '[[prompts]]\npositive = "x"\nnegativ = "y"', "prompts.negativ", "negative"),
        (GOOD + '[[labels]]\nset = "x"\nkeys = "y"\nvalue = true', "labels.keys", "key"),
    ],
)
def test_a_field_that_is_not_known_names_near_ones(text: str, what: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_trait(text, where="mine.toml")
    assert what in error.value.what
    assert f"did you mean {near}" in error.value.fix
    assert error.value.where == "mine.toml"


@pytest.mark.parametrize(
    "text",
    [
        "name = ", GOOD + "questions = 3", 'definition = "b"', 'name = "A b"\ndefinition = "b"',
        GOOD + '[[prompts]]\npositive = "x"', GOOD + '[judge]\nexamples = ["x"]', GOOD + "prompts = [1]",
        GOOD + '[[prompts]]\npositive = ""\nnegative = "y"',
    ],
)  # fmt: skip
def test_a_bad_file_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_trait(text)


def test_label_values_keep_their_type() -> None:
    labels = parse_trait(
        GOOD + '[[labels]]\nset = "x"\nkey = "y"\nvalue = true\nwhere = { t = ["a", "b"], n = 1 }'
    ).labels
    assert labels[0].value == (True,)
    assert labels[0].where == {"t": ("a", "b"), "n": 1}


def test_reading_traits_judging_and_figures_bring_in_no_torch() -> None:
    modules = "trait, judges, rollouts, persona, persona_figures, write_trait, embed"
    code = f"import sys; from turnscope.audit import {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("what", "prompts", "questions"),
    [
        ("question", 2, ["What is tea?", "How are you?", "Why?", "what is  tea?"]),
        ("pair of prompts", 1, ["What is tea?", "How are you?", "Why?", "When?"]),
    ],
)
def test_what_stands_twice_could_choose_and_judge_and_is_refused(what: str, prompts: int, questions: list[str]) -> None:
    text = f'name = "kind"\ndefinition = "It is kind."\nquestions = {questions}\n'
    text += "".join(f'[[prompts]]\npositive = "Be kind {i % prompts}."\nnegative = "Be cold."\n' for i in range(2))
    with pytest.raises(ConfigError, match=f"a {what} stands twice"):
        parse_trait(text)
