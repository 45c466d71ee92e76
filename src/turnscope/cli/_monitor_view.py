"""What `turnscope monitor` prints: tables of figures and alerts, with whatever a chat holds made harmless."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from turnscope.artifacts.text import visible
from turnscope.stats import Estimate, Withheld

if TYPE_CHECKING:
    from turnscope.audit.monitors.contenders import Contender
    from turnscope.audit.monitors.drift import DriftResult
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
            mine = result.contenders[0].points[name]
            if not isinstance(mine, Withheld):
                shares = (f"{share:g}: {_short(figure)}" for share, figure in mine.by_prevalence.items())
                print(f"precision of this monitor where the share of positives is {'; '.join(shares)}")
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
        print(f"  withheld (-): {visible(reason)}")


def _short(figure: Estimate | Withheld) -> str:
    if isinstance(figure, Withheld):
        return "-"
    return f"{figure.value:.2f} [{figure.low:.2f},{figure.high:.2f}]"


def print_alert(alert: Mapping[str, Any]) -> None:
    """One alert with its evidence."""
    place = f"{alert['conversation_id']} turn {alert['turn']} ({alert['role']})"
    share = alert.get("score_percentile")
    usual = "" if share is None else f", at {share:.4g} % of the reference"
    print(f"{visible(place)}: score {alert['score']:.4g} over {alert['threshold']:.4g}{usual}")
    for each in alert["features"]:
        at = "" if each["percentile"] is None else f", at {each['percentile']:.3g} % of its active turns"
        said = each.get("explanation") or ""
        print(f"    F{each['feature']} {each['value']:.4g}{at}{'  ' if said else ''}{visible(said)}")
    text = alert.get("text")
    if text is not None:
        print(f"    > {visible(text[:_WORDS])}{'…' if len(text) > _WORDS else ''}")


def print_drift(result: DriftResult) -> None:
    """What has moved, in a table and in words."""
    from turnscope.cli._spans_view import console

    print(
        f"{result.n_turns:,} turns of {result.n_conversations:,} conversations "
        f"against {result.reference_turns:,} turns of the reference"
    )
    gap = f"largest gap {result.ks:.3f} [{result.ks_low:.3f}, {result.ks_high:.3f}]"
    stability = f"PSI {result.psi:.3f} [{result.psi_low:.3f}, {result.psi_high:.3f}]"
    print(f"scores: {stability}, by chance up to {result.psi_chance:.3f}; {gap}: {result.word}")
    table = _table(["share of turns", "now", "reference", "q", ""])
    for each in result.shares:
        name = "with an alert" if each.name == "alerts" else f"with {each.name}"
        now = f"{each.now:.4f} [{each.low:.4f},{each.high:.4f}]"
        table.add_row(name, now, f"{each.reference:.4f}", f"{each.q:.2g}", each.word)
    console().print(table)
    print(visible(result.words))


def _table(names: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    return table
