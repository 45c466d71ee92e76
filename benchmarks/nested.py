"""Forms of nested dictionaries held against each other:
`python benchmarks/nested.py [--quick] [--json FILE] [--work DIR]`.

The rule that decides is in docs/design/nested.md; it was written before anything here was trained. Conversations of the
demo's grammar, the demo's model and site, all tokens stored. `--quick`: one seed, few conversations, four forms. With
`--work`, what is finished is kept there and a second call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from nested_measure import ReadDense, ReadNested, ReadToken, ReadTurn, World, measure, open_world
from nested_rule import Row, verdict

SITE = "resid.3"
COMPARED = ("N1", "N2", "joint", "decoupled")
JOINTS = {
    "joint": "a turn has all features of its tokens, a token k_T + k",
    "joint, k": "a turn has all features of its tokens, a token k",
    "joint, cut": "a turn has k_T, a token k_T + k",
    "joint, cut, k": "a turn has k_T, a token k",
}
"""What "equal k" may mean for a form with one selection: the rule is applied with each of them as joint."""
VARIANTS: Mapping[str, dict[str, Any]] = {
    "N1, w .2": {"turn_weight": 0.2},
    "N1, w .8": {"turn_weight": 0.8},
    "N1, detach": {"detach_turn": True},
}
CONTROLS = ("flat turn", "flat token", "mean chunk")
ORDER = (*COMPARED, *(form for form in JOINTS if form != "joint"), *VARIANTS, *CONTROLS, "temporal")
QUICK = ("N1", "N2", "joint", "decoupled")
COLUMNS = (
    "turn_nmse", "token_nmse", "planted", "response", "half_nmse", "turn_l0", "token_l0", "turn_silent", "turn_alone",
    "cpu_s",
)  # fmt: skip


class Size(NamedTuple):
    """One scale of the comparison; features and k are those of both blocks together, and of each."""

    conversations: int
    turns: int
    seeds: tuple[int, ...]
    forms: tuple[str, ...]
    features: int = 256
    k: int = 16
    batch: int = 16


def main() -> int:
    """Train what is missing, print the table and the rule's verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    parser.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=48_000, help="turns that each run learns from, with repeats")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = Size(arguments.conversations, arguments.turns, (0, 1, 2), ORDER)
    if arguments.quick:
        size = Size(300, 3_000, (0,), QUICK)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(size, arguments.work or Path(folder))
    table = {form: averaged([row for row in rows if row["form"] == form]) for form in size.forms}
    print("\n".join(markdown(table)))
    share = rows[0]["between_share"]
    print(f"between-turn share of token variance on eval: {share:.3f}")
    told = verdicts(table)
    for which, text in told.items():
        print(f"{which}: {text}")
    goals = targets(rows)
    for goal in goals:
        print(f"{'ok  ' if goal['holds'] else 'MISS'} {goal['name']}: {goal['value']} (goal {goal['goal']})")
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        result = {"machine": machine, "rows": rows, "verdicts": told, "targets": goals}
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0 if all(goal["holds"] for goal in goals) else 1


def run(size: Size, work: Path) -> list[dict[str, Any]]:
    """One row for each form and seed, form after form, kept in `work` as they are made."""
    world = open_world(work, size.conversations, SITE)
    rows: list[dict[str, Any]] = []
    for form in size.forms:
        for seed in size.seeds:
            path = work / "rows" / f"{form.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not path.exists():
                began = time.process_time()
                reader = train(form, seed, size, world, work / "saes" / path.stem)
                row: dict[str, Any] = {
                    "form": form,
                    "seed": seed,
                    "cpu_s": time.process_time() - began,
                    **measure(reader, world),
                }
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(row))
                print(form, seed, {name: round(row[name], 4) for name in COLUMNS}, flush=True)
            rows.append(json.loads(path.read_text()))
    return rows


def train(form: str, seed: int, size: Size, world: World, out: Path) -> Any:
    """A reader of one trained form. All see as many turns, or the tokens of as many; lr is each one's default."""
    from nested_forms import FORMS

    from turnscope.harvest.turn_tokens import TurnTokenSource
    from turnscope.sae import SAEConfig
    from turnscope.training.config import TrainConfig
    from turnscope.training.defaults import resolve_defaults
    from turnscope.training.of_turns import OfTurns
    from turnscope.training.sources import ArraySource
    from turnscope.training.train import run as train_one

    store, n_turn = world.store, size.features // 2
    nested = {
        "unit": "nested", "n_features": size.features, "k": size.k, "turn_k": size.k, "n_samples": size.turns,
        "batch_size": size.batch, "seed": seed, "out": out, "threads": 1, "log_every": 500,
        "turn_weight": 0.5,
    }  # fmt: skip
    flat = {**nested, "unit": "turn", "n_features": n_turn}
    if form in FORMS:
        config = resolve_defaults(TrainConfig.model_validate(nested), world.n_train, store.d_model)
        source = TurnTokenSource(store, "train", size.batch, seed)
        sae_config = SAEConfig(d_model=store.d_model, n_features=size.features, k=size.k)
        trainer = OfTurns(config, sae_config).begin(source)
        architecture = FORMS[form](config, trainer.variance, trainer.token_variance)
        trainer.architecture = architecture  # pyright: ignore[reportAttributeAccessIssue]
        for batch in source.batches():
            trainer.train_on(batch)
            if trainer.step == config.n_steps:
                break
        architecture.fit(trainer.weights, architecture.scaled(world.choose[:512], trainer.scale))
        return ReadDense(architecture, trainer.weights, trainer.scale)
    if form == "flat turn":
        return ReadTurn(train_one(TrainConfig.model_validate({**flat, "source": store.artifact.path})).load())
    if form == "mean chunk":
        chunks_ND, held_ND = (
            ArraySource(world.windows(split), batch, seed)
            for split, batch in (("train", size.batch), ("explain", 4096))
        )
        return ReadTurn(train_one(TrainConfig.model_validate(flat), source=chunks_ND, held=held_ND).load())
    if form == "flat token":
        per_turn = store.n_tokens_stored / len(store)
        tokens = {
            **nested, "unit": "token", "k": 2 * size.k, "turn_k": None, "source": store.artifact.path,
            "batch_size": round(size.batch * per_turn), "n_samples": round(size.turns * per_turn),
        }  # fmt: skip
        return ReadToken(train_one(TrainConfig.model_validate(tokens)).load())
    more = {"nested_form": "decoupled"} if form == "decoupled" else VARIANTS.get(form, {})
    made = train_one(TrainConfig.model_validate({**nested, **more, "source": store.artifact.path}))
    return ReadNested(made.load_nested())


def verdicts(table: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The rule's outcome, for each reading of "equal k" that was trained."""
    rows = {form: Row(**{name: figures[name] for name in Row._fields}) for form, figures in table.items()}
    return {
        f"{form} ({meaning})": verdict({name: rows[form if name == "joint" else name] for name in COMPARED}).text
        for form, meaning in JOINTS.items()
        if form in rows
    }


def averaged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of each figure over the seeds, and the standard deviation of the planted recovery."""
    mean = {name: fmean(row[name] for row in rows) for name in COLUMNS}
    centre = mean["planted"]
    spread = (sum((row["planted"] - centre) ** 2 for row in rows) / max(1, len(rows) - 1)) ** 0.5
    return {**mean, "planted_sd": spread}


def markdown(table: Mapping[str, dict[str, Any]]) -> list[str]:
    """The table of the design note."""
    head = (
        "| form | turn nMSE | token nMSE | planted (sd) | response | first half nMSE | turn L0 | token L0 | "
        "silent turn features | tokens from the turn block alone | CPU s |"
    )
    lines = [head, "|" + " --- |" * 11]
    for form, row in table.items():
        cells = [
            f"{row['turn_nmse']:.4f}", f"{row['token_nmse']:.4f}", f"{row['planted']:.3f} ({row['planted_sd']:.3f})",
            f"{row['response']:.3f}" if row["response"] == row["response"] else "-", f"{row['half_nmse']:.4f}",
            f"{row['turn_l0']:.1f}", f"{row['token_l0']:.1f}", f"{row['turn_silent']:.0f}",
            f"{row['turn_alone']:.3f}", f"{row['cpu_s']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {form} | " + " | ".join("-" if cell == "nan" else cell for cell in cells) + " |")
    return lines


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold whichever form wins."""
    over = max(row["turn_alone"] - row["between_share"] for row in rows)
    blind = max(row["response"] for row in rows if row["form"] == "decoupled")
    return [
        _target("turn block alone explains no more of tokens than the ceiling, by", round(over, 4), "<= 0", over <= 0),
        _target("response of the decoupled form", round(blind, 5), "0", blind < 1e-3),
    ]


def _target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
