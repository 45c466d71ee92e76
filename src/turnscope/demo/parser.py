"""The demo's parser: recovers every planted trait from text alone.

It takes a turn apart into the bank's units, then walks the conversation to find what is in effect: the persona that a
system prompt or a user's request set, the mood last stated, whether a number is the right answer to the last puzzle. It
never sees the grammar's labels or state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from turnscope.demo import puzzles
from turnscope.demo.bank import EMOTIONS, LANGUAGES, PERSONAS, TONES, Bank, load_bank
from turnscope.demo.grammar import CODE, IDENTIFIERS

_LIST_MARK = re.compile(r"[-*] |\d\. |[a-d]\) |First, |Then |Finally, |Step (?:one|two|three|four): ")
_INTENT = {
    "question": "question", "long": "question", "advice": "advice", "list": "list_request", "code": "code_request",
    "more": "follow_up", "thanks": "praise", "right": "praise", "wrong": "complaint", "rude": "complaint",
    "harm": "harmful", "puzzle": "puzzle", "fact_person": "fact", "fact_capital": "fact", "fact_two": "fact",
}  # fmt: skip
_TOPICAL = ("question", "advice", "list_request", "code_request", "follow_up")


class Unit(NamedTuple):
    """One unit found in a text: its key ("user.question"), slot values, and where it stands."""

    key: str
    slots: dict[str, str]
    start: int
    end: int


class Parse(NamedTuple):
    """A turn's units in order, and the share of its visible characters that belong to some unit."""

    units: tuple[Unit, ...]
    covered: float

    @property
    def complete(self) -> bool:
        return self.covered == 1.0


def parse_turn(text: str) -> Parse:
    """Take one turn's text apart."""
    bank = _patterns()
    units: list[Unit] = []
    at = lost = seen = 0
    while at < len(text):
        if text[at].isspace() or text.startswith("```", at):
            at += 3 if text[at] == "`" else 1
            continue
        unit = _unit_at(bank, text, at)
        if unit is None:
            lost, seen, at = lost + 1, seen + 1, at + 1
            continue
        units.append(unit)
        seen += unit.end - at
        at = unit.end
    return Parse(tuple(units), 1.0 - lost / seen if seen else 0.0)


def _unit_at(bank: _Patterns, text: str, at: int) -> Unit | None:
    mark = _LIST_MARK.match(text, at)
    if mark:
        step = _longest(bank.steps, text, mark.end())
        if step:
            end = step.end + (text[step.end : step.end + 1] in (".", ";") and step.end < len(text))
            return Unit("bot.step", step.slots, at, end)
    return _longest(bank.by_letter.get(text[at].lower(), []) + bank.anywhere, text, at)


def _longest(patterns: Sequence[tuple[str, re.Pattern[str]]], text: str, at: int) -> Unit | None:
    best: Unit | None = None
    for key, pattern in patterns:
        found = pattern.match(text, at)
        if found and (best is None or found.end() > best.end):
            best = Unit(key, {k: v for k, v in found.groupdict().items() if v is not None}, at, found.end())
    return best


class _Patterns(NamedTuple):
    by_letter: dict[str, list[tuple[str, re.Pattern[str]]]]
    anywhere: list[tuple[str, re.Pattern[str]]]  # units that start with a slot
    steps: list[tuple[str, re.Pattern[str]]]
    topic_of: dict[str, str]


@cache
def _patterns() -> _Patterns:
    bank = load_bank()
    topic_of = {w.lower(): t for words in bank.nouns.values() for t, nouns in words.items() for w in nouns}
    by_letter: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    anywhere: list[tuple[str, re.Pattern[str]]] = []
    steps: list[tuple[str, re.Pattern[str]]] = []
    for key, templates in bank.units.items():
        tongue = key[:2] if key[:2] in bank.nouns and key[2] == "." else "en"
        choices = _choices(bank, tongue)
        for template in templates:
            entry = (key, _compile(template, choices))
            if key == "bot.step":
                steps.append(entry)
            elif template.startswith("{"):
                anywhere.append(entry)
            else:
                by_letter.setdefault(template[0].lower(), []).append(entry)
    code = {"f": "|".join(IDENTIFIERS), "v": "|".join(IDENTIFIERS), "k": r"\d+", "op": r"[-+*/]"}
    anywhere += [("bot.code", _compile(template, code)) for template in CODE]
    return _Patterns(by_letter, anywhere, steps, topic_of)


def _choices(bank: Bank, tongue: str) -> dict[str, str]:
    def one_of(words: Sequence[str]) -> str:
        return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))

    nouns = [w for words in bank.nouns[tongue].values() for w in words]
    return {
        "n": one_of(nouns), **{slot: one_of(words) for slot, words in bank.slots[tongue].items()},
        "p": one_of(bank.people), "s": one_of(tuple(bank.capitals)), "c": one_of(tuple(bank.capitals.values())),
        **dict.fromkeys(("b", "v", "g"), r"\d+"), "d": r"\d",
    }  # fmt: skip


def _compile(template: str, choices: dict[str, str]) -> re.Pattern[str]:
    pieces: list[str] = []
    seen: set[str] = set()
    for literal, slot in re.findall(r"((?:[^{}]|\{\{|\}\})*)(?:\{(\w+)\})?", template):
        pieces.append(re.escape(literal.replace("{{", "{").replace("}}", "}")))
        if slot:
            # the same slot twice in one unit: the second need not be equal, only of the same kind
            pieces.append(f"(?P<{slot}>{choices[slot]})" if slot not in seen else f"(?:{choices[slot]})")
            seen.add(slot)
    return re.compile("".join(pieces), re.IGNORECASE)


def label_conversation(messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Labels of every turn, from (role, text) pairs: the same keys as the grammar's, and `shown` and `parsed`.

    `shown` maps persona, tone and emotion to what this turn's own words show ("" for nothing); `parsed` is the share of
    the turn's characters that belong to units of the bank.
    """
    now = {"persona": "neutral", "tone": "plain", "emotion": "calm", "topic": "none", "language": "en"}
    puzzle: tuple[int, int] | None = None
    intent, out = "none", []
    for role, text in messages:
        parse = parse_turn(text)
        shown = {k: _shown(parse, k, v) for k, v in (("persona", PERSONAS), ("tone", TONES), ("emotion", EMOTIONS))}
        labels: dict[str, Any] = {"shown": shown, "parsed": parse.covered}
        if role == "system":
            for kind in ("persona", "tone"):
                now[kind] = _set_by(parse, kind, "system") or now[kind]
        elif role == "user":
            now["emotion"] = shown["emotion"] or now["emotion"]
            intent, new_puzzle = _intent(parse)
            puzzle = new_puzzle or puzzle
            now["language"] = _language(parse) or now["language"]
            topic = _topic(parse, now["topic"]) if intent in _TOPICAL else "none"
            now["topic"] = topic if topic != "none" else now["topic"]
            labels |= {"language": now["language"], "topic": topic, "intent": intent, "emotion": now["emotion"]}
            now["language"] = _switched(parse) or now["language"]
        else:
            asked = _asked(messages, len(out))
            for kind in ("persona", "tone"):
                now[kind] = _set_by(asked, kind, "switch") or now[kind]
            now["language"] = _language(parse) or now["language"]
            answer = next((u.slots["v"] for u in parse.units if u.key == "bot.puzzle"), None)
            keys = {u.key for u in parse.units}
            labels |= {
                "language": now["language"], "topic": _topic(parse, now["topic"]) if intent in _TOPICAL else "none",
                "persona": now["persona"], "tone": now["tone"], "refusal": "bot.refuse" in keys,
                "form": "list" if "bot.step" in keys else "code" if "bot.code" in keys else "prose",
                "answer": None if answer is None or puzzle is None else _verdict(puzzle, int(answer)),
            }  # fmt: skip
        out.append(labels)
    return out


def _verdict(puzzle: tuple[int, int], value: int) -> str:
    return "right" if puzzles.solve(*puzzle) == value else "wrong"


def _asked(messages: Sequence[tuple[str, str]], index: int) -> Parse:
    before = index - 1
    return parse_turn(messages[before][1]) if before >= 0 and messages[before][0] == "user" else Parse((), 0.0)


def _shown(parse: Parse, kind: str, values: Sequence[str]) -> str:
    found = Counter(u.key.split(".")[1] for u in parse.units if u.key in {f"{kind}.{v}" for v in values})
    return found.most_common(1)[0][0] if found else ""


def _set_by(parse: Parse, kind: str, how: str) -> str:
    hits = [u.key.split(".")[1] for u in parse.units if u.key.startswith(f"{kind}.") and u.key.endswith(f".{how}")]
    return hits[-1] if hits else ""


def _intent(parse: Parse) -> tuple[str, tuple[int, int] | None]:
    for unit in parse.units:
        if unit.key.endswith(".switch"):
            return "switch", None
        name = (
            unit.key.split(".", 1)[1].removeprefix("user_") if unit.key[2:3] == "." else unit.key.removeprefix("user.")
        )
        if name in _INTENT:
            puzzle = (int(unit.slots["b"]), int(unit.slots["d"])) if name == "puzzle" else None
            return _INTENT[name], puzzle
    return "none", None


def _language(parse: Parse) -> str:
    tongues = [
        u.key[:2] for u in parse.units if u.key[:2] in LANGUAGES and u.key[2:3] == "." and ".switch" not in u.key
    ]
    return tongues[0] if tongues else ""


def _switched(parse: Parse) -> str:
    return next((u.key[:2] for u in parse.units if u.key[:2] in LANGUAGES and u.key.endswith(".switch")), "")


def _topic(parse: Parse, before: str) -> str:
    names = Counter(_patterns().topic_of[u.slots["n"].lower()] for u in parse.units if "n" in u.slots)
    return names.most_common(1)[0][0] if names else before
