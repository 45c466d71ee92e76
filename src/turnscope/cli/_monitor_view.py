"""What `turnscope monitor` prints: tables of figures and alerts, with whatever a chat holds made harmless."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from turnscope.artifacts.text import visible
from turnscope.stats import Estimate, Withheld

if TYPE_CHECKING:
    from turnscope.audit.monitors.contenders import Contender
    from turnscope.audit.monitors.fit import FitResult

_WORDS = 300
_SETS = {"eval": "held out", "other": "another source", "locked": "locked"}


def print_fit(result: FitResult) -> None:
    """The monitor beside the baselines, one table for each set of turns, and what it comes to."""
    assert result.monitor.calibration is not None
    fpr = result.monitor.calibration.fpr
    print(f"fit: {result.sets['fit']}")
    for name, title in _SETS.items():
        if name in result.sets:
            print(f"\n{title}: {result.sets[name]}")
            print_points(result.contenders, name, fpr)
    print()
    for verdict in result.verdicts:
        print(visible(verdict))
    for notice in result.notices:
        print(f"note: {visible(notice)}", file=sys.stderr)
    print(f"{result.path}; report {result.report}", file=sys.stderr)


def print_points(contenders: list[Contender], name: str, fpr: float) -> None:
    """One set of turns: AUROC, recall at the rate set there, and what the threshold set before gives."""
    from turnscope.cli._spans_view import console

    table = _table(["", "AUROC", f"recall at FPR {fpr:g}", "recall as set", "FPR as set", "precision as set"])
    for each in contenders:
        point = each.points.get(name)
        if point is None:
            continue
        if isinstance(point, Withheld):
            table.add_row(each.name, f"withheld: {visible(point.reason)}")
            continue
        figures = (point.auroc, point.recall_here, point.recall, point.fpr, point.precision)
        table.add_row(each.name, *map(_short, figures))
    console().print(table)
    reasons = {
        figure.reason
        for each in contenders
        if (point := each.points.get(name)) is not None and not isinstance(point, Withheld)
        for figure in (point.auroc, point.recall_here, point.recall, point.fpr, point.precision)
        if isinstance(figure, Withheld)
    }
    reasons |= {each.threshold.reason for each in contenders if isinstance(each.threshold, Withheld)}
    for reason in sorted(reasons):
        print(f"  -: {visible(reason)}")


def _short(figure: Estimate | Withheld) -> str:
    if isinstance(figure, Withheld):
        return "-"
    return f"{figure.value:.2f} [{figure.low:.2f},{figure.high:.2f}]"


def print_alerts(alerts: Iterable[Mapping[str, Any]], most: int | None) -> int:
    """Alerts as a list, each with its evidence; how many there were in all."""
    n = 0
    for n, alert in enumerate(alerts, 1):
        if most is not None and n > most:
            continue
        place = f"{alert['conversation_id']} turn {alert['turn']} ({alert['role']})"
        share = alert.get("score_percentile")
        usual = "" if share is None else f", above {share:.4g} % of the reference"
        print(f"{visible(place)}: score {alert['score']:.4g} over {alert['threshold']:.4g}{usual}")
        for each in alert["features"]:
            at = "" if each["percentile"] is None else f" ({each['percentile']:.3g} % of its active turns at or below)"
            said = f"  {each['explanation']}" if each.get("explanation") else ""
            print(f"    F{each['feature']} {each['value']:.4g}{at}{visible(said)}")
        text = alert.get("text")
        if text is not None:
            print(f"    > {visible(text[:_WORDS])}{'…' if len(text) > _WORDS else ''}")
    return n


def _table(names: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    return table
