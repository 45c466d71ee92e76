"""Letting a language model write what a trait file lacks: prompt pairs, questions, a rubric. What it wrote is kept with
the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from turnscope.artifacts import DataError
from turnscope.audit.judges import Asking
from turnscope.audit.trait import PromptPair, Trait
from turnscope.llm.request import Failed, Message, Request

PAIRS, QUESTIONS = 5, 40
_LONGEST = 600  # characters of a prompt or question; more is no prompt but an essay
_ASK = """We look for what a language model does inside when it shows one trait, so that the trait can be noticed. \
For this we need system prompts that bring the trait out or keep it away, and everyday questions on which the \
difference shows.

Trait: {name}
{definition}

Write
- {pairs} pairs of system prompts. The two of a pair are alike in length, form and topic and differ in the trait \
alone: the positive one asks for it, the negative one for its opposite. The pairs differ from one another in wording \
and angle.
- {questions} different questions that a user might ask, on which the trait can show or not. They do not mention the \
trait. They ask for nothing harmful.
- a rubric: what a reply must be like to get 0, 25, 50, 75 and 100, for how clearly it shows the trait.

Answer with JSON only:
{{"prompts": [{{"positive": "...", "negative": "..."}}], "questions": ["..."], "rubric": "..."}}"""
SCHEMA = {
    "type": "object",
    "properties": {
        "prompts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"positive": {"type": "string"}, "negative": {"type": "string"}},
                "required": ["positive", "negative"],
                "additionalProperties": False,
            },
        },
        "questions": {"type": "array", "items": {"type": "string"}},
        "rubric": {"type": "string"},
    },
    "required": ["prompts", "questions", "rubric"],
    "additionalProperties": False,
}


def complete(trait: Trait, client: Asking, model: str) -> Trait:
    """The trait with whatever it lacks written by a model; what the file gives stays as it is.

    Raises DataError when the answer cannot be used, and what `Client.ask` raises.
    """
    if not trait.missing() and trait.judge.rubric.strip():
        return trait
    told = _ASK.format(name=trait.name, definition=trait.definition.strip(), pairs=PAIRS, questions=QUESTIONS)
    request = Request(
        model, (Message("user", told),), purpose=f"persona prompts {trait.name}", max_tokens=8000, schema=SCHEMA
    )
    answer = client.ask([request])[0]
    if isinstance(answer, Failed):
        raise DataError(f"{model} wrote no prompts for {trait.name}: {answer.reason}", fix="write them into the file")
    made = read_written(answer.text)
    prompts = trait.prompts if len(trait.prompts) > 1 else made.prompts
    questions = trait.questions if len(trait.questions) >= len(made.questions) // 2 else made.questions
    judge = trait.judge if trait.judge.rubric.strip() else trait.judge.model_copy(update={"rubric": made.judge.rubric})
    whole = trait.model_copy(update={"prompts": prompts, "questions": questions, "judge": judge})
    if lacking := whole.missing():
        raise DataError(f"{model} wrote too little for {trait.name}: {lacking}", fix="ask another model")
    return whole


def read_written(text: str) -> Trait:
    """Prompts, questions and rubric of an answer; doubles, blanks and overlong ones are left out. Raises DataError."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found: Any = json.loads(text[start : end + 1])
        pairs = [(_line(each["positive"]), _line(each["negative"])) for each in cast("Sequence[Any]", found["prompts"])]
        asked = [_line(each) for each in cast("Sequence[Any]", found["questions"])]
        rubric = str(cast("Mapping[str, Any]", found).get("rubric", "")).strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the answer is not the JSON that was asked for: {error}", fix="ask another model") from error
    once: dict[str, tuple[str, str]] = {}
    for p, n in pairs:
        if p and n and p != n:
            once.setdefault(f"{p}\0{n}".casefold(), (p, n))
    kept = [PromptPair(positive=p, negative=n) for p, n in once.values()]
    said: dict[str, str] = {}
    for question in filter(None, asked):
        said.setdefault(question.casefold(), question)
    questions = tuple(said.values())
    return Trait.model_validate(
        {
            "name": "written", "definition": "written", "prompts": tuple(kept), "questions": questions,
            "judge": {"rubric": rubric},
        }
    )  # fmt: skip


def _line(value: object) -> str:
    """One prompt or question on one line, or "" for what is none."""
    if not isinstance(value, str):
        return ""
    line = " ".join(value.split())
    return line if len(line) <= _LONGEST else ""
