"""The outcome of an audit in plain sentences. Never more than the figures say; what was withheld is told as such."""

from __future__ import annotations

from typing import Any

from scipy.stats import poisson

from turnscope.audit.verdict import short


def verdict(report: dict[str, Any]) -> list[str]:
    """A sentence each on features, conversations, monitors, reconstruction and blind spots."""
    return [
        _features(report["unusual"]), _conversations(report["unusual"]["surprise"]), *_monitors(report["monitors"]),
        _trust(report["trust"]), _blind(report["traits"]),
    ]  # fmt: skip


def _features(unusual: dict[str, Any]) -> str:
    if unusual["withheld"]:
        return f"Whether features are unusual is withheld: {unusual['withheld']}."
    n, tested = unusual["differ"], f"{unusual['tested']:,} features tested"
    if not n:
        return (
            f"No feature differs from the baseline beyond chance ({tested}, false discovery rate {unusual['fdr']:g})."
        )
    first = unusual["features"][0]
    where = "more" if first["more_in"] == "file" else "less"
    text = f"{n:,} of {tested} differ from the baseline; "
    text += f"the strongest, F{first['feature']}{_named(first)}, fires {where} here (AUROC {short(first['auroc'])})."
    if all(row["auroc"] < 0.6 for row in unusual["features"]):
        text += " All differences are slight: none tells a turn of this file from a usual one."
    explained = [row for row in unusual["features"] if row.get("explained_by_alike")]
    if explained:
        names = ", ".join(unusual["alike_in"])
        text += f" {len(explained)} of the {len(unusual['features'])} shown lose at least half of it "
        text += f"among turns alike in {names}."
    return text


def _conversations(surprise: dict[str, Any]) -> str:
    if surprise["withheld"]:
        return f"Whether conversations are unusual is withheld: {surprise['withheld']}."
    n = surprise["unusual"]
    if surprise["of"] == 1:
        is_unusual = "is unusual" if n else "is not unusual"
        return f"The one conversation {is_unusual} as a whole (p = {surprise['conversations'][0]['p']:.3f})."
    if n:
        return f"{n:,} of {surprise['of']:,} conversations are unusual as a whole."
    return f"None of {surprise['of']:,} conversations is unusual as a whole."


def _monitors(monitors: list[dict[str, Any]]) -> list[str]:
    if not monitors:
        return []
    silent = [each for each in monitors if not each["alerts"]]
    text = " ".join(_alerts(each) for each in monitors if each["alerts"])
    if silent:
        names = ", ".join(each["name"] for each in silent)
        text += f" Silent: {names}." if text else f"Monitors were silent: {names}."
    told = [each for each in silent if each["bound"] is not None]
    if told:
        worst = max(told, key=lambda each: each["bound"])
        text += f" Silence is no proof: {worst['name']} may have missed up to {worst['bound']:.1%} of conversations."
    if len(told) < len(silent):
        text += f" {len(silent) - len(told)} silent without a measured recall: their silence says nothing."
    return [text]


def _alerts(each: dict[str, Any]) -> str:
    text = f"{each['name']}: {each['alerts']:,} alerts in {each['conversations_alerted']:,} of "
    text += f"{each['conversations']:,} conversations"
    expected = each["false_alerts_expected"]
    if expected is None:
        return f"{text}; how many of them are false was never measured."
    if each["alerts"] <= poisson.ppf(0.975, expected):
        return f"{text}, about as many as false alarms make ({expected:.1f} expected)."
    return f"{text} ({expected:.1f} false ones expected)."


def _trust(trust: dict[str, Any]) -> str:
    if trust["withheld"]:
        return f"How well the dictionary reads these turns is withheld: {trust['withheld']}."
    text = (
        f"The dictionary explains {_share(trust['explained_file'])} of the variance of these turns, "
        f"{_share(trust['explained_baseline'])} of the baseline's; {trust['worse']:,} of {trust['of']:,} turns "
        f"({trust['share_worse']:.1%}, 5% expected) are rebuilt worse than 95% of the baseline."
    )
    if trust["explained_baseline"] <= 0:
        return f"{text} It reads neither: it is likely of another model, site or scale, and nothing above means much."
    low = None if trust["ci"] is None else trust["ci"][0]
    if (low is not None and low > 0.1) or trust["explained_file"] < 0.8 * trust["explained_baseline"]:
        text += " It reads them worse than usual: what is not found here may still be there."
    return text


def _blind(traits: list[dict[str, Any]]) -> str:
    blind = sum(not row["trusted"] for row in traits)
    return f"For {blind} of {len(traits)} known traits no feature is trusted: this audit could not look for them."


def _named(row: dict[str, Any]) -> str:
    said = row.get("explanation") or ""
    return f" ({said[:80]})" if said else ""


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0 else "less than nothing"
