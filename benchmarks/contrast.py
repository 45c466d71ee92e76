"""Contrasts: how fast, how often they find what is not there, and what they find where the truth is known.

    python benchmarks/contrast.py [--quick] [--demo RUN] [--real RUN] [--json FILE]

1. Speed: 10,000 against 10,000 turns over 65,536 features, 64 active a turn.
2. Random halves of the conversations, 200 times: the share with any discovery at an FDR of .05.
3. The demo's traits: the first feature chosen on `explain`, its AUROC on `eval`, whether it is first for another trait
   of the family too, and what choosing on `eval` itself would reach.
4. Real chats: what should be found (refusal, dialogue acts, emotions), and what should not (hallucination, truth,
   preference).

RUN is a finished run folder with `features/turn` (of the demo; of the shared chats). Without --demo a demo is run
(minutes). Without --real the shared chats are sampled, harvested with MiniLM and indexed (most of an hour) where
TURNSCOPE_SHARED names them. --quick leaves out what it is given no folder for.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turnscope.artifacts import Draft, begin, write_json
from turnscope.artifacts.config import Config
from turnscope.audit._sides import Sides
from turnscope.audit.config import ContrastConfig
from turnscope.audit.contrast import best_of, contrast, tried
from turnscope.audit.separation import Separation, clusters_of, separate
from turnscope.demo.corpus import TRAITS
from turnscope.evaluation.config import Trait
from turnscope.features.arrays import Column, write_arrays
from turnscope.features.query.result import Querier
from turnscope.features.query.tree import text_literal
from turnscope.features.store import FeatureIndex, open_index

TURNS, FEATURES, ACTIVE = 100_000, 65_536, 64
REPEATS = 200
ASSISTANT = "role = assistant"
GO = 'source = "github.com/monologg/GoEmotions-pytorch"'
REPE = 'source = "github.com/andyzoujm/representation-engineering"'
LAST = f"{ASSISTANT} & !next(2, {ASSISTANT})"


def _of_list(label: str, value: str, within: str) -> tuple[str, str]:
    return f'label.{label} = "{value}" & {within}', f'has(label.{label}) & !(label.{label} = "{value}") & {within}'


def _of_truth(label: str, within: str) -> tuple[str, str]:
    return f"{label} = true & {within}", f"{label} = false & {within}"


EXPECTED: dict[str, tuple[tuple[str, str], bool]] = {
    "refusal": (_of_truth("refused", ASSISTANT), True),
    **{f"SGD {act}": (_of_list("labels", act, "has(services)"), True)
       for act in ("REQUEST", "OFFER", "CONFIRM", "NEGATE")},
    **{f"GoEmotions {name}": (_of_list("emotion", name, GO), True)
       for name in ("gratitude", "curiosity", "sadness", "anger")},
    "RepE happiness": (_of_list("emotion", "happiness", REPE), True),
    "HaluEval hallucination": (_of_truth("correct", f"trait = hallucination & {ASSISTANT}"), False),
    "RepE facts": (_of_truth("correct", f"trait = wrong_answer & {REPE} & {ASSISTANT}"), False),
    "TruthfulQA": (_of_truth("correct", f"trait = wrong_answer & !({REPE}) & {ASSISTANT}"), False),
    "HH preference": ((f"preference = chosen & {LAST}", f"preference = rejected & {LAST}"), False),
}  # fmt: skip
SETS = {
    "general/sgd": 400, "general/hh_harmless_test": 2000, "traits/refusal_direction_runs": 3000,
    "traits/goemotions_dev": 5424, "traits/repe_emotions": 2000,
    "traits/repe_facts": 2000, "traits/halueval_qa": 3000, "traits/truthfulqa": 3000,
}  # fmt: skip


class _Settings(Config):
    note: str = "random"


def main() -> int:
    """Measure, print, return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--demo", type=Path, help="a finished demo with features/turn")
    parser.add_argument("--real", type=Path, help="a finished run over the shared chats with features/turn")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for row in speed(work, arguments.quick):
            add(rows, row)
        goal(targets, "s for every feature of 10,000 against 10,000 turns", rows[0]["seconds"], 2.0)
        demo = arguments.demo or (None if arguments.quick else make_demo(work / "demo"))
        real = arguments.real or (None if arguments.quick else make_real(work / "real"))
        for name, run in (("demo", demo), ("real", real)):
            if run is None:
                print(f"skipped: {name} ({'no --' + name if arguments.quick else 'TURNSCOPE_SHARED is not set'})")
                continue
            index = open_index(run / "features" / "turn")
            halves = random_halves(index, name, 40 if arguments.quick else REPEATS)
            add(rows, halves)
            goal(targets, f"random halves of {name} with a discovery", halves["share"], 0.08)
            found = demo_traits(index) if name == "demo" else real_traits(index)
            for row in found:
                add(rows, row)
            part = sum(row["holds"] for row in found) / len(found)
            what = "traits whose first feature is theirs" if name == "demo" else "real contrasts that end as expected"
            goal(targets, what, round(part, 3), 0.9, at_least=True)
    for target in targets:
        print(f"{'ok  ' if target['holds'] else 'MISS'} {target['name']}: {target['value']} (goal {target['goal']})")
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows, "targets": targets}, indent=1))
    return 0 if all(target["holds"] for target in targets) else 1


def add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    rows.append(row)
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def goal(targets: list[dict[str, Any]], name: str, value: float, limit: float, *, at_least: bool = False) -> None:
    holds = value >= limit if at_least else value <= limit
    targets.append({"name": name, "value": value, "goal": f"{'>=' if at_least else '<='} {limit}", "holds": holds})


def speed(work: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """All features of two sets of turns; then a whole report, with its intervals and confounds."""
    index = noise(work / "features" / "noise", 25_000 if quick else TURNS)
    order = np.random.default_rng(1).permutation(index.n_turns)
    a, b = (np.sort(order[start : start + 10_000]) for start in (0, 10_000))
    separate(index, a, b)  # reads the files for the first time
    walls, busy = list[float](), list[float]()
    for _ in range(5):
        start, start_busy = time.perf_counter(), time.process_time()
        separate(index, a, b)
        walls.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    yield {"what": "every feature", "seconds": round(min(walls), 2), "cpu_seconds": round(min(busy), 2),
           "turns": "10,000 + 10,000", "features": FEATURES}  # fmt: skip
    sides = Sides(a, b, ("A", "B"), frozenset(), frozenset(), 0, ())
    start, start_busy = time.perf_counter(), time.process_time()
    contrast(index, ContrastConfig(index=index.artifact.path, a="A"), sides)
    yield {"what": "whole report", "seconds": round(time.perf_counter() - start, 2),
           "cpu_seconds": round(time.process_time() - start_busy, 2)}  # fmt: skip


def noise(folder: Path, n: int) -> FeatureIndex:
    """Turns with so many features each, frequent and rare ones; ten turns to a conversation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    weight_F = 1 / np.arange(1, FEATURES + 1) ** 0.7
    picked_NK = np.searchsorted(np.cumsum(weight_F / weight_F.sum()), rng.random((n, ACTIVE)))
    key_E = np.unique(np.arange(n)[:, None] * FEATURES + np.minimum(picked_NK, FEATURES - 1))
    row_E, feature_E = key_E // FEATURES, key_E % FEATURES
    value_E = rng.gamma(2, 1, len(key_E)).astype(np.float32)
    order = np.argsort(feature_E, kind="stable")
    draft = begin(folder, "features", _Settings(), {})
    assert isinstance(draft, Draft)
    columns = {
        "by_turn.ptr": np.searchsorted(row_E, np.arange(n + 1)), "by_turn.features": feature_E.astype(np.int32),
        "by_turn.values": value_E, "by_feature.ptr": np.searchsorted(feature_E[order], np.arange(FEATURES + 1)),
        "by_feature.rows": row_E[order].astype(np.int32), "by_feature.values": value_E[order],
    }  # fmt: skip
    with write_arrays(draft.path, {name: Column(each.dtype, len(each)) for name, each in columns.items()}) as files:
        for name, each in columns.items():
            files[name].append(each)
    turn_N = np.arange(n)
    table = {
        "conversation_id": [f"chat-{number}" for number in (turn_N // 10).tolist()],
        "turn": (turn_N % 10).astype(np.int32), "role": np.where(turn_N % 2, "assistant", "user"),
        "split": np.where(turn_N // 10 % 2, "explain", "eval"),
        "group": turn_N // 10, "n_tokens": rng.integers(1, 300, n).astype(np.int32), "text_hash": turn_N,
        "labels": ["{}"] * n,
    }  # fmt: skip
    pq.write_table(pa.table(table), draft.path / "turns.parquet")
    pq.write_table(pa.table({"feature": np.arange(FEATURES, dtype=np.int32)}), draft.path / "features.parquet")
    write_json(draft.path / "index.json", {"unit": "turn", "n_turns": n, "n_features": FEATURES})
    draft.commit({"turns": n})
    return open_index(folder)


def random_halves(index: FeatureIndex, name: str, repeats: int) -> dict[str, Any]:
    """How often anything is discovered where there is nothing: among the features chosen, and among all."""
    split_N = np.asarray(index.turns["split"].to_pylist())
    parts = [np.flatnonzero(split_N == split) for split in ("explain", "eval")]
    numbers = [clusters_of(index, rows) for rows in parts]
    rng = np.random.default_rng(0)
    chosen = every = 0
    below = list[float]()
    for _ in range(repeats):
        separated: list[Separation] = []
        for rows, number_N in zip(parts, numbers, strict=True):
            in_a = np.zeros(int(number_N.max()) + 1, np.bool_)
            in_a[rng.permutation(len(in_a))[: len(in_a) // 2]] = True
            separated.append(separate(index, rows[in_a[number_N]], rows[~in_a[number_N]]))
        _, q = tried(separated[0], separated[1], 10)
        chosen += bool((q <= 0.05).any())
        every += len(separated[1].discoveries(0.05)) > 0
        p = separated[1].p_F
        below.append(float((p[np.isfinite(p)] < 0.05).mean()))
    return {"what": f"random halves, {name}", "repeats": repeats, "share": round(max(chosen, every) / repeats, 3),
            "share_chosen": chosen / repeats, "share_all": every / repeats,
            "p_below_05": round(float(np.mean(below)), 4)}  # fmt: skip


def demo_traits(index: FeatureIndex) -> list[dict[str, Any]]:
    """One row for each trait; `ceiling` is the best AUROC on `eval` of any feature, chosen there."""
    querier, rows = Querier(index), list[dict[str, Any]]()
    split_N = np.asarray(index.turns["split"].to_pylist())
    for trait in TRAITS:
        if trait.family == "answer":
            continue
        sets = [querier.find(query).rows for query in trait_queries(trait)]
        choose, judge = (
            separate(index, *(each[split_N[each] == split] for each in sets)) for split in ("explain", "eval")
        )
        first = int(best_of(choose, "a", 1)[0])
        rows.append({"what": trait.name, "family": trait.family, "feature": first,
                     "chosen_auroc": round(float(choose.auroc_F[first]), 3),
                     "auroc": round(float(judge.auroc_F[first]), 3),
                     "ceiling": round(float(judge.auroc_F.max()), 3)})  # fmt: skip
    first_of = Counter((row["family"], row["feature"]) for row in rows)
    for row in rows:
        row["own"] = first_of[row["family"], row["feature"]] == 1
        row["holds"] = row["auroc"] >= 0.9 and row["own"]
    return rows


def trait_queries(trait: Trait) -> tuple[str, str]:
    """Turns with a trait, and those of which it is known that they have it not, outside matched pairs."""
    value = "true" if trait.value is True else text_literal(str(trait.value))
    within = [f"label.{key} = {text_literal(wanted)}" for key, wanted in trait.within.items()]
    rest = " & ".join(
        [f"has(label.{trait.key})", *within, *([f"!has(label.{trait.without})"] if trait.without else [])]
    )
    return f"label.{trait.key} = {value} & {rest}", f"!(label.{trait.key} = {value}) & {rest}"


def real_traits(index: FeatureIndex) -> list[dict[str, Any]]:
    """One row for each contrast. `holds`: found, beyond length and the like, when and only when it should be."""
    rows: list[dict[str, Any]] = []
    for name, ((a, b), should) in EXPECTED.items():
        result = contrast(index, ContrastConfig(index=index.artifact.path, a=a, b=b))
        alone = [row for row in result.features if row["separates"] and not row["confounded_by"]]
        best = max(result.features, key=lambda row: row["auroc"], default=None)
        several = result.report["together"]
        found = bool(alone or (several and several["separates"] and not several["confounded_by"]))
        rows.append({"what": name, "expected": should, "found": found, "features": len(alone),
                     "best": best and round(best["auroc"], 3), "ci": best and [round(x, 3) for x in best["ci"] or ()],
                     "alike": best and best["alike"] and round(best["alike"], 3),
                     "together": several and several["auroc"] and round(several["auroc"], 3),
                     "together_alike": several and several["alike"] and round(several["alike"], 3),
                     "turns": [result.report[side]["turns"]["judge"] for side in ("a", "b")],
                     "holds": found == should, "verdict": result.verdict})  # fmt: skip
    return rows


def make_demo(folder: Path) -> Path:
    """The demo, and an index of its turn dictionary."""
    from turnscope.demo.demo import DemoConfig, run
    from turnscope.features.config import IndexConfig
    from turnscope.features.index import run as index

    run(DemoConfig(out=folder, token_sae=False))
    index(IndexConfig(activations=folder / "activations" / "resid.3", sae=folder / "saes" / "turn",
                      transcripts=folder / "transcripts", out=folder / "features" / "turn"))  # fmt: skip
    return folder


def make_real(folder: Path) -> Path | None:
    """A sample of the shared chats through MiniLM; None where there are none."""
    shared = os.environ.get("TURNSCOPE_SHARED")
    if not shared or not (Path(shared) / "data").is_dir():
        return None
    from turnscope.cli.main import main as turnscope

    chats = folder / "chats"
    chats.mkdir(parents=True)
    for name, most in SETS.items():
        lines = list(_lines(Path(shared) / "data" / f"{name}.jsonl.zst"))
        random.Random(0).shuffle(lines)
        (chats / f"{Path(name).name}.jsonl").write_text("".join(lines[:most]), encoding="utf-8", newline="\n")
    activations, sae, out = folder / "activations", folder / "saes" / "turn", folder / "features" / "turn"
    commands: Sequence[Sequence[object]] = (
        ("import", chats, "--out", folder / "transcripts"),
        ("harvest", folder / "transcripts", "--model", "minilm", "--site", "resid.3", "--too-long", "window",
         "--out", activations),
        ("train", activations / "resid.3", "--out", sae, "--architecture", "matryoshka", "--n-features", 2048,
         "--k", 32),
        ("index", activations / "resid.3", "--sae", sae, "--transcripts", folder / "transcripts", "--out", out),
    )  # fmt: skip
    for command in commands:
        try:
            turnscope([str(word) for word in command])
        except SystemExit as ended:
            if ended.code:
                raise
    return folder


def _lines(path: Path) -> Iterator[str]:
    import zstandard

    with path.open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        yield from (line for line in text if line.strip())


if __name__ == "__main__":
    raise SystemExit(main())
