"""Persona features: `python benchmarks/personas.py [--demo RUN] [--data RUN] [--json FILE] [--traits NAME ...]`.

--demo RUN: a finished demo run (`turnscope demo`). For each persona and tone that its grammar plants the pipeline runs
on the shipped model, and the feature it puts first is held against the labels of the demo's corpus, on conversations
that neither the dictionary nor the choice has seen.

--prepare FOLDER: cut the labelled sets of the shared data (TURNSCOPE_SHARED, or a folder `shared` beside the
repository) to the size that docs/personas.md names, ready for `turnscope import`.

--data RUN: a run folder with transcripts, activations/resid.3 and saes/turn of the labelled sets named in the trait
files (docs/personas.md tells how it is made from the shared data). For each trait and each set that carries it a
feature is chosen on that set and judged on held-out conversations of it, and on those of every other set that carries
the trait.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from turnscope.audit import baselines
from turnscope.audit.config import PersonaConfig
from turnscope.audit.persona import run
from turnscope.audit.trait import LabelledSet, load_trait, shipped
from turnscope.demo.bank import PERSONAS, TONES
from turnscope.demo.corpus import TRAITS
from turnscope.demo.demo import MODEL
from turnscope.demo.labeller import ParserLabeller
from turnscope.evaluation.codes import DictionaryReader
from turnscope.evaluation.labels import TurnTable, read_turns, trait_labels
from turnscope.models.sampling import Sampling
from turnscope.stats import Estimate, Withheld, auroc, auroc_all, auroc_ci, permute_labels
from turnscope.transcripts import open_transcripts

DEMO_TRAITS = MODEL.parent / "traits"
CHOOSE, JUDGE = ("train", "explain"), ("eval",)
MOST = 4000  # turns of a set that a feature and the other readers are chosen on
SHUFFLES = 20
SHARED = Path(os.environ.get("TURNSCOPE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
PREPARED = {
    "persona_evals": 6000, "ai_risk_lm": 5000, "sycophancy_eval_answer": 3000, "goemotions_dev": 5424,
    "truthfulqa": 4904, "refusal_direction_runs": 9999, "jailbreakbench_artifacts": 9999, "repe_emotions": 9999,
    "repe_facts": 9999, "halueval_qa": 9999, "harmful_prompts": 9999, "sycophancy_ab_nlp_survey": 9999, "sgd": 1500,
    "hh_harmless_test": 9999,
}  # fmt: skip
LEAST = 0.6  # a held-out AUROC below this is of no use, however sure

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def main() -> int:
    """Run what is at hand, print tables; 1 when a planted persona is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, default=Path("runs/traits"))
    parser.add_argument("--prepare", type=Path, help="write the cut sets here, and stop")
    parser.add_argument("--traits", nargs="*", help="only these")
    parser.add_argument("--json", type=Path, help="write machine and rows here")
    arguments = parser.parse_args()
    if arguments.prepare:
        return prepare(arguments.prepare)
    os.environ |= {"TURNSCOPE_QUIET": "1", "TOKENIZERS_PARALLELISM": "false"}
    out: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "demo": [], "data": []}
    missed = 0
    if (arguments.demo / "saes" / "turn" / "manifest.json").exists():
        for row in planted(arguments.demo, arguments.traits):
            out["demo"].append(row)
            print(_planted_line(row), flush=True)
        found = sum(row["found"] for row in out["demo"])
        missed = len(out["demo"]) - found
        print(f"found {found} of {len(out['demo'])} planted")
    else:
        print(f"skip the demo: no finished run at {arguments.demo} (turnscope demo)")
    if (arguments.data / "saes" / "turn" / "manifest.json").exists():
        for row in sources(arguments.data, arguments.traits):
            out["data"].append(row)
            print(_source_line(row), flush=True)
    else:
        print(f"skip the labelled sets: no run folder at {arguments.data} (see docs/personas.md)")
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=1))
    return int(missed > 0)


def prepare(folder: Path) -> int:
    """Shuffled sets, cut; both records of a statement of persona_evals stay together."""
    if not (SHARED / "data").is_dir():
        print("skip: no shared data (set TURNSCOPE_SHARED)")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, most in PREPARED.items():
        packed = next((SHARED / "data").glob(f"*/{name}.jsonl.zst"))
        with packed.open("rb") as file:
            text = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")
        lines = [line for line in text.split("\n") if line.strip()]
        random.Random(0).shuffle(lines)
        if name == "persona_evals":
            by: dict[str, list[str]] = {}
            for line in lines:
                by.setdefault(json.loads(line)["labels"]["statement"], []).append(line)
            statements = sorted(by)
            random.Random(0).shuffle(statements)
            lines = [line for statement in statements[: most // 2] for line in by[statement]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines[:most]) + "\n", "utf-8", newline="\n")
        print(f"{name}: {len(lines[:most]):,}")
    return 0


# --- the demo -----------------------------------------------------------------------------------------------


def planted(folder: Path, only: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """A row for each persona and tone of the grammar."""
    reader = DictionaryReader(folder / "activations" / "resid.3", folder / "saes" / "turn")
    turns = read_turns(open_transcripts(folder / "transcripts"), reader.store)
    rows = turns.rows("eval")
    codes_NF = reader.codes_NF(rows)
    by_name = {trait.name: trait for trait in TRAITS}
    for family, values in (("persona", PERSONAS), ("tone", TONES)):
        for value in values:
            if only and value not in only:
                continue
            trait = load_trait(DEMO_TRAITS / f"{value}.toml")
            with tempfile.TemporaryDirectory() as scratch:
                config = PersonaConfig(
                    trait=DEMO_TRAITS / f"{value}.toml", model=str(MODEL), sae=folder / "saes" / "turn",
                    out=Path(scratch) / value, sampling=Sampling(temperature=0.8, max_new_tokens=120),
                )  # fmt: skip
                report = run(config, ParserLabeller(), trait=trait, judge_label=(f"{family}.shown", value)).report
            best = report["features"][0]
            eligible, positive = trait_labels(turns, by_name[f"{family}:{value}"])
            at = np.flatnonzero(eligible[rows])
            labels, clusters = positive[rows][at], turns.clusters[rows][at]
            corpus = auroc_ci(codes_NF[at, best["feature"]], labels, clusters)
            oracle = int(auroc_all(codes_NF[at], labels).argmax())
            assert isinstance(corpus, Estimate)
            yield {
                "name": f"{family}:{value}", "feature": best["feature"], "held": best["held"], "bare": best["bare"],
                "cosine_place": best["cosine_place"], "corpus": corpus.value, "corpus_ci": list(corpus.ci),
                "best_of_corpus": oracle, "shown_positive": report["judge"]["shown_positive"],
                "shown_negative": report["judge"]["shown_negative"], "shuffled": report["shuffled"],
                "readers": {name: each["held"].get("auroc") for name, each in report["readers"].items()},
                "n": report["n"]["judge"], "found": bool(corpus.value >= 0.9 or best["feature"] == oracle),
            }  # fmt: skip


def _planted_line(row: dict[str, Any]) -> str:
    low, high = row["corpus_ci"]
    same = "the best there" if row["feature"] == row["best_of_corpus"] else f"best there F{row['best_of_corpus']}"
    others = ", ".join(f"{name} {value:.3f}" for name, value in row["readers"].items() if value is not None)
    return (
        f"{'ok  ' if row['found'] else 'MISS'} {row['name']:<18} F{row['feature']:<4} held out {_value(row['held'])}, "
        f"reply alone {_value(row['bare'])}; corpus {row['corpus']:.3f} [{low:.3f}, {high:.3f}] ({same}); "
        f"cosine place {row['cosine_place']}; shown {row['shown_positive']:.0%}/{row['shown_negative']:.0%}; "
        f"sides swapped {row['shuffled'].get('auroc', float('nan')):.3f}; {others}"
    )


def _value(found: Mapping[str, Any]) -> str:
    return f"{found['auroc']:.3f}" if "auroc" in found else "withheld"


# --- the labelled sets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The judged turns of one labelled set."""

    name: str
    rows: Ints
    positive: Bools

    def part(self, split: NDArray[np.str_], splits: Sequence[str], most: int | None = None) -> Source:
        """Those of some splits, at most so many, spread over the set."""
        at = np.flatnonzero(np.isin(split[self.rows], splits))
        if most and len(at) > most:
            at = np.sort(np.random.default_rng(0).choice(at, most, replace=False))
        return Source(self.name, self.rows[at], self.positive[at])


def sources(folder: Path, only: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """A row for each trait, set that chooses and set that judges."""
    reader = DictionaryReader(folder / "activations" / "resid.3", folder / "saes" / "turn")
    turns = read_turns(open_transcripts(folder / "transcripts"), reader.store)
    columns = reader.store.turns.select(["conversation_id", "turn"]).to_pydict()
    last = _last_turns(columns["conversation_id"], columns["turn"], turns.roles)
    for name in only or shipped():
        if name not in shipped():
            continue
        trait = load_trait(name)
        found = [_source(each, columns["conversation_id"], turns, last) for each in trait.labels]
        found = [each for each in found if len(each.rows)]
        if not found:
            yield {"trait": name, "withheld": "no labelled set carries it"}
        for chosen_on in found:
            fitted = _Fitted.of(reader, turns, chosen_on)
            if isinstance(fitted, str):
                yield {"trait": name, "chosen_on": chosen_on.name, "withheld": fitted}
                continue
            for judged_on in found:
                same = judged_on.name == chosen_on.name
                yield {
                    "trait": name,
                    "chosen_on": chosen_on.name,
                    "judged_on": judged_on.name,
                    "same": same,
                } | fitted.judge(judged_on)


def _last_turns(ids: Sequence[str], numbers: Sequence[int], roles: Sequence[str]) -> dict[tuple[str, str], int]:
    """Row of the last turn of each (conversation, role)."""
    last: dict[tuple[str, str], int] = {}
    for row, key in enumerate(zip(ids, roles, strict=True)):
        if key not in last or numbers[row] > numbers[last[key]]:
            last[key] = row
    return last


def _source(asked: LabelledSet, ids: Sequence[str], turns: TurnTable, last: dict[tuple[str, str], int]) -> Source:
    where = ", ".join(
        f"{key} {_short(value)}" for key, value in asked.where.items() if key == "trait" or key == "category"
    )
    rows: list[int] = []
    positive: list[bool] = []
    for (conversation, role), row in last.items():
        if role != asked.role or conversation.split("/")[0] != asked.set:
            continue
        labels = turns.conversation_labels[row]
        if any(
            labels.get(key) not in (value if isinstance(value, tuple) else (value,))
            for key, value in asked.where.items()
        ):
            continue
        value = labels.get(asked.key)
        if value is not None:
            rows.append(row)
            positive.append(any(each in asked.value for each in (value if isinstance(value, list) else [value])))
    return Source(
        f"{asked.set} ({where})" if where else asked.set, np.array(rows, np.int64), np.array(positive, np.bool_)
    )


def _short(value: Any) -> str:
    first, *rest = value if isinstance(value, tuple) else (value,)
    return f"{first} + {len(rest)}" if rest else str(first)


@dataclass(frozen=True)
class _Fitted:
    """Readers of one trait, made on one set."""

    reader: DictionaryReader
    turns: TurnTable
    feature: int
    top: tuple[int, ...]
    chosen: Source
    scorers: dict[str, Any]
    shuffled_features: tuple[int, ...]

    @classmethod
    def of(cls, reader: DictionaryReader, turns: TurnTable, source: Source) -> _Fitted | str:
        part = source.part(turns.split, CHOOSE, MOST)
        fewest = min(int(part.positive.sum()), int((~part.positive).sum())) if len(part.rows) else 0
        if fewest < 20:
            return f"{fewest} positive or negative turns to choose on, 20 needed"
        codes, means = reader.codes_NF(part.rows), reader.store.mean_ND(part.rows)
        texts, clusters = [turns.texts[row] for row in part.rows], turns.clusters[part.rows]
        order = np.argsort(-auroc_all(codes, part.positive), kind="stable")
        rng = np.random.default_rng(zlib.crc32(source.name.encode()))
        shuffled = [auroc_all(codes, _mixed(part.positive, clusters, rng)).argmax() for _ in range(SHUFFLES)]
        scorers: dict[str, Any] = {
            "vector": baselines.fit_mean_difference(means, part.positive, clusters),
            "ridge": baselines.fit_ridge(means, part.positive, clusters),
            "5 features": baselines.fit_sparse_probe(codes, part.positive, clusters),
            "words": baselines.fit_words(texts, part.positive, clusters),
            "length": _Length.of(texts, part.positive),
        }
        return cls(reader, turns, int(order[0]), tuple(order[:10].tolist()), part, scorers, tuple(map(int, shuffled)))

    def judge(self, source: Source) -> dict[str, Any]:
        """Held-out figures on a set: of the feature, the other readers, and features chosen by shuffled labels."""
        part = source.part(self.turns.split, JUDGE, MOST)
        codes, means = self.reader.codes_NF(part.rows), self.reader.store.mean_ND(part.rows)
        clusters = self.turns.clusters[part.rows]
        inputs = {"vector": means, "ridge": means, "5 features": codes}
        texts = [self.turns.texts[row] for row in part.rows]

        def told(scores: Any) -> dict[str, Any]:
            found = auroc_ci(scores, part.positive, clusters, n_boot=500)
            if isinstance(found, Withheld):
                return {"withheld": found.reason}
            return {"auroc": found.value, "low": found.low, "high": found.high}

        feature = told(codes[:, self.feature])
        both = part.positive.any() and not part.positive.all()
        chance = [float(auroc_all(codes[:, [f]], part.positive)[0]) for f in self.shuffled_features] if both else []
        best = np.argsort(-auroc_all(codes, part.positive))[:10] if both else []
        return {
            "feature": self.feature, "features": list(self.top[:3]), "result": feature,
            "holds": "auroc" in feature and feature["low"] > 0.5 and feature["auroc"] >= LEAST,
            "readers": {n: told(s.score(inputs.get(n, texts))) for n, s in self.scorers.items()},
            "shuffled": float(np.mean(chance)) if chance else None,
            "shared_of_top_10": len(set(self.top) & set(map(int, best))),
            "n": {"with": int(part.positive.sum()), "without": int((~part.positive).sum())},
            "share_fires": float((codes[:, self.feature] > 0).mean()) if len(codes) else None,
        }  # fmt: skip


@dataclass(frozen=True)
class _Length:
    """Characters alone: more of them, or fewer, whichever goes with the trait where it was fitted."""

    sign: int

    @classmethod
    def of(cls, texts: Sequence[str], positive: Bools) -> _Length:
        return cls(1 if auroc([len(text) for text in texts], positive) >= 0.5 else -1)

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return self.sign * np.array([len(text) for text in texts], np.float64)


def _mixed(labels: Bools, clusters: Ints, rng: np.random.Generator) -> Bools:
    while True:
        mixed = permute_labels(labels, clusters, rng)
        if mixed.any() and not mixed.all():
            return mixed


def _source_line(row: dict[str, Any]) -> str:
    if "withheld" in row:
        return f"{row['trait']:<22} {row.get('chosen_on', '')} withheld: {row['withheld']}"
    found, kind = row["result"], "in" if row["same"] else "to"
    others = ", ".join(f"{name} {_value(each)}" for name, each in row["readers"].items())
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]" if "low" in found else found["withheld"]
    chance = row["shuffled"] if row["shuffled"] is not None else float("nan")
    return (
        f"{row['trait']:<22} {row['chosen_on']} {kind} {row['judged_on']}: F{row['feature']} {_value(found)} "
        f"{interval} {'holds' if row['holds'] else 'no'}; {others}; shuffled {chance:.3f}; "
        f"n {row['n']['with']}+{row['n']['without']}; {row['shared_of_top_10']} of 10 shared"
    )


if __name__ == "__main__":
    sys.exit(main())
