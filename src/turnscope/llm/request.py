"""What is asked and what comes back. A failed request is a `Failed` with its reason, never an invented answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from turnscope.artifacts import ConfigError, canonical_json

Role = Literal["system", "user", "assistant"]
Kind = Literal["transport", "rejected", "refused", "empty", "schema"]


@dataclass(frozen=True)
class Message:
    """One message of the conversation that is sent."""

    role: Role
    content: str


@dataclass(frozen=True)
class Request:
    """One question to a model.

    Args:
        model: its name at the endpoint; "" for that of the client's config.
        messages: system messages first, then user and assistant in turn.
        purpose: what it is for, for the ledger; does not decide the answer.
        temperature: None leaves it to the endpoint.
        max_tokens: of the answer.
        seed: another seed asks anew, and is sent where the endpoint takes one.
        schema: JSON schema that the answer must meet.
    """

    model: str
    messages: tuple[Message, ...]
    purpose: str = ""
    temperature: float | None = 0.0
    max_tokens: int = 1024
    seed: int = 0
    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        if not any(message.role == "user" for message in self.messages):
            raise ConfigError("a request needs a message of the user", where=self.purpose)
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be 1 or more, not {self.max_tokens}", where=self.purpose)

    def key(self, endpoint: str, model: str = "") -> bytes:
        """32 bytes that stand for everything that decides the answer; `model` where the request names none."""
        deciding = {
            "endpoint": endpoint, "model": self.model or model,
            "messages": [[message.role, message.content] for message in self.messages],
            "temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed,
            "schema": self.schema,
        }  # fmt: skip
        return hashlib.blake2b(canonical_json(deciding), digest_size=32).digest()


@dataclass(frozen=True)
class Reply:
    """An answer. `usd` is None where no price is known; tokens are 0 where the endpoint told none."""

    text: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    cached: bool = False
    finish: str = ""
    """Why it ended, in the endpoint's words: `stop`; `length` when cut off at max_tokens."""


@dataclass(frozen=True)
class Failed:
    """No answer that can be used, and why.

    `kind` is transport (no answer arrived), rejected (the endpoint will not take the request), refused, empty, or
    schema (not what was asked for). What was paid for it is in the ledger.
    """

    reason: str
    kind: Kind = "transport"
    text: str = field(default="", repr=False)
    """What came instead of an answer, where there was something."""


def ask(user: str, *, system: str = "", model: str = "", **options: Any) -> Request:
    """A request of one user message; `options` as the fields of Request."""
    start = [Message("system", system)] if system else []
    return Request(model, (*start, Message("user", user)), **options)
