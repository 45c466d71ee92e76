"""The outcome of a contrast in plain sentences, the bad news first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnscope.audit.confounds import TOGETHER

_OUTDONE = " does alone ("
_TELLING = 0.7  # a confound that reaches this by itself is told


def verdict(report: dict[str, Any]) -> str:
    """What the figures come to. Never more than they say: a difference of averages is not called a separation."""
    if report.get("withheld"):
        return f"No figures: {report['withheld']}."
    rows: list[dict[str, Any]] = report["features"]
    sentences = [_main(report, rows)]
    best = max(rows, key=lambda row: row["auroc"], default=None)
    if _OUTDONE not in sentences[0]:
        sentences += _confounding(report["confounds"], best)
    return " ".join(sentences)


def _main(report: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "No feature separates A from B: none fires in enough conversations to be tried."
    found = [row for row in rows if row["separates"]]
    alone = [row for row in found if not row["confounded_by"]]
    if alone:
        # the first by the turns they were chosen on: the best of several on judged turns would flatter itself
        first = max(alone, key=lambda row: row["chosen_auroc"])
        many = f"{len(alone)} features separate" if len(alone) > 1 else "One feature separates"
        they = "they were" if len(alone) > 1 else "it was"
        return f"{many} A from B on turns {they} not chosen on; first {_said(first)}."
    return f"{_no_single(report, rows, found)} {_several(report['together'])}".strip()


def _no_single(report: dict[str, Any], rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    if found:
        first = max(found, key=lambda row: row["chosen_auroc"])
        alone = {each["name"]: each["auroc"] for each in report["confounds"] if each["auroc"] is not None}
        single = [name for name in first["confounded_by"] if name != TOGETHER and alone.get(name, 0) >= first["auroc"]]
        best = max(single or first["confounded_by"], key=lambda name: alone.get(name, 0.0))
        if alone.get(best, 0.0) >= first["auroc"]:
            return (
                f"No feature separates A from B better than {_named([best])}{_OUTDONE}{short(alone[best])}): "
                f"first {_said(first)}."
            )
        names = _named(first["confounded_by"])
        among = min(each["auroc"] for each in first["within"] if each["explains"])
        return (
            f"No feature separates A from B by more than {names}: the first, {_said(first)}, reaches {short(among)} "
            f"among turns that are alike in this."
        )
    best = max(rows, key=lambda row: row["auroc"])
    text = f"No feature separates A from B: best {_said(best)}, {short(report['least'])} asked for."
    weak = sum(1 for row in rows if row["differs"])
    if weak:
        text += f" {weak} of the {len(rows)} tried fire more on one side, too little to tell one turn from another."
    elif report["differ"] == 0:
        text += " Nothing differs more than two random halves would."
    return text


def _several(row: dict[str, Any] | None) -> str:
    """What the features tried reach together."""
    if row is None or row["auroc"] is None:
        return ""
    figure = f"AUROC {short(row['auroc'])}{_interval(row)}"
    if not row["separates"]:
        return f"Nor do the {row['features']} tried together: {figure}."
    if row["confounded_by"]:
        names = _named(row["confounded_by"])
        return f"The {row['features']} tried reach {figure} together, no more than {names} can explain."
    return f"The {row['features']} tried do separate them together: {figure}."


def _confounding(confounds: Sequence[dict[str, Any]], best: dict[str, Any] | None) -> list[str]:
    telling = [each for each in confounds if each["auroc"] is not None and each["auroc"] >= _TELLING]
    if not telling or best is None:
        return []
    each = max(telling, key=lambda one: one["auroc"])
    more = "more than any feature" if each["auroc"] > best["auroc"] else "too"
    return [f"A and B differ in other things: {_named([each['name']])} alone reaches {short(each['auroc'])}, {more}."]


def _named(names: Sequence[str]) -> str:
    """Confounds by name; all at once only where no single one is named."""
    single = [name for name in names if name != TOGETHER]
    return " and ".join(single[:3]) or "length, position and the like together"


def _said(row: dict[str, Any]) -> str:
    figure = f"AUROC held out {short(row['auroc'])}{_interval(row)}"
    return f"F{row['feature']} (up in {row['up_in'].upper()}), {figure}"


def _interval(row: dict[str, Any]) -> str:
    return f" [{short(row['ci'][0])}, {short(row['ci'][1])}]" if row.get("ci") else ""


def short(value: float) -> str:
    """Two digits, .87 rather than 0.87; 1 only when it is one."""
    text = f"{min(value, 0.99) if value < 1 else value:.2f}"
    return text.removeprefix("0") if value < 1 else "1"
