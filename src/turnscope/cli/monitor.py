"""`turnscope monitor`: new, fit, run, drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from turnscope.cli._output import print_json

monitor = App(
    name="monitor",
    help="""Watch for a behaviour: a rule or a sparse probe over features, calibrated, run on chats, watched for drift.

Example: turnscope monitor fit runs/mine/features/turn --positive 'refused = true' --negative 'refused = false'
--fpr 0.01 --out refusal.toml""",
    help_format="plaintext",
)
_Words = Annotated[str, Parameter(allow_leading_hyphen=True)]
_Features = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


@monitor.command
def fit(
    index: Path, /, *, positive: _Words, negative: _Words, out: Path, rule: _Words = "", features: _Features = (),
    k: int = 5, fpr: float = 0.01, name: str = "", description: str = "",
    splits: Annotated[tuple[Literal["train", "explain"], ...], Parameter(consume_multiple=True)] = ("train", "explain"),
    other: _Words = "", other_positive: _Words = "", other_negative: _Words = "", other_index: Path | None = None,
    locked: bool = False, baselines: bool = True, activations: Path | None = None, transcripts: Path | None = None,
    other_activations: Path | None = None, other_transcripts: Path | None = None, most_turns: int = 50_000,
    seed: int = 0, json: bool = False,
) -> None:  # fmt: skip
    """Calibrate a monitor on labelled turns, and set it beside four baselines at the same false-positive rate.

    Example: turnscope monitor fit runs/mine/features/turn --positive 'answer = wrong' --negative 'answer = right'
    --fpr 0.05 --out wrong.toml

    Example: turnscope monitor fit runs/mine/features/turn --rule 'F12 > 0.4 & role = assistant' --positive
    'refused = true' --negative 'refused = false' --other 'source = "other set"' --out refusal.toml

    Parameters
    ----------
    index
        A feature index (turnscope index) whose turns carry labels.
    positive
        Query of the turns that should raise an alert (docs/query.md).
    negative
        Query of the turns that should not.
    out
        The monitor, a TOML file; the table goes beside it as NAME.report.json.
    rule
        A rule whose thresholds are raised or lowered together; without one a sparse probe is fitted.
    features
        The probe's features, as F12 or "words of an explanation"; chosen when not given.
    k
        How many features are chosen.
    fpr
        The false-positive rate that the threshold is set for.
    name
        The monitor's name; that of the file when not given.
    description
        What it is for.
    splits
        Turns to fit and calibrate on.
    other
        Query of another source: its turns are kept from the fit and judged apart.
    other_positive
        What is positive there, where that is another query.
    other_negative
        What is negative there.
    other_index
        An index of the other source under the same dictionary; this one when not given.
    locked
        Look at the locked turns, too. Every look is recorded.
    baselines
        Fit the baselines.
    activations
        Those of the index, where they do not lie in its run folder.
    transcripts
        Those of the index, where they do not lie in its run folder.
    other_activations
        Those of the other index.
    other_transcripts
        Those of the other index.
    most_turns
        Fit and judge on at most about so many turns.
    seed
        Of folds, draws and intervals.
    json
        Print the report as JSON.
    """
    import json as json_

    from turnscope.audit.config import MonitorFitConfig
    from turnscope.audit.monitors.fit import require_fresh, run
    from turnscope.cli._monitor_view import print_fit

    require_fresh(out)
    result = run(
        MonitorFitConfig(
            index=index, positive=positive, negative=negative, out=out, rule=rule, features=features, k=k, fpr=fpr,
            name=name, description=description, splits=splits, other=other, other_positive=other_positive,
            other_negative=other_negative, other_index=other_index, locked=locked, baselines=baselines,
            activations=activations, transcripts=transcripts, other_activations=other_activations,
            other_transcripts=other_transcripts, most_turns=most_turns, seed=seed,
        )
    )  # fmt: skip
    if json:
        return print_json(json_.loads(result.report.read_text(encoding="utf-8")))
    print_fit(result)
    return None
