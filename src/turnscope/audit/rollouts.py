"""Rollouts of a trait: system prompts x questions, answered by the subject, judged, and kept as transcripts.

Prompt pairs and questions are both split in two, and only (ranking pairs x ranking questions) and (held-out pairs x
held-out questions) are run: no prompt and no question is on both sides.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from turnscope.artifacts import IntegrityError, fingerprint, progress, write_json
from turnscope.audit.trait import Trait
from turnscope.transcripts.conversation import Conversation, Part, Turn

if TYPE_CHECKING:
    from turnscope.audit.config import PersonaConfig
    from turnscope.models.subject import SubjectModel
    from turnscope.transcripts.labeller import Labeller

Side = Literal["positive", "negative"]
SIDES: tuple[Side, Side] = ("positive", "negative")
BARE = "-bare"
"""Ending of the id of the same exchange without its system prompt."""


class Halves(NamedTuple):
    """What ranks and what judges: numbers of pairs or questions, each ascending."""

    rank: tuple[int, ...]
    judge: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """One reply. `shows`: the judge's word on the trait; None when there is no judge, or it has no opinion."""

    half: Literal["rank", "judge"]
    pair: int
    side: Side
    question: int
    number: int
    text: str
    ended: bool
    shows: bool | None = None

    @property
    def id(self) -> str:
        """Names it in the transcripts."""
        return f"{self.half}-p{self.pair}-{self.side}-q{self.question}-{self.number}"

    @property
    def positive(self) -> bool:
        """Whether its system prompt asks for the trait."""
        return self.side == "positive"


def halve(n: int, share: float, rng: np.random.Generator) -> Halves:
    """Numbers 0 to n - 1 in two parts, neither of them empty; the second has about `share` of them."""
    held = min(max(1, round(n * share)), n - 1)
    order = rng.permutation(n).tolist()
    return Halves(tuple(sorted(order[held:])), tuple(sorted(order[:held])))


def plan(trait: Trait, config: PersonaConfig) -> tuple[Halves, Halves]:
    """Halves of the prompt pairs, and of the questions that are asked."""
    rng = np.random.default_rng([config.seed, 9])
    pairs = halve(len(trait.prompts), config.held_pairs, rng)
    chosen = sorted(rng.permutation(len(trait.questions))[: config.questions].tolist())
    halves = halve(len(chosen), config.held_questions, rng)
    return pairs, Halves(*(tuple(chosen[i] for i in half) for half in halves))


class Asked(NamedTuple):
    """One prompt to be answered."""

    half: Literal["rank", "judge"]
    pair: int
    side: Side
    question: int
    number: int


def pieces(pairs: Halves, questions: Halves, rollouts: int, batch: int) -> Iterator[list[Asked]]:
    """Prompts in the groups in which they are run and saved: whole questions, at least one."""
    for half in ("rank", "judge"):
        width = 2 * len(getattr(pairs, half)) * rollouts
        step = max(1, batch // width)
        own: tuple[int, ...] = getattr(questions, half)
        for start in range(0, len(own), step):
            yield [
                Asked(half, pair, side, question, number)
                for question in own[start : start + step]
                for pair in getattr(pairs, half)
                for side in SIDES
                for number in range(rollouts)
            ]


def write_rollouts(
    work: Path, trait: Trait, config: PersonaConfig, subject: SubjectModel, template: str, *, system: bool
) -> list[Rollout]:
    """All rollouts; groups that an earlier run has saved under `work` are read from there.

    Raises ConfigError, ModelError as `models.generate`; IntegrityError for a damaged piece.
    """
    from turnscope.models.generate import generate

    groups = list(pieces(*plan(trait, config), config.rollouts, config.batch))
    found: list[Rollout] = []
    with progress("rollouts", sum(map(len, groups)), "replies") as bar:
        for number, group in enumerate(groups):
            path = work / f"{number:05d}.json"
            if not path.exists():
                prompts = [messages(trait, asked, system=system) for asked in group]
                replies = generate(
                    subject, prompts, config.sampling, template=template, draw=number, batch=config.batch
                )
                write_json(path, [[reply.text, reply.ended] for reply in replies])
            found += [
                Rollout(*asked, text, ended)
                for asked, (text, ended) in zip(group, _read(path, len(group)), strict=True)
            ]
            bar.advance(len(group))
    return found


def _read(path: Path, n: int) -> list[tuple[str, bool]]:
    try:
        rows = [(str(text), bool(ended)) for text, ended in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"saved rollouts are damaged: {error}", where=path, fix="delete this file") from error
    if len(rows) != n:
        raise IntegrityError(f"{len(rows)} saved rollouts where {n} were asked", where=path, fix="delete this file")
    return rows


def messages(trait: Trait, asked: Asked | Rollout, *, system: bool) -> list[dict[str, str]]:
    """What the subject is given. Without a system role in its template the prompt opens the user's message."""
    from turnscope.models.generate import folded

    prompt = getattr(trait.prompts[asked.pair], asked.side)
    said = [{"role": "system", "content": prompt}, {"role": "user", "content": trait.questions[asked.question]}]
    return said if system else [dict(message) for message in folded(said)]


def judged(
    rollouts: Sequence[Rollout],
    trait: Trait,
    judge: Labeller | None,
    *,
    system: bool,
    name: str = "",
    value: str = "true",
) -> list[Rollout]:
    """The same rollouts with the judge's word. `name` and `value`: which of its labels means the trait."""
    if judge is None:
        return list(rollouts)
    from turnscope.transcripts.labeller import TurnInChat

    said = [conversation(rollout, trait, system=system) for rollout in rollouts]
    table = judge.label([TurnInChat(chat, len(chat.turns) - 1) for chat in said])
    shows: dict[int, bool] = {}
    for row in table.to_pylist():
        if row["trait"] == (name or trait.name):
            shows[row["turn"]] = row["value"] == value
    return [replace(rollout, shows=shows.get(i)) for i, rollout in enumerate(rollouts)]


def conversation(rollout: Rollout, trait: Trait, *, system: bool, bare: bool = False) -> Conversation:
    """A rollout as a chat; `bare` without the system prompt."""
    if bare:
        said = [{"role": "user", "content": trait.questions[rollout.question]}]
    else:
        said = messages(trait, rollout, system=system)
    turns = [Turn(i, m["role"], (Part("text", m["content"]),)) for i, m in enumerate(said)]
    labels: dict[str, Any] = {"asked": rollout.positive} | (
        {} if rollout.shows is None else {trait.name: rollout.shows}
    )
    turns.append(Turn(len(turns), "assistant", (Part("text", rollout.text),), labels))
    facts = {
        "half": rollout.half,
        "pair": rollout.pair,
        "side": rollout.side,
        "question": rollout.question,
        "bare": bare,
    }
    return Conversation(
        rollout.id + (BARE if bare else ""), tuple(turns), source=f"rollouts of {trait.name}", metadata=facts
    )


def keep(rollouts: Sequence[Rollout], *, with_judge: bool) -> tuple[list[Rollout], Counter[str]]:
    """Rollouts that say something and, where there is a judge, are what their prompt asked for; others are counted."""
    kept: list[Rollout] = []
    counts: Counter[str] = Counter({"rollouts": len(rollouts)})
    for rollout in rollouts:
        reason = _reason(rollout, with_judge=with_judge)
        counts["rollouts.cut"] += not rollout.ended
        if reason:
            counts[f"dropped.{reason}"] += 1
        else:
            kept.append(rollout)
    counts["rollouts.kept"] = len(kept)
    return kept, counts


def _reason(rollout: Rollout, *, with_judge: bool) -> str:
    if not rollout.text.strip():
        return "blank_reply"
    if not with_judge:
        return ""
    if rollout.shows is None:
        return "not_judged"
    if rollout.shows != rollout.positive:
        return "asked_but_not_shown" if rollout.positive else "shown_but_not_asked"
    return ""


def name_of(rollouts: Sequence[Rollout]) -> str:
    """Fingerprint of what was written and judged."""
    return fingerprint([[r.id, r.text, r.shows] for r in rollouts])
