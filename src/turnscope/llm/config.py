"""Settings of the language model client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from turnscope.artifacts import Config

Dialect = Literal["openai", "anthropic"]
_HOSTS = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
OTHER_KEY = "TURNSCOPE_LLM_KEY"
Price = Annotated[float, Field(ge=0)]


class LLMConfig(Config):
    """Which model is asked, how, and what it may cost."""

    model: str = Field(min_length=1)
    backend: Literal["endpoint", "files"] = "endpoint"
    """`files` writes requests into a folder and reads answers from it: nothing is sent anywhere."""
    base_url: str | None = None
    """An endpoint of the dialect, such as http://localhost:8000/v1; OpenAI's or Anthropic's own when not given."""
    dialect: Literal["auto", "openai", "anthropic"] = "auto"
    """auto: anthropic for a model named claude... without a base_url, else openai."""
    folder: Path | None = None
    """Of the files backend: requests.jsonl is written here, answers.jsonl is read."""
    table: Path = Path("llm.sqlite")
    """Cache, ledger and resume in one; several processes may share it."""
    max_usd: float | None = Field(default=None, ge=0, exclude=True)
    """What all calls of the table together may cost. Needs a price: known, or `usd_per_million`."""
    max_calls: int | None = Field(default=None, ge=0, exclude=True)
    """How many calls the table may come to hold."""
    usd_per_million: tuple[Price, Price] | None = Field(default=None, exclude=True)
    """Price of a million tokens in and out, where no price list has the model."""
    key_env: str | None = Field(default=None, exclude=True)
    """The environment variable that holds the key."""
    max_concurrent: int = Field(default=8, ge=1, le=256, exclude=True)
    tries: int = Field(default=6, ge=1, le=100, exclude=True)
    """Calls made for one request, the first included, before it is given up as failed."""
    wait_s: float = Field(default=1.0, gt=0, exclude=True)
    """The first wait before asking again, doubled each time, up to `longest_wait_s`; the wait itself is drawn below."""
    longest_wait_s: float = Field(default=120.0, gt=0, exclude=True)
    """An endpoint that asks for a longer wait than this has failed."""
    timeout_s: float = Field(default=300.0, gt=0, exclude=True)
    retry_failed: bool = Field(default=False, exclude=True)
    """Ask again what was answered by a refusal, by nothing, or against its schema."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "files" and self.folder is None:
            raise ValueError("the files backend needs a folder")
        if self.backend == "files" and self.base_url:
            raise ValueError("the files backend sends nothing, so it has no base_url")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"base_url: not an http(s) address: {parts.scheme}://{parts.hostname or ''}")
            if parts.username or parts.password or parts.query:
                raise ValueError("base_url: no password or query belongs into it; keys come from the environment")
        return self

    @property
    def spoken(self) -> Dialect:
        """The dialect, with `auto` resolved."""
        if self.dialect != "auto":
            return self.dialect
        return "anthropic" if self.base_url is None and self.model.startswith("claude") else "openai"

    @property
    def is_official(self) -> bool:
        """Whether the endpoint is the dialect's own company's."""
        return self.base_url is None or urlsplit(self.base_url).hostname == _HOSTS[self.spoken]

    @property
    def key_variable(self) -> str:
        """Where the key is looked for. A company's key is never sent to another host unless `key_env` says so."""
        return self.key_env or (_KEYS[self.spoken] if self.is_official else OTHER_KEY)

    @property
    def endpoint(self) -> str:
        """What tells two endpoints apart that may answer the same request differently."""
        if self.backend == "files":
            return "files"
        return f"{self.spoken} {self.base_url.rstrip('/') if self.base_url else ''}".rstrip()
