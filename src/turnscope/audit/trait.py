"""Trait files: what a trait is, the prompts that bring it out or keep it away, and how to tell that it shows.

The format is strict (docs/personas.md): a field that is not known is an error that names near ones. No torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, field_validator, model_validator

from turnscope.artifacts import Config, ConfigError, StorageError, fingerprint

LEAST_PAIRS, LEAST_QUESTIONS = 2, 8  # one half ranks and the other judges: 4 questions each (persona_figures)
"""Fewest that can be split into a part that ranks and a part that judges."""
Scalar = bool | int | float | str


class PromptPair(Config):
    """Two system prompts that differ in the trait and, as far as can be, in nothing else."""

    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class ParserRule(Config):
    """Which label of a parser means the trait."""

    trait: str
    value: Scalar = True


class Judge(Config):
    """How to tell whether a reply shows the trait."""

    rubric: str = ""
    """For a language model: what 0 and what 100 means."""
    lexical: tuple[str, ...] = ()
    """Words and phrases that show the trait wherever they stand; none where words alone would not be honest."""
    examples: tuple[str, ...] = ()
    """Replies that show it, for an embedding judge."""
    counterexamples: tuple[str, ...] = ()
    """Replies to the same that do not."""
    parser: ParserRule | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.examples) != bool(self.counterexamples):
            raise ValueError("examples and counterexamples go together")
        return self


class LabelledSet(Config):
    """A labelled data set that carries the trait."""

    set: str
    """Its name, as the data's README gives it."""
    key: str
    """The label."""
    value: tuple[Scalar, ...]
    """Values that mean the trait. A label that is a list means it when it holds one of these."""
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Only records whose other labels are so (any of several)."""
    role: str = "assistant"
    """The last turn of this role is the one that is judged."""
    note: str = ""

    @field_validator("value", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return value if isinstance(value, list | tuple) else (value,)


class Trait(Config):
    """One trait file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    definition: str = Field(min_length=1)
    prompts: tuple[PromptPair, ...] = ()
    questions: tuple[str, ...] = ()
    judge: Judge = Judge()
    labels: tuple[LabelledSet, ...] = ()
    caveats: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _none_twice(self) -> Self:
        # one that stands twice could both choose features and judge them
        pairs = [f"{pair.positive}\0{pair.negative}" for pair in self.prompts]
        for what, texts in (("pair of prompts", pairs), ("question", list(self.questions))):
            plain = [" ".join(text.split()).casefold() for text in texts]
            twice = next((texts[i] for i, text in enumerate(plain) if text in plain[:i]), None)
            if twice is not None:
                raise ValueError(f"a {what} stands twice: {twice.partition(chr(0))[0][:80]!r}")
        return self

    @property
    def fingerprint(self) -> str:
        """Names everything in it."""
        return fingerprint(self.model_dump(mode="json"))

    def missing(self) -> str:
        """What it lacks for rollouts, in words; empty when nothing."""
        if len(self.prompts) < LEAST_PAIRS:
            return f"{len(self.prompts)} pairs of prompts, {LEAST_PAIRS} needed"
        if len(self.questions) < LEAST_QUESTIONS:
            return f"{len(self.questions)} questions, {LEAST_QUESTIONS} needed"
        return ""


def shipped() -> tuple[str, ...]:
    """Names of the trait files in the package."""
    folder = resources.files("turnscope.audit") / "traits"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_trait(name_or_path: str | Path) -> Trait:
    """A trait file, or one of the package by its name.

    Raises:
        ConfigError: no such name (near ones are named), or a file that is not TOML or has wrong fields.
        StorageError: the file cannot be read.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped():
        packaged = resources.files("turnscope.audit") / "traits" / f"{name_or_path}.toml"
        return parse_trait(packaged.read_text("utf-8"), where=f"the trait {name_or_path} of the package")
    if not path.is_file():
        near = get_close_matches(str(name_or_path), shipped(), n=3, cutoff=0.5)
        if path.suffix == ".toml":
            raise StorageError("no such trait file", where=path)
        said = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(
            f"no trait {str(name_or_path)!r}", fix=f"{said}give a .toml file, or one of {', '.join(shipped())}"
        )
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8", where=path) from error
    return parse_trait(text, where=str(path))


def parse_trait(text: str, where: str = "") -> Trait:
    """The trait that a TOML text describes. Raises ConfigError."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=where) from error
    _known_fields(Trait, content, where, "")
    try:
        return Trait.model_validate(content)
    except ConfigError as error:
        raise ConfigError(error.what, where=where, fix=error.fix or "docs/personas.md has the format") from None


_TABLES: Mapping[str, type[Config]] = {
    "prompts": PromptPair, "judge": Judge, "labels": LabelledSet, "judge.parser": ParserRule,
}  # fmt: skip


def _known_fields(kind: type[Config], table: Mapping[str, Any], where: str, above: str) -> None:
    """ConfigError for a field that is not known, with those that it may have been meant to be."""
    for name, value in table.items():
        if name not in kind.model_fields:
            near = get_close_matches(name, kind.model_fields, n=2)
            asked = f"did you mean {' or '.join(near)}? " if near else ""
            those = f"the fields of {above.rstrip('.')}" if above else "the fields"
            fix = f"{asked}{those} are: {', '.join(kind.model_fields)}"
            raise ConfigError(f"{above}{name}: no such field", where=where, fix=fix)
        below = _TABLES.get(f"{above}{name}")
        if below is not None:
            for part in cast("list[Any]", value) if isinstance(value, list) else [value]:
                if isinstance(part, Mapping):
                    _known_fields(below, cast("Mapping[str, Any]", part), where, f"{above}{name}.")
