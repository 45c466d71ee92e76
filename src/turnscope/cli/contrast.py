"""`turnscope contrast`: which features tell one set of turns from another."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from turnscope.artifacts.text import visible

if TYPE_CHECKING:
    from turnscope.audit.contrast import ContrastResult

Split = Literal["train", "explain", "eval", "locked"]
Splits = Annotated[tuple[Split, ...], Parameter(consume_multiple=True)]
_WORDS = 160  # characters of a turn that is shown


def contrast(
    index: Path, /, *, a: Annotated[str, Parameter(allow_leading_hyphen=True)],
    b: Annotated[str, Parameter(allow_leading_hyphen=True)] = "", out: Path | None = None,
    transcripts: Path | None = None, top: int = 10, examples: int = 3, least: float = 0.7, fdr: float = 0.05,
    confounds: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    choose_on: Splits = ("explain",), judge_on: Splits = ("eval",),
    divide: Literal["auto", "splits", "halves"] = "auto", most: int = 20_000, n_boot: int = 500, seed: int = 0,
    text: bool = True,
    output_format: Annotated[Literal["table", "jsonl", "json"], Parameter(name="--format")] = "table",
) -> None:  # fmt: skip
    """Find the features that tell one set of turns from another, and what speaks against them (docs/contrast.md).

    Features are chosen on some conversations and judged on others. Put queries in single quotes.

    Example: turnscope contrast runs/mine/features/turn --a 'refused = true & role = assistant'
    --b 'refused = false & role = assistant'

    Example: turnscope contrast runs/mine/features/turn --a 'topic = law' --out runs/mine/contrasts/law

    Parameters
    ----------
    index
        A feature index (turnscope index).
    a
        Query for the turns of A (docs/query.md).
    b
        Query for the turns of B; when not given, all other turns of the roles and splits that A has.
    out
        Keep the result as an artifact here: contrasts/NAME in a run folder.
    transcripts
        Those that the index was made from, where they do not lie in the same run folder.
    top
        Features chosen in each direction.
    examples
        Counter-examples of each kind for a feature.
    least
        Held-out AUROC from which on a feature is said to tell A from B.
    fdr
        Expected share of false ones among the features said to differ.
    confounds
        Further fields and labels to check, beside length, position, role, language, script, source and topic.
    choose_on
        Splits on which features are chosen.
    judge_on
        Splits on which they are judged.
    divide
        By these splits, or by halves of the conversations; auto takes halves where a split has too few.
    most
        Turns of each set that are read to choose, and to judge.
    n_boot
        Resamples behind each interval.
    seed
        Of what is drawn at random.
    text
        Show the words of counter-examples.
    output_format
        table; jsonl, a line for each feature; json, the whole report.
    """
    from turnscope.audit.config import ContrastConfig
    from turnscope.audit.contrast import run

    result = run(
        ContrastConfig(
            index=index, a=a, b=b, out=out, transcripts=transcripts, top=top, examples=examples, least=least, fdr=fdr,
            confounds=confounds, choose_on=choose_on, judge_on=judge_on, divide=divide, most=most, n_boot=n_boot,
            seed=seed,
        )
    )  # fmt: skip
    for notice in result.report["notices"]:
        print(f"note: {visible(notice)}", file=sys.stderr)
    try:
        if output_format == "json":
            print(json.dumps(result.report, indent=1, allow_nan=False))
        elif output_format == "jsonl":
            for row in result.features:
                print(json.dumps(row, allow_nan=False))
            print(visible(result.verdict), file=sys.stderr)
        else:
            _show(result, text=text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if result.artifact is not None:
        print(f"kept in {result.artifact.path}", file=sys.stderr)


def _show(result: ContrastResult, *, text: bool) -> None:
    report = result.report
    print(visible(result.verdict))
    print()
    for name in ("a", "b"):
        each = report[name]
        turns, conversations = each["turns"], each["conversations"]
        print(
            f"{name.upper()}: {visible(each['query'])}\n   {turns['all']:,} turns; chosen on {turns['choose']:,} in "
            f"{conversations['choose']:,} conversations, judged on {turns['judge']:,} in {conversations['judge']:,}"
        )
    print(f"chosen on {report['chosen_on']}, judged on {report['judged_on']}")
    for side, title in (("a", "more in A"), ("b", "more in B")):
        rows = [row for row in result.features if row["up_in"] == side]
        if rows:
            print(f"\n{title}")
            _features(rows)
    if report["together"]:
        each = report["together"]
        print(f"\nall {each['features']} together: AUROC {_short(each['auroc'])} {_interval(each['ci'])}", end="")
        print(f"; among turns alike {_short(each['alike'])}" if each["alike"] else "")
    if report["confounds"]:
        _confounds(report["confounds"], result.features)
    if text and result.features:
        _counter_examples(result.features)


def _features(rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from turnscope.cli._spans_view import console

    table = _table("feature", "AUROC", "95%", "q", "fires A", "fires B", "effect", "alike", "", "explanation")
    for row in rows:
        mark = "separates" if row["separates"] else "differs" if row["differs"] else ""
        if row["confounded_by"] and row["differs"]:
            mark += f" ({row['confounded_by'][0]}?)"
        cells = [
            f"F{row['feature']}", _short(row["auroc"]), _interval(row["ci"]), _p(row["q"]), f"{row['share_a']:.0%}",
            f"{row['share_b']:.0%}", "" if row["effect"] is None else f"{row['effect']:+.2f}",
            _short(row["alike"]), mark, row["explanation"],
        ]  # fmt: skip
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console().print(table)


def _confounds(confounds: list[dict[str, Any]], features: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from turnscope.cli._spans_view import console

    best = max(features, key=lambda row: row["auroc"], default=None)
    print("\nwhat else tells A from B, by itself" + (f"; F{best['feature']} among turns alike in it" if best else ""))
    table = _table("", "AUROC", "95%", f"F{best['feature']}" if best else "", "95% ")
    within = {each["name"]: each for each in best["within"]} if best else {}
    for each in confounds:
        mine = within.get(each["name"], {})
        cells = [each["name"], _short(each["auroc"]), _interval(each["ci"])]
        cells += [_short(mine.get("auroc")), _interval(mine.get("ci"))] if mine.get("auroc") else ["", "no equals"]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console().print(table)


def _counter_examples(features: list[dict[str, Any]]) -> None:
    for side in ("a", "b"):
        first = next((row for row in features if row["up_in"] == side), None)
        if first is None:
            continue
        mine, other = ("A", "B") if side == "a" else ("B", "A")
        print(f"\nagainst F{first['feature']} (more in {mine})")
        for key, what in (("against", f"fires, in {other}"), ("silent", f"silent, in {mine}")):
            for each in first[key]:
                value = f" {each['value']:.3g}" if each["value"] else ""
                words = "" if each.get("text") is None else " " + _cut(" ".join(each["text"].split()))
                print(visible(f"  {what}{value}  {each['conversation_id']} {each['turn']}{words}"))


def _table(*names: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        is_word = name in ("", "feature", "explanation", "95%", "95% ")
        table.add_column(Text(name), justify="left" if is_word else "right", overflow="fold")
    return table


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(ci: list[float] | None) -> str:
    return "withheld" if ci is None else f"[{ci[0]:.3f}, {ci[1]:.3f}]"


def _p(value: float | None) -> str:
    return "" if value is None else "<.0001" if value < 1e-4 else f"{value:.4f}"


def _cut(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"
