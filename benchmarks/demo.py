"""The embedded default held against its targets: `python benchmarks/demo.py [--quick] [--json FILE]`.

`--quick` runs a third of the corpus and the turn dictionary only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from turnscope.demo.demo import DemoConfig, run
from turnscope.evaluation.planted import families_reached

PLANTED = ("topic", "language", "persona", "tone", "intent", "refusal", "form", "emotion")


def main() -> int:
    """Run the demo in a fresh folder, print targets, return 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = DemoConfig(conversations=1000, pairs=400, token_sae=False) if arguments.quick else DemoConfig()
        report = run(size.model_copy(update={"out": Path(folder) / "demo"})).report
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": report["saes"]["turn"]["traits"],
        "targets": targets(report),
    }
    for target in result["targets"]:
        print(f"{'ok  ' if target['holds'] else 'MISS'} {target['name']}: {target['value']} (goal {target['goal']})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0 if all(target["holds"] for target in result["targets"]) else 1


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The acceptance targets of the demo, from its report."""
    traits = [row for row in report["saes"]["turn"]["traits"] if "auroc" in row]
    planted = [row for row in traits if row["family"] in PLANTED]
    contextual = [row for row in traits if row["bow_auroc"] <= 0.8]
    families = families_reached(planted)
    reached = sum(row["auroc"] >= 0.9 for row in planted) / len(planted)
    unigram = max(row["unigram_auroc"] for row in traits if row["family"] != "language")
    answers = [row for row in traits if row["family"] == "answer"]
    words_blind = all(row["bow_ci"] and row["bow_ci"][0] <= 0.5 <= row["bow_ci"][1] for row in answers)
    missed = sum(not row["shuffled_holds"] for row in traits)
    return [
        _target("planted traits with AUROC >= 0.9", round(reached, 3), ">= 0.8", reached >= 0.8),
        _target("families with a majority of traits at 0.9", _reached(families), ">= 6 of 8", _reached(families) >= 6),
        _target("shuffled controls away from chance", missed, "0", missed == 0),
        _target("highest single-token AUROC but language", round(unigram, 3), "<= 0.85", unigram <= 0.85),
        _target("traits that words tell badly (<= 0.80)", len(contextual), ">= 6", len(contextual) >= 6),
        _target("words are blind to wrong answers", words_blind, "CI covers 0.5", bool(answers) and words_blind),
        _target("seconds", report["seconds"], "< 240", report["seconds"] < 240),
        _target("peak memory, MiB", report["peak_rss_mb"], "< 4096", report["peak_rss_mb"] < 4096),
    ]


def _reached(families: dict[str, tuple[int, int]]) -> int:
    return sum(2 * good > n for good, n in families.values())


def _target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
