"""Flags of commands that may ask a language model, as one config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from turnscope.llm import LLMConfig


@Parameter(name="*")
@dataclass(frozen=True)
class LLMFlags:
    """Which language model is asked, where, and what it may cost (docs/llm.md)."""

    llm: str | None = None
    """The language model to ask, as its endpoint names it."""
    backend: Literal["endpoint", "files"] = "endpoint"
    """files: write the requests into a file, and read answers from another."""
    base_url: str | None = None
    """An endpoint of OpenAI's dialect, such as http://localhost:8000/v1; else the company's own."""
    llm_folder: Path | None = None
    """With --backend files: where they lie; llm/ in the run folder when not given."""
    table: Path | None = None
    """Answers and what they cost; llm.sqlite in the run folder when not given."""
    max_usd: float | None = None
    """Most that all calls in the table may cost together."""
    max_calls: int | None = None
    """Most calls that the table may hold."""
    usd_per_million: Annotated[tuple[float, float] | None, Parameter(negative=())] = None
    """Price of a million tokens in and out, where no price list has the model."""

    def config(self, run_folder: Path) -> LLMConfig:
        """Raises ConfigError when no model is named."""
        from turnscope.artifacts import ConfigError
        from turnscope.llm import LLMConfig

        if not self.llm:
            raise ConfigError("no language model is named", fix="name it with --llm")
        folder = (self.llm_folder or run_folder / "llm") if self.backend == "files" else None
        return LLMConfig(
            model=self.llm, backend=self.backend, base_url=self.base_url, folder=folder,
            table=self.table or run_folder / "llm.sqlite", max_usd=self.max_usd, max_calls=self.max_calls,
            usd_per_million=self.usd_per_million,
        )  # fmt: skip
