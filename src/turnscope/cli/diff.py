"""`turnscope diff`: which features rose or fell between two models on the same conversations."""

from __future__ import annotations

import json as jsonlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible

if TYPE_CHECKING:
    from turnscope.audit.difference import DiffResult

_PECULIAR = 0.001  # largest p of a phrase that is shown
_WORDS = 160  # characters of a turn that the table shows


def diff(
    before: Path, after: Path, /, *, sae: Path | None = None, transcripts: Path | None = None, out: Path | None = None,
    splits: Annotated[tuple[Literal["train", "explain", "eval", "locked"], ...], Parameter(consume_multiple=True)] = (
        "train", "explain", "eval",
    ),
    by: float = 1.0, margin: float = 0.01, fdr: float = 0.05, fall: float = 0.2, min_conversations: int = 10,
    n_boot: int = 1000, seed: int = 0, limit: int = 20, turns: int = 2,
    output_format: Annotated[Literal["table", "jsonl"], Parameter(name="--format")] = "table",
) -> None:  # fmt: skip
    """The same conversations through two models: which features rose or fell, and on which turns (docs/diff.md).

    Example: turnscope diff runs/base runs/tuned

    Example: turnscope diff read/base/resid.3 read/tuned/resid.3 --sae runs/demo/saes/turn
    --transcripts read/transcripts --out read/diff

    Stopped? Run the same command again: it goes on after the last finished block of turns.

    Parameters
    ----------
    before
        The first model: its run folder, or its activations.
    after
        The second model, harvested from the same transcripts.
    sae
        The one dictionary that both are read under; saes/turn of the first run folder when not given.
    transcripts
        What both were harvested from; transcripts of the first run folder when not given.
    out
        Folder of the result; contrasts/diff-NAME in the first run folder when not given.
    splits
        Turns that are compared. The locked ones are left out unless named.
    by
        A feature has come on, or gone out, where its value moved by more than so many times its typical one.
    margin
        Claim a change only where the share of turns on which it came on, less that where it went out, is beyond this.
    fdr
        False discovery rate at which changes are claimed.
    fall
        Leave out turns on which the dictionary explains so much less of the second model, as a share of the first.
    min_conversations
        A feature active in fewer gets no test.
    n_boot
        Resamples of conversations behind the intervals.
    seed
        Of the resamples.
    limit
        Features that are printed.
    turns
        Turns that are printed of each.
    output_format
        table or jsonl (all features).
    """
    from turnscope.audit.config import DiffConfig
    from turnscope.audit.difference import run

    config = DiffConfig(
        before=before, after=after, sae=sae or _beside(before, "saes/turn", "--sae"),
        transcripts=transcripts or _beside(before, "transcripts", "--transcripts"),
        out=out or _beside(before, "", "--out") / "contrasts" / f"diff-{after.resolve().name}",
        splits=splits, by=by, margin=margin, fdr=fdr, fall=fall, min_conversations=min_conversations, n_boot=n_boot,
        seed=seed,
    )  # fmt: skip
    result = run(config)
    if output_format == "jsonl":
        for row in result.features.to_pylist():
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            print(jsonlib.dumps(plain, allow_nan=False))
    else:
        _print_table(result, limit, turns)
    _tell(result)


def _beside(run: Path, name: str, option: str) -> Path:
    """Something in the first run folder. ConfigError where it is none."""
    if not (run / "activations").is_dir() or (name and not (run / name).is_dir()):
        raise ConfigError(f"{option} is not given and not in the first run folder", where=run, fix=f"name it: {option}")
    return run / name if name else run


def _print_table(result: DiffResult, limit: int, turns: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from turnscope.cli._spans_view import console

    table = Table(box=None, pad_edge=False)
    for name in ("feature", "net", "95 %", "q", "came on", "went out", "effect", "turns"):
        table.add_column(name, justify="left" if name == "turns" else "right", overflow="fold")
    shown = [row for row in result.features.slice(0, limit).to_pylist() if not row["withheld"]]
    examples: dict[int, list[dict[str, Any]]] = {}
    for row in result.turns.to_pylist():
        examples.setdefault(row["feature"], []).append(row)
    words: dict[int, list[str]] = {}
    for row in result.before.to_pylist():
        if row["p"] <= _PECULIAR:
            counts = f"{row['changed']} of {row['of_changed']}, elsewhere {row['others']} of {row['of_others']}"
            words.setdefault(row["feature"], []).append(f'before: "{visible(row["phrase"])}" in {counts}')
    for row in shown:
        cells = [
            f"F{row['feature']}" + ("*" if row["claimed"] else ""), f"{row['net']:+.2%}",
            f"{row['net_low']:+.2%} {row['net_high']:+.2%}", f"{row['q']:.2g}", f"{row['came_on']:.2%}",
            f"{row['went_out']:.2%}", f"{row['effect']:+.3f}",
        ]  # fmt: skip
        said = [_turn(turn) for turn in examples.get(row["feature"], [])[:turns]]
        said += words.get(row["feature"], [])[:turns]
        table.add_row(*map(Text, (*cells, "\n".join(said))))
    console().print(table)


def _turn(turn: dict[str, Any]) -> str:
    def cut(text: str) -> str:
        return visible(text if len(text) <= _WORDS else text[:_WORDS] + "…")

    place = f"{turn['conversation_id']}:{turn['turn']} {turn['role']} {turn['before']:.2f} > {turn['after']:.2f}"
    last = f" [{cut(turn['previous'])}]" if turn["previous"] else ""
    return f"{visible(place)}{last} {cut(turn['text'])}"


def _tell(result: DiffResult) -> None:
    facts, counts = result.facts, result.facts["counts"]
    explained = facts["variance_explained"]
    lines = [
        f"{counts['features.claimed']:,} of {counts['features.tested']:,} tested features came on or went out on over "
        f"{facts['margin']:.1%} of turns, net, at FDR {facts['fdr']:g} (marked *); median |effect| "
        f"{_number(facts['median_effect'])}",
        f"{counts['turns.kept']:,} of {counts['turns']:,} turns in {counts['conversations']:,} conversations; "
        f"{counts['turns.withheld']:,} left out: there the dictionary explains over {facts['fall']:.0%} less of the "
        "second model",
        f"variance explained: {explained['before']:.3f} of the first model, {explained['after']:.3f} of the second",
        *(f"note: {note}" for note in facts["notes"]),
        f"result: {result.artifact.path}",
    ]
    for line in lines:
        print(visible(line), file=sys.stderr)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
