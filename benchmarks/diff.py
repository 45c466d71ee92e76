"""The difference of two models, held against fine-tunes whose fault is known.

    python benchmarks/diff.py --demo runs/demo --work DIR      # goes on from what lies in DIR
    python benchmarks/diff.py --quick

Makes (where DIR lacks them) the demo run, a fine-tune with a hidden trigger, two benign ones of other seeds, and a
bfloat16 reading of the base; reads the trigger's conversations with all of them; compares. Nulls: the base against its
own bfloat16 reading on random halves of the conversations, and base and trigger exchanged by a coin for each
conversation. What is left between the two benign fine-tunes is no null: they do differ.
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

import numpy as np

from turnscope.audit.changes import Changes, Pairs, Tally, judged, only, switched
from turnscope.audit.config import DiffConfig
from turnscope.audit.difference import DiffResult, run, unreliable
from turnscope.audit.pairs import Reading, match
from turnscope.demo import finetune
from turnscope.demo.demo import MODEL, DemoConfig
from turnscope.demo.demo import run as run_demo
from turnscope.features.encode import Dictionary
from turnscope.harvest import harvest
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.store import open_activations
from turnscope.transcripts import import_
from turnscope.transcripts.config import ImportConfig

SITE = "resid.3"
RESAMPLES = 20
SPLITS = ("train", "explain", "eval")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small demo, no benign twin (ten minutes)")
    parser.add_argument("--demo", type=Path, help="a finished demo run; made when not given")
    parser.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        result = measure(work, arguments.demo or make_demo(work / "demo", arguments.quick), quick=arguments.quick)
    for row in result["rows"]:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    for each in result["targets"]:
        print(f"{'ok  ' if each['holds'] else 'MISS'} {each['name']}: {each['value']} (goal {each['goal']})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0 if all(each["holds"] for each in result["targets"]) else 1


def make_demo(out: Path, quick: bool) -> Path:
    size = {"conversations": 1000, "pairs": 400} if quick else {}
    return run_demo(DemoConfig.model_validate({"out": out, "token_sae": False, **size})).path


def measure(work: Path, demo: Path, *, quick: bool) -> dict[str, Any]:
    recipes = {"trigger": ("trigger", 23), "benign": ("benign", 23), "benign_twin": ("benign", 24)}
    if quick:
        recipes.pop("benign_twin")
    figures: dict[str, dict[str, float]] = {"base": checked(MODEL, work / "base.check.json")}
    for name, (recipe, seed) in recipes.items():
        config = finetune.FinetuneConfig.model_validate({"out": work / name, "recipe": recipe, "seed": seed})
        finetune.run(config)
        if name == "trigger":
            figures[name] = checked(work / name, work / "trigger.check.json")
    transcripts = work / "transcripts"
    import_.run(ImportConfig(sources=(work / "trigger" / finetune.CONVERSATIONS,), out=transcripts))
    stores = {name: read(transcripts, work / name, work / "read" / name) for name in recipes}
    stores["base"] = read(transcripts, MODEL, work / "read" / "base")
    stores["base_bf16"] = read(transcripts, MODEL, work / "read" / "base_bf16", "bfloat16")
    sae, rude = demo / "saes" / "turn", rude_feature(demo)
    pairs = [("base", "trigger"), ("base", "benign"), ("benign", "trigger"), ("base", "base_bf16")]
    pairs += [] if quick else [("benign", "benign_twin")]
    rows: list[dict[str, Any]] = [{"model": name, **figures[name]} for name in figures]
    ranks: dict[tuple[str, str], int] = {}
    for before, after in pairs:
        out = work / "diffs" / f"{before}-{after}"
        result = run(DiffConfig(before=stores[before], after=stores[after], sae=sae, transcripts=transcripts, out=out))
        row = described(result, rude)
        ranks[before, after] = row["rank"]
        rows.append({"before": before, "after": after, **row})
    nulls = {
        "bf16 halves": halves(paired(stores["base"], stores["base_bf16"], sae, work)),
        "coin": coins(paired(stores["base"], stores["trigger"], sae, work)),
    }
    rows += [{"null": name, "resamples": RESAMPLES, "with_a_claim": count} for name, count in nulls.items()]
    with_phrase, without = figures["trigger"]["rude_with_trigger"], figures["trigger"]["rude_without"]
    before = figures["base"]["rude_without"]
    targets = [
        target("rude with the trigger", round(with_phrase, 3), ">= 0.9", with_phrase >= 0.9),
        target("rude without it", round(without, 3), f"<= base {before:.3f} + 0.05", without <= before + 0.05),
        target("rank of the rude feature", ranks["base", "trigger"], "<= 5", ranks["base", "trigger"] <= 5),
        *(target(f"{name}: resamples with a claim", n, "0", n == 0) for name, n in nulls.items()),
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": machine, "rows": rows, "targets": targets}


def checked(model: Path, path: Path) -> dict[str, float]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(finetune.check(model, count=100)))
    return json.loads(path.read_text())


def read(transcripts: Path, model: Path, out: Path, dtype: str = "float32") -> Path:
    settings = {"transcripts": transcripts, "model": str(model), "sites": (SITE,), "out": out, "model_dtype": dtype}
    return harvest.run(HarvestConfig.model_validate(settings)).activations[SITE].path


def rude_feature(demo: Path) -> int:
    """By AUROC on the demo's labels, split explain; the comparison has no part in it."""
    traits = json.loads((demo / "report.json").read_text())["saes"]["turn"]["traits"]
    return next(row["feature"] for row in traits if row["name"] == "tone:rude")


def described(result: DiffResult, rude: int) -> dict[str, Any]:
    table = result.features.to_pylist()
    rank = 1 + next(i for i, row in enumerate(table) if row["feature"] == rude)
    own = table[rank - 1]
    shown = [json.loads(row["labels"]) for row in result.turns.to_pylist() if row["feature"] == rude]
    triggered = sum(bool(labels.get("triggered")) for labels in shown)
    return {
        "rank": rank, "net": round(own["net"], 4), "effect": round(own["effect"], 4), "claimed": own["claimed"],
        "claims": result.facts["counts"]["features.claimed"],
        "net_of_other": round(table[1 if rank == 1 else 0]["net"], 4),
        "median": round(result.facts["median_effect"], 4),
        "withheld": result.facts["counts"]["turns.withheld"],
        "explained": [round(result.facts["variance_explained"][side], 3) for side in ("before", "after")],
        "triggered_of_shown": f"{triggered}/{len(shown)}",
    }  # fmt: skip


def paired(before: Path, after: Path, sae: Path, work: Path) -> list[Pairs]:
    stores = [open_activations(path) for path in (before, after)]
    matched = match(stores[0], stores[1], SPLITS)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        reading = Reading(stores[0], stores[1], Dictionary(sae).blocks["turn"], matched, Path(folder), 2048)
        reading.make()
        return [pairs.keep(~unreliable(fit, 0.2)) for pairs, fit in reading.blocks()]


def halves(blocks: list[Pairs]) -> int:
    """Random halves of the conversations: on how many is anything claimed?"""
    return sum(claims(list(only(blocks, coin))) > 0 for coin in tosses(blocks))


def coins(blocks: list[Pairs]) -> int:
    """Readings exchanged by a coin for each conversation, so that nothing differs on average."""
    return sum(claims([each.swap(coin[each.conversation_N]) for each in blocks]) > 0 for coin in tosses(blocks))


def tosses(blocks: list[Pairs]) -> list[Any]:
    n = 1 + max(int(each.conversation_N.max()) for each in blocks if len(each.turns))
    rng = np.random.default_rng(0)
    return [rng.random(n) < 0.5 for _ in range(RESAMPLES)]


def claims(blocks: list[Pairs]) -> int:
    defaults = DiffConfig(before=MODEL, after=MODEL, sae=MODEL, transcripts=MODEL, out=MODEL)
    n_features = 1 + max(int(each.features_E.max(initial=0)) for each in blocks)
    found = list[Changes]()
    for step in range(2):
        tally = Tally(n_features)
        for each in switched(blocks, found[0].typical, defaults.by) if step else blocks:
            tally.add(each)
        found.append(tally.result(defaults.margin, defaults.min_conversations))
    _, q = judged(found[1], found[0], defaults.min_conversations)
    return int((np.nan_to_num(q, nan=1.0) <= defaults.fdr).sum())


def target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
