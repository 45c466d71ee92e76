"""Monitors: `python benchmarks/monitors.py [--demo INDEX] [--data INDEX] [--cases NAME ...] [--json FILE] [--quick]`.

--demo INDEX: the feature index of a finished demo run. Monitors for wrong answers and for refusals are fitted on it.

--data INDEX: an index over the labelled sets that docs/monitors.md names. A monitor for refusals and one for each of
four emotions are fitted on one source and judged on another; one for hallucination has to fail there.

Each stands beside the ridge probe, the mean-difference vector, the sparse probe and TF-IDF at the same false-positive
rate. --quick leaves out the emotions. What is not there is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from turnscope.audit.config import MonitorDriftConfig, MonitorFitConfig, MonitorRunConfig
from turnscope.audit.monitors import drift
from turnscope.audit.monitors.fit import run as fit
from turnscope.audit.monitors.run import run as run_monitor
from turnscope.transcripts.splits import Split

GO, REPE = "github.com/monologg/GoEmotions-pytorch", "github.com/andyzoujm/representation-engineering"
EMOTIONS = {"joy": "happiness", "anger": "anger", "sadness": "sadness", "fear": "fear"}


class Case(NamedTuple):
    """One monitor: where, what is positive and negative, at which rate; and the other source."""

    name: str
    data: str
    positive: str
    negative: str
    fpr: float
    other: str = ""
    other_positive: str = ""
    other_negative: str = ""


def cases() -> list[Case]:
    """All of them, the quick ones first."""
    wrong = ("answer = wrong & role = assistant", "answer = right & role = assistant")
    demo_refusal = ("refusal = true & role = assistant", "refusal = false & role = assistant")
    refusal = ("refused = true & role = assistant", "refused = false & role = assistant")
    jailbreak = ("jailbroken = false & role = assistant", "jailbroken = true & role = assistant")
    hallucination = ("trait = hallucination & correct = {} & role = assistant").format
    truthful = ("trait = wrong_answer & correct = {} & role = assistant").format
    found = [
        Case("demo wrong answers .05", "demo", *wrong, 0.05),
        Case("demo wrong answers .01", "demo", *wrong, 0.01),
        Case("demo refusal .01", "demo", *demo_refusal, 0.01),
        Case("refusal .05", "data", *refusal, 0.05, "", *jailbreak),
        Case("refusal .01", "data", *refusal, 0.01, "", *jailbreak),
        Case("hallucination .05", "data", hallucination("false"), hallucination("true"), 0.05, "",
             truthful("false"), truthful("true")),
    ]  # fmt: skip
    for there, here in EMOTIONS.items():
        mine, theirs = f'source = "{GO}"', f'source = "{REPE}" & trait = emotion'
        mixed = "!(emotion = happiness & (emotion = fear | emotion = sadness))"
        found.append(
            Case(f"{there} .05", "data", f'{mine} & emotion = "{there}"', f'{mine} & emotion != "{there}"', 0.05, "",
                 f'{theirs} & {mixed} & emotion = "{here}"', f'{theirs} & {mixed} & emotion != "{here}"')
        )  # fmt: skip
    return found


def main() -> int:
    """Run what is at hand, print tables, return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo/features/turn"))
    parser.add_argument("--data", type=Path, default=Path("runs/traits/features/turn"))
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--quick", action="store_true", help="without the emotions")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    arguments = parser.parse_args()
    indexes = {"demo": arguments.demo, "data": arguments.data}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            index = indexes[case.data]
            if not (index / "manifest.json").is_file() or (arguments.cases and case.name not in arguments.cases):
                continue
            if arguments.quick and case.name.split()[0] in EMOTIONS:
                continue
            rows.append(measure(case, index, Path(folder)))
            show(rows[-1])
            if arguments.json:
                arguments.json.write_text(json.dumps(_result(rows), indent=1))
    result = _result(rows)
    for target in result["targets"]:
        print(f"{'ok  ' if target['holds'] else 'MISS'} {target['name']}: {target['value']} (goal {target['goal']})")
    return 0 if all(target["holds"] for target in result["targets"]) else 1


def _result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": machine, "rows": rows, "targets": targets(rows)}


def measure(case: Case, index: Path, folder: Path) -> dict[str, Any]:
    """Fit, judge, run over the index, and hold the other source's turns against the reference."""
    out = folder / f"{case.name.replace(' ', '_')}.toml"
    start, used = time.monotonic(), time.process_time()
    result = fit(
        MonitorFitConfig(
            index=index, positive=case.positive, negative=case.negative, fpr=case.fpr, out=out,
            other_positive=case.other_positive, other_negative=case.other_negative,
        )
    )  # fmt: skip
    seconds, cpu = time.monotonic() - start, time.process_time() - used
    row: dict[str, Any] = {"case": case.name, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    row |= json.loads(result.report.read_text(encoding="utf-8"))
    if result.monitor.threshold is None:
        return row
    start = time.process_time()
    ran = run_monitor(MonitorRunConfig(monitor=out, index=index))
    row["run"] = {
        "turns": ran.counts["turns_scored"], "alerts": ran.counts["alerts"],
        "turns_per_cpu_second": round(ran.counts["turns"] / max(time.process_time() - start, 1e-9)),
    }  # fmt: skip
    row["drift"] = {"same turns, held out": _drift(out, index, "", ("eval",))}
    if case.other_positive:
        where = f"({case.other_positive}) | ({case.other_negative})"
        row["drift"]["other source"] = _drift(out, index, where, ("train", "explain", "eval"))
    return row


def _drift(monitor: Path, index: Path, where: str, splits: tuple[Split, ...]) -> dict[str, Any]:
    told = drift.run(MonitorDriftConfig(monitor=monitor, index=index, where=where, splits=splits))
    return {"psi": told.psi, "chance": told.psi_chance, "ks": told.ks, "word": told.word}


def show(row: dict[str, Any]) -> None:
    """One case as Markdown."""
    print(f"\n### {row['case']} ({row['cpu_seconds']} s)\n")
    for name in ("eval", "other"):
        if name not in row["turns"]:
            continue
        print(f"{'Held out' if name == 'eval' else 'Another source'}: {row['turns'][name]}\n")
        print(f"| | AUROC | recall at FPR {row['fpr']:g} | recall as set | FPR as set | precision as set |")
        print("| --- | --- | --- | --- | --- | --- |")
        for each in row["rows"]:
            point = each["points"][name]
            figures = [point.get(key, point) for key in ("auroc", "recall_here", "recall", "fpr", "precision")]
            print(f"| {each['name']} | {' | '.join(_text(figure) for figure in figures)} |")
        print()
    print(" ".join(row["verdicts"]))
    print(json.dumps({key: row.get(key) for key in ("run", "drift")}), flush=True)


def _text(figure: dict[str, Any]) -> str:
    if "withheld" in figure:
        return "–"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What has to hold: rates as set, features that work where they should, and none where they should not."""
    found: list[dict[str, Any]] = []
    named = {row["case"]: row for row in rows}
    for name, row in named.items():
        rate = row["rows"][0]["points"]["eval"].get("fpr", {})
        if "value" in rate:
            holds = rate["low"] <= row["fpr"]
            found.append(
                _target(f"{name}: false-positive rate held out", _text(rate), f"at most {row['fpr']:g}", holds)
            )
    for name, least in (("demo refusal .01", 0.5), ("refusal .05", 0.5)):
        if name in named:
            recall = named[name]["rows"][0]["points"]["eval"]["recall_here"]
            found.append(_target(f"{name}: recall", _text(recall), f">= {least}", recall.get("value", 0) >= least))
    if "hallucination .05" in named:
        figure = named["hallucination .05"]["rows"][0]["points"]["other"].get("auroc", {})
        holds = "value" not in figure or figure["low"] <= 0.5
        found.append(_target("hallucination on another source", _text(figure), "chance, or withheld", holds))
    return found


def _target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": bool(holds)}


if __name__ == "__main__":
    raise SystemExit(main())
