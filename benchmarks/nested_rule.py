"""The rule of docs/design/nested.md, as it was written down before any form was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SIMPLEST_FIRST = ("N1", "joint", "N2")


class Row(NamedTuple):
    """Figures of one form, means over the seeds."""

    turn_nmse: float
    token_nmse: float
    planted: float
    response: float


class Verdict(NamedTuple):
    """Which form is the default, the forms that were admissible, and how it came about."""

    winner: str
    admissible: tuple[str, ...]
    text: str


def verdict(table: Mapping[str, Row]) -> Verdict:
    """The winner among these forms."""
    best_turn = min(row.turn_nmse for row in table.values())
    best_token = min(row.token_nmse for row in table.values())
    reasons: dict[str, list[str]] = {}
    for form, row in table.items():
        reasons[form] = [
            f"{name} {value:.4f} over 1.1 x {best:.4f}"
            for name, value, best in (
                ("turn nMSE", row.turn_nmse, best_turn), ("token nMSE", row.token_nmse, best_token),
            )
            if value > 1.1 * best
        ]  # fmt: skip
        if not row.response > 1e-3:  # 0 but for rounding
            reasons[form].append("no response")
    admissible = tuple(form for form, why in reasons.items() if not why)
    out = "; ".join(f"{form}: {', '.join(why)}" for form, why in reasons.items() if why)
    if not admissible:
        return Verdict("N1", (), f"no form is admissible ({out}); N1 stays")
    most = max(table[form].planted for form in admissible)
    equal = [form for form in admissible if table[form].planted >= most - 0.01]
    sums = {form: table[form].turn_nmse + table[form].token_nmse for form in equal}
    least = min(sums.values())
    left = [form for form in equal if sums[form] <= 1.02 * least]
    winner = min(left, key=SIMPLEST_FIRST.index)
    text = f"admissible: {', '.join(admissible)}"
    text += f" (not {out})" if out else ""
    text += f"; within .01 of the best recovery: {', '.join(equal)}; of these lowest in error within 2 %: "
    return Verdict(winner, admissible, f"{text}{', '.join(left)}; the default is {winner}")
