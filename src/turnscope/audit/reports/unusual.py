"""Which features tell the turns of the file from the baseline's, each with an interval that allows for the choice.

Every feature is tested by conversation and corrected for by Benjamini and Hochberg (audit/separation.py). Of those that
differ a few are shown, and what is shown was chosen on the turns that it is measured on. Intervals are therefore at the
level 1 - fdr x shown / tested (Benjamini and Yekutieli 2005: of intervals made so for chosen figures, at most the share
fdr is expected to miss), on the logit of the AUROC, with the bootstrap error by conversation.

Legend: N turns of both, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from turnscope.audit.confounds import LABELS, Confound, auroc_within, confounds, together
from turnscope.audit.reports.together import Together
from turnscope.audit.separation import Separation
from turnscope.features.query.columns import TurnColumns
from turnscope.features.store import FeatureIndex
from turnscope.stats import Estimate, Withheld, auroc_ci

Ints = NDArray[np.int64]
SAME = 0.8
"""A feature that fires on so much the same turns as one before it (Jaccard, where both are more) is told with it."""
_Z95 = 1.959963984540054
_WORD_F1 = 0.3


def differing(
    both: Together, found: Separation, cluster_N: Ints, *, fdr: float, shown: int, n_boot: int, seed: int
) -> dict[str, Any]:
    """The features that differ: counts, and the first few by distance of the AUROC from one half."""
    claimed = found.discoveries(fdr)
    order = claimed[np.argsort(-np.abs(found.auroc_F[claimed] - 0.5), kind="stable")]
    groups = _told_together(both, order, found, shown)
    level = 1 - fdr * len(groups) / max(1, found.n_tested)
    alike = _alike(both)
    rows = [_row(both, found, cluster_N, lead, rest, alike, level, n_boot, seed) for lead, rest in groups]
    return {
        "withheld": _why(found), "tested": found.n_tested, "of": both.n_features, "fdr": fdr,
        "differ": len(claimed), "more": int((found.auroc_F[claimed] > 0.5).sum()), "level": level,
        "alike_in": [] if alike is None else alike[1], "features": rows,
    }  # fmt: skip


def _why(found: Separation) -> str:
    """Why nothing is tested, or an empty string."""
    if found.withheld:
        return found.withheld.replace("set A", "the file").replace("set B", "the baseline")
    return "" if found.n_tested else "no feature fires in enough conversations"


def _told_together(both: Together, order: Ints, found: Separation, most: int) -> list[tuple[int, list[int]]]:
    """Features in order, each with later ones that fire on mostly the same turns and differ in the same direction."""
    groups: list[tuple[int, list[int]]] = []
    fires: list[NDArray[np.bool_]] = []
    for feature in order.tolist()[: 20 * most]:
        mine_N = (both.values(feature) > 0) & (both.is_file_N == (found.auroc_F[feature] > 0.5))
        for (lead, rest), other_N in zip(groups, fires, strict=True):
            both_ways = (found.auroc_F[lead] > 0.5) == (found.auroc_F[feature] > 0.5)
            if both_ways and (mine_N & other_N).sum() >= SAME * (mine_N | other_N).sum():
                rest.append(feature)
                break
        else:
            if len(groups) < most:
                groups.append((feature, []))
                fires.append(mine_N)
    return groups


def _alike(both: Together) -> tuple[Confound, list[str]] | None:
    """Turns alike in role, position, length, language and script at once, as far as these vary."""
    asked = frozenset({"source", *LABELS}) - {"language"}  # the source is another by its file alone
    columns = TurnColumns(both.turns)
    if "language" in columns.fields and not _told_on_both_sides(both, columns.field("language").code_N):
        asked |= {"language"}
    each = confounds(columns, np.arange(both.n_turns), (), asked)
    whole = together(each, least=1)
    return None if whole is None else (whole, [one.name for one in each])


def _told_on_both_sides(both: Together, code_N: NDArray[Any]) -> bool:
    return bool((code_N[: both.n_file] >= 0).any() and (code_N[both.n_file :] >= 0).any())


def _row(
    both: Together, found: Separation, cluster_N: Ints, feature: int, rest: list[int],
    alike: tuple[Confound, list[str]] | None, level: float, n_boot: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    values_N, more = both.values(feature), bool(found.auroc_F[feature] > 0.5)
    side_N = both.is_file_N if more else ~both.is_file_N
    estimate = auroc_ci(values_N, side_N, cluster_N, n_boot=n_boot, seed=seed)
    fires_N = values_N > 0
    row: dict[str, Any] = {
        "feature": feature, "same_turns": rest, "more_in": "file" if more else "baseline",
        "auroc": float(found.auroc_F[feature] if more else 1 - found.auroc_F[feature]),
        "ci": None if isinstance(estimate, Withheld) else list(chosen_interval(estimate, level)),
        "effect": _finite(found.effect_F[feature]), "p": float(found.p_F[feature]), "q": float(found.q_F[feature]),
        "file_turns": int((fires_N & both.is_file_N).sum()), "baseline_turns": int((fires_N & ~both.is_file_N).sum()),
        "share_file": float(found.share_a_F[feature]), "share_baseline": float(found.share_b_F[feature]),
        "conversations": int(found.conversations_F[feature]), "evidence": _strongest(both, values_N, more),
    }  # fmt: skip
    if alike is not None:
        within = auroc_within(values_N, side_N, alike[0].stratum_N, cluster_N, n_boot=0)
        row["alike"] = None if isinstance(within, Withheld) else within.value
        row["alike_withheld"] = within.reason if isinstance(within, Withheld) else ""
        row["explained_by_alike"] = isinstance(within, Estimate) and within.value - 0.5 < (row["auroc"] - 0.5) / 2
    return row


def chosen_interval(estimate: Estimate, level: float) -> tuple[float, float]:
    """The interval at another level than 95%: normal on the logit, with the error that the bootstrap found.

    >>> low, high = chosen_interval(Estimate(0.8, 0.7, 0.87, 50, 50, 50), 0.95)
    >>> round(low, 2), round(high, 2)
    (0.7, 0.87)
    """
    low, middle, high = (_logit(each) for each in (estimate.low, estimate.value, estimate.high))
    times = float(norm.isf((1 - level) / 2)) / _Z95
    return _expit(middle - times * (middle - low)), _expit(middle + times * (high - middle))


def _logit(share: float) -> float:
    share = min(max(share, 1e-9), 1 - 1e-9)
    return math.log(share / (1 - share))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _strongest(both: Together, values_N: NDArray[np.float32], in_file: bool) -> list[dict[str, Any]]:
    """The turn on which it is strongest, of the file or, where it is rarer there, of the baseline."""
    mine = np.flatnonzero((both.is_file_N == in_file) & (values_N > 0))
    if not len(mine):
        return []
    best = int(mine[np.argmax(values_N[mine])])
    row = best if in_file else int(both.rows[best - both.n_file])
    return [{"of": "file" if in_file else "baseline", "row": row, "value": float(values_N[best])}]


def named(index: FeatureIndex, features: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What is said of some features: an explanation, else the word that tells best when it fires, if one does well."""
    wanted = set(features)
    table = index.explanations()
    said = {
        feature: text
        for feature, text in zip(table["feature"].to_pylist(), table["text"].to_pylist(), strict=True)
        if feature in wanted and text
    }
    return {feature: {"explanation": said.get(feature, ""), **_word(index, feature)} for feature in wanted}


def _word(index: FeatureIndex, feature: int) -> Mapping[str, Any]:
    rows = [row for row in index.words(feature).to_pylist() if row["kind"] in ("word", "pair") and row["f1"]]
    best = max(rows, key=lambda row: row["f1"], default=None)
    if best is not None and best["f1"] < max(_WORD_F1, 2 * (best["f1_shuffled"] or 0)):
        best = None
    return {"word": "", "word_f1": None} if best is None else {"word": best["word"], "word_f1": float(best["f1"])}
