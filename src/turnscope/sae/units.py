"""What a dictionary's rows are, in words, and the warning when it is given rows of another kind."""

from __future__ import annotations

import warnings

from turnscope.sae.config import SAEConfig, Unit

TURN_WORDS = (
    "Trained on turn means: the average of the residual stream over the tokens of one turn of a conversation. "
    "Its codes of single tokens are not what its features were learned for."
)
_TOKEN_WORDS = "Trained on single tokens. Its codes of turn means are not what its features were learned for."
_warned: set[str] = set()


class UnitWarning(UserWarning):
    """A dictionary reads rows of a kind that it was not trained on."""


def warn_of_other_rows(config: SAEConfig, rows: Unit) -> None:
    """Warn, once for each dictionary, when `rows` are not what it was trained on."""
    key = config.model_dump_json()
    if rows == config.unit or key in _warned:
        return
    _warned.add(key)
    words = TURN_WORDS if config.unit == "turn" else _TOKEN_WORDS
    warnings.warn(f"this dictionary is given {rows} rows. {words}", UnitWarning, stacklevel=3)
