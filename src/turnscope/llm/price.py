"""What calls cost: from the config, or from the offline price list of genai-prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from turnscope.artifacts import ConfigError, DependencyError
from turnscope.llm.config import LLMConfig
from turnscope.llm.request import Request

_MESSAGE_TOKENS = 32  # more than any chat template puts around a message


@dataclass(frozen=True)
class Usage:
    """Tokens of a call; `cached` of the input ones were read from the provider's own cache."""

    input_tokens: int
    output_tokens: int
    cached: int = 0


Price = Callable[[str, Usage], float | None]


def price_of(config: LLMConfig) -> Price:
    """USD by model and usage, None where no price is known. Raises ConfigError when a ceiling in USD has no price."""
    if config.usd_per_million:
        per_in, per_out = config.usd_per_million
        return lambda model, usage: (usage.input_tokens * per_in + usage.output_tokens * per_out) / 1e6
    price = _listed(config) if config.is_official or config.max_usd is not None else None
    if config.max_usd is not None and (price is None or price(config.model, Usage(1, 1)) is None):
        raise ConfigError(
            f"no price is known for {config.model}, so a ceiling in USD cannot be kept",
            fix="say what a million tokens cost (usd_per_million), or set a ceiling of calls",
        )
    return price or (lambda model, usage: None)


def _listed(config: LLMConfig) -> Price | None:
    try:
        import genai_prices
    except ImportError:
        if config.max_usd is None:
            return None
        fix = 'pip install "turnscope[llm]", or say what a million tokens cost'
        raise DependencyError("prices need the package genai-prices", fix=fix) from None

    def price(model: str, usage: Usage) -> float | None:
        where = {"provider_api_url": config.base_url} if config.base_url else {"provider_id": config.spoken}
        counted = genai_prices.Usage(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cached
        )
        try:
            return float(cast(Any, genai_prices.calc_price)(counted, model_ref=model, **where).total_price)
        except LookupError:
            return None

    return price


def most_tokens(request: Request) -> Usage:
    """More tokens than a call can have: a tokenizer over bytes makes no more tokens than there are bytes."""
    texts = [message.content for message in request.messages] + [str(dict(request.schema or {}))]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return Usage(size + _MESSAGE_TOKENS * len(texts), request.max_tokens)
