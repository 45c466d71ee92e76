"""`turnscope monitor`: new, fit, run, drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from turnscope.artifacts.errors import ConfigError
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


@monitor.command
def new(
    index: Path, /, *, rule: _Words, out: Path, name: str = "", description: str = "",
    roles: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("assistant",),
    activations: Path | None = None, transcripts: Path | None = None,
) -> None:  # fmt: skip
    """Write a monitor from a rule, as it stands: without labels nothing is known of how often it errs.

    Example: turnscope monitor new runs/mine/features/turn --rule '"polite refusal" > p90 & turn > 2' --out polite.toml

    Parameters
    ----------
    index
        The feature index whose features are meant.
    rule
        A query over features, role, turn and tokens (docs/query.md).
    out
        The monitor, a TOML file.
    name
        The monitor's name; that of the file when not given.
    description
        What it is for.
    roles
        Whose turns it looks at.
    activations
        Those of the index, where they do not lie in its run folder.
    transcripts
        Those of the index, where they do not lie in its run folder.
    """
    from turnscope.artifacts.text import visible
    from turnscope.audit.monitors.fit import new as write_new
    from turnscope.audit.monitors.fit import require_fresh

    require_fresh(out)
    made = write_new(
        index, rule, out, name=name, description=description, roles=roles, activations=activations,
        transcripts=transcripts,
    )  # fmt: skip
    assert made.rule is not None
    assert made.reference is not None
    print(visible(f"{out}: {made.rule.query}"))
    print(f"alerts on {made.reference.n_alerts:,} of {made.reference.n_turns:,} turns of the index")


@monitor.command
def run(
    monitor_file: Path, /, *files: Path, index: Path | None = None, sae: Path | None = None, model: str = "",
    out: Path | None = None,
    splits: Annotated[
        tuple[Literal["train", "explain", "eval", "locked"], ...], Parameter(consume_multiple=True)
    ] = ("train", "explain", "eval"),
    chat_format: str | None = None, allow_bad_lines: bool = False,
    too_long: Literal["skip", "window", "truncate-left"] | None = None, batch_tokens: int | None = None,
    block_turns: int | None = None, characters: int = 4000, limit: int = 20,
    output_format: Annotated[Literal["list", "jsonl"] | None, Parameter(name="--format")] = None,
    transcripts: Path | None = None, device: str = "cpu", trust_remote_code: bool = False,
) -> None:  # fmt: skip
    """Look for alerts in chats, or in an index, and show each with its evidence.

    Example: turnscope monitor run refusal.toml chats.jsonl --sae runs/mine/saes/turn --model
    Qwen/Qwen2.5-0.5B-Instruct --out runs/mine/monitors/refusal

    Example: turnscope monitor run refusal.toml --index runs/mine/features/turn

    Example: tail -f chats.jsonl | turnscope monitor run refusal.toml - --sae runs/mine/saes/turn --model
    Qwen/Qwen2.5-0.5B-Instruct

    Stopped? With --out, run the same command again: it goes on after the last finished block.

    Parameters
    ----------
    monitor_file
        The monitor (turnscope monitor fit).
    files
        Chat files or folders in any known format; - for JSON lines on standard input, whose alerts are printed as JSON
        lines at once.
    index
        Look through an index instead; no model is run.
    sae
        The monitor's dictionary.
    model
        The model whose activations it reads: folder, hub name, or minilm.
    out
        Folder of the result: alerts.jsonl and summary.json.
    splits
        With an index: turns of these splits.
    chat_format
        Format of the chats; told from the first record when not given.
    allow_bad_lines
        Skip and count lines that cannot be read, however many.
    too_long
        Conversations longer than the model's context: skip, window, or truncate-left.
    batch_tokens
        Most tokens in a batch of the model.
    block_turns
        Turns held at a time: the unit of memory and of going on.
    characters
        Most characters of a turn that an alert quotes.
    limit
        Alerts shown; all of them are written.
    output_format
        list or jsonl; of standard input jsonl when not given.
    transcripts
        Those of the index, where they do not lie in its run folder.
    device
        Device of the model.
    trust_remote_code
        Run code that ships with the model.
    """
    import sys

    from turnscope.artifacts.text import visible
    from turnscope.audit.config import MonitorRunConfig
    from turnscope.audit.monitors.run import line_of
    from turnscope.audit.monitors.run import run as run_monitor
    from turnscope.cli._monitor_view import print_alert

    if limit < 0:
        raise ConfigError(f"limit must be 0 or more, not {limit}")
    form = output_format or ("jsonl" if files == (Path("-"),) else "list")
    shown = 0

    def show(alert: dict[str, object]) -> None:
        nonlocal shown
        shown += 1
        if form == "jsonl":
            print(line_of(alert), end="", flush=True)
        elif shown <= limit:
            print_alert(alert)

    result = run_monitor(
        MonitorRunConfig(
            monitor=monitor_file, files=files, index=index, sae=sae, model=model, out=out, splits=splits,
            chat_format=chat_format, allow_bad_lines=allow_bad_lines, too_long=too_long, batch_tokens=batch_tokens,
            block_turns=block_turns, characters=characters, transcripts=transcripts, device=device,
            trust_remote_code=trust_remote_code,
        ),
        show,
    )  # fmt: skip
    for notice in result.notices:
        print(f"note: {visible(notice)}", file=sys.stderr)
    counts = result.counts
    rest = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()) if name.startswith(("dropped", "bad_lines")))
    print(
        f"{counts['alerts']:,} alerts on {counts.get('turns_scored', 0):,} turns of "
        f"{counts.get('conversations', 0):,} conversations, {result.turns_per_second:,.0f} turns/s"
        + (f"; {rest}" if rest else "") + (f"; {result.path}" if result.path else ""),
        file=sys.stderr,
    )  # fmt: skip


@monitor.command
def drift(
    monitor_file: Path, index: Path, /, *, where: _Words = "",
    splits: Annotated[
        tuple[Literal["train", "explain", "eval", "locked"], ...], Parameter(consume_multiple=True)
    ] = ("train", "explain", "eval"),
    out: Path | None = None, transcripts: Path | None = None, seed: int = 0, json: bool = False,
) -> None:  # fmt: skip
    """Hold turns against those that a monitor was calibrated on: its alerts, its features, its scores.

    Example: turnscope monitor drift refusal.toml runs/july/features/turn

    Parameters
    ----------
    monitor_file
        The monitor (turnscope monitor fit).
    index
        An index of the turns to look at, under the monitor's dictionary.
    where
        Query of the turns that count; all of the monitor's roles when not given.
    splits
        Turns of these splits.
    out
        JSON file that receives the report.
    transcripts
        Those of the index, where they do not lie in its run folder.
    seed
        Of the intervals.
    json
        Print the report as JSON.
    """
    from turnscope.audit.config import MonitorDriftConfig
    from turnscope.audit.monitors.drift import as_plain
    from turnscope.audit.monitors.drift import run as run_drift
    from turnscope.cli._monitor_view import print_drift

    result = run_drift(
        MonitorDriftConfig(
            monitor=monitor_file, index=index, where=where, splits=splits, out=out, transcripts=transcripts, seed=seed
        )
    )
    if json:
        return print_json(as_plain(result))
    print_drift(result)
    return None
