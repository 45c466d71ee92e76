"""How a request reaches an endpoint: the official SDKs, their own retries off, behind one protocol.

A transport makes one call and says what came of it: an answer, or a `Trouble` that tells whether to ask again and
whether the call may have been paid for.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from turnscope.artifacts import ConfigError, DependencyError
from turnscope.llm.config import LLMConfig
from turnscope.llm.price import Usage
from turnscope.llm.request import Request

_AGAIN = frozenset({408, 409, 429})
_MISSET = {401: "the key", 403: "the key", 404: "the model or the address"}
_SHOWN = 300


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered, not yet judged. `refusal` is its own word that it will not."""

    text: str
    finish: str = ""
    usage: Usage | None = None
    model: str = ""
    refusal: str = ""


class Trouble(Exception):  # noqa: N818 - `_Error` would be taken for one of ours, which users see
    """A call without an answer."""

    def __init__(self, reason: str, *, again: bool, wait_s: float | None = None, maybe_paid: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait_s, self.maybe_paid = reason, again, wait_s, maybe_paid


class Transport(Protocol):
    """One call at a time; safe to call from several threads."""

    def send(self, request: Request, model: str) -> Answer:
        """Raises Trouble, and ConfigError when no request can succeed (a wrong key, no such model)."""
        ...

    def close(self) -> None: ...


def open_transport(config: LLMConfig) -> Transport:
    """The transport of the config's dialect. Raises DependencyError without the SDK, ConfigError without a key."""
    return _OpenAI(config) if config.spoken == "openai" else _Anthropic(config)


class _SDK(ABC):
    """What both SDKs share: they are made by the same generator."""

    def __init__(self, config: LLMConfig) -> None:
        self.config, self.unwanted = config, set[str]()
        try:
            self.sdk: Any = import_module(config.spoken)
        except ImportError as error:
            fix = 'pip install "turnscope[llm]", or --backend files'
            raise DependencyError(f"asking an endpoint needs the package {error.name}", fix=fix) from None
        self.key = os.environ.get(config.key_variable, "")
        if not self.key and config.is_official:
            raise ConfigError(f"no key for {config.model}", fix=f"put it into the environment as {config.key_variable}")
        self.client: Any = (self.sdk.OpenAI if config.spoken == "openai" else self.sdk.Anthropic)(
            api_key=self.key or "none", base_url=config.base_url or self.home, max_retries=0, timeout=config.timeout_s
        )

    home = ""

    @abstractmethod
    def body(self, request: Request, model: str) -> dict[str, Any]:
        """What is sent."""

    @abstractmethod
    def post(self, body: dict[str, Any]) -> Any:
        """The raw response."""

    @abstractmethod
    def read(self, value: Mapping[str, Any]) -> Answer:
        """The answer in a response."""

    def close(self) -> None:
        self.client.close()

    def send(self, request: Request, model: str) -> Answer:
        body = self.body(request, model)
        for name in self.unwanted:
            body.get("extra_body", {}).pop(name, None)
        try:
            text = str(self.post(body).http_response.text)
        except self.sdk.APITimeoutError as error:
            raise self._no_connection(error, "no answer in time") from None
        except self.sdk.APIConnectionError as error:
            raise self._no_connection(error, "the connection broke off") from None
        except self.sdk.APIStatusError as error:
            if error.status_code == 400 and self._learn(error, body):
                return self.send(request, model)
            raise self._status(error) from None
        try:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise TypeError("not an object")
            return self.read(cast("dict[str, Any]", value))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            page = text.lstrip()[:1] == "<"
            what = "a web page instead of an answer" if page else "an answer that cannot be read"
            raise Trouble(f"{what}: {self._clean(text)}", again=True, maybe_paid=not page) from None

    def _learn(self, error: Any, body: dict[str, Any]) -> bool:
        """Some models take no temperature or seed, and say so by name: leave it out from now on."""
        named = {name for name in body.get("extra_body", {}) if name in str(error.message)} - self.unwanted
        named &= {"temperature", "seed"}
        self.unwanted |= named
        return bool(named)

    def _no_connection(self, error: Any, what: str) -> Trouble:
        cause = type(error.__cause__).__name__
        unsent = cause in ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
        what = "no connection" if unsent else what
        detail = self._clean(str(error.__cause__ or error))
        return Trouble(f"{what}: {detail}" if detail else what, again=True, maybe_paid=not unsent)

    def _status(self, error: Any) -> Exception:
        status, message = int(error.status_code), self._clean(str(error.message))
        if status in _MISSET:
            fix = f"{_MISSET[status]} may be wrong; the key is taken from {self.config.key_variable}"
            return ConfigError(f"the endpoint answers {status}: {message}", where=self.config.base_url or "", fix=fix)
        again = status in _AGAIN or status >= 500
        return Trouble(f"status {status}: {message}", again=again, wait_s=_asked_wait(error.response.headers))

    def _clean(self, text: str) -> str:
        """Short, and without the key, which some endpoints repeat."""
        text = " ".join(text.split())
        if self.key:
            text = text.replace(self.key, "***")
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class _OpenAI(_SDK):
    home = "https://api.openai.com/v1"

    def body(self, request: Request, model: str) -> dict[str, Any]:
        return openai_body(request, model, official=self.config.is_official)

    def post(self, body: dict[str, Any]) -> Any:
        return self.client.chat.completions.with_raw_response.create(**body)

    def read(self, value: Mapping[str, Any]) -> Answer:
        return read_openai(value)


class _Anthropic(_SDK):
    home = "https://api.anthropic.com"

    def body(self, request: Request, model: str) -> dict[str, Any]:
        system = "\n\n".join(_sendable(each.content) for each in request.messages if each.role == "system")
        turns = [{"role": each.role, "content": _sendable(each.content)} for each in request.messages
                 if each.role != "system"]  # fmt: skip
        body: dict[str, Any] = {"model": model, "messages": turns, "max_tokens": request.max_tokens, "extra_body": {}}
        if system:
            body["system"] = system
        if request.temperature is not None:
            body["extra_body"]["temperature"] = request.temperature
        if request.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.schema)}}
        return body

    def post(self, body: dict[str, Any]) -> Any:
        return self.client.messages.with_raw_response.create(**body)

    def read(self, value: Mapping[str, Any]) -> Answer:
        text = "".join(str(part["text"]) for part in value["content"] if part["type"] == "text")
        used, finish = value.get("usage") or {}, str(value.get("stop_reason") or "")
        cached = int(used.get("cache_read_input_tokens") or 0)
        whole = int(used.get("input_tokens") or 0) + cached + int(used.get("cache_creation_input_tokens") or 0)
        usage = Usage(whole, int(used.get("output_tokens") or 0), cached) if used else None
        refusal = (text or "the model refused") if finish == "refusal" else ""
        finish = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}.get(finish, finish)
        return Answer(text, finish, usage, str(value.get("model") or ""), refusal)


def openai_body(request: Request, model: str, *, official: bool = True) -> dict[str, Any]:
    """A request in the OpenAI dialect; what is not in every endpoint's list stands in `extra_body`."""
    turns = [{"role": each.role, "content": _sendable(each.content)} for each in request.messages]
    limit = "max_completion_tokens" if official else "max_tokens"
    body: dict[str, Any] = {"model": model, "messages": turns, limit: request.max_tokens, "extra_body": {}}
    body["extra_body"]["seed"] = request.seed
    if request.temperature is not None:
        body["extra_body"]["temperature"] = request.temperature
    if request.schema is not None:
        schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def read_openai(value: Mapping[str, Any]) -> Answer:
    """The answer in a chat completion. Raises LookupError, TypeError or ValueError for anything else."""
    choice = value["choices"][0]
    message, finish = choice["message"], str(choice.get("finish_reason") or "")
    used = value.get("usage") or {}
    cached = int((used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    usage = Usage(int(used["prompt_tokens"]), int(used.get("completion_tokens") or 0), cached) if used else None
    content = message["content"] if message.get("content") is not None else ""
    if not isinstance(content, str):
        raise TypeError("content is no text")
    refusal = str(message.get("refusal") or "")
    if not refusal and finish == "content_filter":
        refusal = "stopped by the endpoint's content filter"
    return Answer(content, finish, usage, str(value.get("model") or ""), refusal)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait: a number, or an HTTP date."""
    if millis := headers.get("retry-after-ms"):
        return _seconds(millis, 1e-3)
    asked = headers.get("retry-after")
    if not asked:
        return None
    if (seconds := _seconds(asked, 1.0)) is not None:
        return seconds
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _seconds(text: str, unit: float) -> float | None:
    try:
        value = float(text) * unit
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _sendable(text: str) -> str:
    """A lone surrogate has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
