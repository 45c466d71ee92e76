"""Turn-level facts as they travel inside other libraries' files, under the key `turnscope`."""

from __future__ import annotations

from typing import Any

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.sae.config import SAEConfig
from turnscope.sae.formats._source import Fields
from turnscope.sae.units import TURN_WORDS

_SHAPE = ("d_model", "n_features")


def facts_of(config: SAEConfig) -> dict[str, Any]:
    """Everything of the config but the shape, which the other library states itself; for turns, also in words."""
    facts = config.model_dump(mode="json", exclude=set(_SHAPE))
    if config.unit == "turn":
        facts |= {"pool": "mean", "note": TURN_WORDS}
    return facts


def facts_to_config(facts: Fields, architecture: str) -> dict[str, Any]:
    """Fields of SAEConfig from such facts; empty when there are none. Raises IntegrityError for what is none of ours.

    The architecture they name stands unless it contradicts the file's own: a rule by threshold is not one by rank.
    """
    if not facts.values:
        return {}
    fields = {name: value for name, value in facts.values.items() if name not in ("pool", "note")}
    if (fields.get("architecture") == "topk") != (architecture == "topk"):
        raise facts.refuse("the facts under 'turnscope' name another architecture than the file itself")
    try:
        SAEConfig.model_validate({**fields, "d_model": 1, "n_features": 1})
    except ConfigError as error:
        raise IntegrityError(
            f"{facts.where.name} is refused: the facts under 'turnscope' are not ours: {error.what}",
            where=str(facts.where),
        ) from error
    if fields.keys() & set(_SHAPE):
        raise facts.refuse("the facts under 'turnscope' state a shape")
    return fields
