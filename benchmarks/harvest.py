"""The harvest held against bare forward passes: `python benchmarks/harvest.py [--quick] [--json FILE]`.

Two models, on real chats where the shared data is at hand (TURNSCOPE_SHARED, or a folder `shared` beside the
repository) and else on made-up ones: a random Qwen2 of 12 blocks and width 256, and dialogue-5M. Everything that is
compared takes turns in one process, and ratios are taken within a turn, so that a busy machine slows both sides.
Memory is measured in processes of their own, on few chats and on ten times as many. Without `--quick`, the activation
stores of other libraries (`python benchmarks/peers/install.py`) read the same chats with a model of the same shape,
each in its own environment; the rate of bare passes over full rows, taken in every process, makes them comparable.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peers.job import StoreJob
from peers.stores import CUT
from peers.stores import measure as stores
from peers.stores import targets as peer_targets

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TURNSCOPE_SHARED") or ROOT.parent / "shared")
SGD = SHARED / "data" / "general" / "sgd.jsonl.zst"
DIALOGUE = SHARED / "models" / "dialogue-5M"
QWEN = "Qwen2, 12 blocks, d 256, random"
BUDGET = 4096
SHARD = 512  # turns: small, so that few chats make several shards, as many chats do by default


def main() -> int:
    """Make the models and chats, measure in turns, print rows and targets; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ |= {"TURNSCOPE_QUIET": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(arguments.threads)}
    if arguments.memory:
        model, transcripts, out = arguments.memory
        harvest(Path(model), Path(transcripts), Path(out))
        print(peak_mib())
        return 0
    rounds, chats = (2, 60) if arguments.quick else (3, 150)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {QWEN: make_qwen(folder / "qwen")}
        if DIALOGUE.is_dir():
            models["dialogue-5M"] = DIALOGUE
        transcripts = import_chats(folder, chats)
        rows = [
            {"model": title, **row}
            for title, model in models.items()
            for row in rates(model, transcripts, folder, rounds)
        ]
        memory = [
            {
                "chats": n,
                "peak_mib": memory_of(models[QWEN], import_chats(folder, n), folder),
            }
            for n in (chats, 10 * chats)
        ]
        peers = [] if arguments.quick else [*stores(store_job(models[QWEN], folder, chats, arguments.threads), folder)]
    for row in rows:
        print(
            f"{row['model']:<33} {row['what']:<44} {row['tokens_per_s']:>8,.0f} tokens/s, "
            f"{row['share']:.3f} of the limit"
        )
    for row in memory:
        print(f"{row['chats']:,} chats: peak memory {row['peak_mib']:,} MiB")
    goals = targets(rows, memory, peers)
    for goal in goals:
        print(f"{'ok  ' if goal['holds'] else 'MISS'} {goal['name']}: {goal['value']} (goal {goal['goal']})")
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, Python {platform.python_version()}"
    )
    if arguments.json:
        result = {"machine": machine, "rows": rows, "memory": memory, "peers": peers, "targets": goals}
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0 if all(goal["holds"] for goal in goals) else 1


def targets(
    rows: list[dict[str, Any]], memory: list[dict[str, Any]], peers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What docs/design/harvest.md promises."""
    goals: list[dict[str, Any]] = []
    for row in rows:
        if row["goal"]:
            share = row["share"]
            goals.append(
                _target(f"{row['model']}: {row['what']}", round(share, 3), f">= {row['goal']}", share >= row["goal"])
            )
        if row["what"].startswith("harvest"):
            goals.append(
                _target(f"{row['model']}: {row['what']}, padding", row["padding"], "< 0.05", row["padding"] < 0.05)
            )
    growth = memory[1]["peak_mib"] / memory[0]["peak_mib"] - 1
    goals.append(_target("memory over ten times the chats", round(growth, 4), "<= 0.01", growth <= 0.01))
    share = {row["what"]: row["share"] for row in rows if row["model"] == QWEN}
    for name, times, goal in peer_targets(peers, share["harvest of turn means"] / share[CUT]):
        goals.append(_target(name, round(times, 2), f">= {goal}", times >= goal))
    return goals


def _target(name: str, value: Any, goal: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


def rates(model: Path, transcripts: Path, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Tokens per second of each way to read the chats. A round runs them all, each between two runs of its limit."""
    from peers.bare import Bare

    from turnscope.harvest.batches import batches
    from turnscope.harvest.harvest import open_subject
    from turnscope.harvest.prepare import cut, prepare
    from turnscope.models.site import Site
    from turnscope.transcripts.store import open_transcripts

    config = settings(model, transcripts, folder)
    subject, renderer = open_subject(config)
    shards = [
        prepare(i, group, renderer, subject, config)
        for i, group in enumerate(cut(open_transcripts(transcripts), config.shard_turns))
    ]
    site = Site.parse(config.sites[0])
    ids = [[row.ids for row in shard.rows] for shard in shards]

    def planned(packed: bool) -> list[list[list[int]]]:
        return [[rows[i] for i in b] for rows in ids for b in batches([len(r) for r in rows], BUDGET, packed=packed)]

    flat = [row for rows in ids for row in rows]
    ids_path(folder, model).write_text(json.dumps(flat))
    full_rows = Bare(str(model), ids_path(folder, model), site.block)
    arrival = [flat[i : i + 16] for i in range(0, len(flat), 16)]
    limits = {
        packed: lambda packed=packed: bare(subject, site, planned(packed), packed=packed) for packed in (True, False)
    }
    ways: list[tuple[str, bool, Callable[[], tuple[float, float]], float | None]] = [
        ("harvest of turn means", True, lambda: harvest(model, transcripts, folder / "h"), 0.92),
        ("harvest with all tokens", True, lambda: harvest(model, transcripts, folder / "h", tokens="all"), 0.85),
        (
            "harvest, padded, of turn means",
            False,
            lambda: harvest(model, transcripts, folder / "h", packing=False),
            0.92,
        ),
        ("bare, padded, by length, against packed", True, limits[False], None),
        (CUT, True, lambda: (full_rows.rate(sum(map(len, flat))), 0.0), None),
        ("bare, 16 chats a batch in order of arrival", True, lambda: bare(subject, site, arrival, packed=False), None),
    ]
    limits[True]()  # warms up
    shares: dict[str, list[float]] = {name: [] for name, *_ in ways}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in ways}
    bare_rates: list[float] = []
    for _ in range(rounds):
        for name, packed, way, _goal in ways:
            before = limits[packed]()[0]
            rate, padding = way()
            after = limits[packed]()[0]
            shares[name].append(2 * rate / (before + after))
            seen[name].append((rate, padding))
            bare_rates += [before, after] if packed else []
    yield {
        "what": "bare, packed: the limit",
        "tokens_per_s": statistics.median(bare_rates),
        "share": 1.0,
        "padding": 0.0,
        "goal": None,
    }
    for name, _packed, _way, goal in ways:
        yield {
            "what": name,
            "tokens_per_s": statistics.median(rate for rate, _ in seen[name]),
            "share": statistics.median(shares[name]),
            "shares": [round(share, 3) for share in shares[name]],
            "padding": round(seen[name][0][1], 4),
            "goal": goal,
        }


def bare(subject: Any, site: Any, plan: list[list[list[int]]], *, packed: bool) -> tuple[float, float]:
    """Tokens per second of the forward pass alone, stopped after the site's block, and the share of padding."""
    import torch

    from turnscope.harvest.pool import pad

    start, tokens, places = time.perf_counter(), 0, 0
    for batch in plan:
        lengths = [len(row) for row in batch]
        tokens += sum(lengths)
        if packed and len(batch) > 1:
            subject.capture_packed(torch.tensor([token for row in batch for token in row]), lengths, [site])
            places += sum(lengths)
        else:
            subject.capture(*pad(batch, subject.pad_id), [site])
            places += len(batch) * max(lengths)
    return tokens / (time.perf_counter() - start), 1 - tokens / places


def store_job(model: Path, folder: Path, chats: int, threads: int) -> StoreJob:
    """What the stores of other libraries are to read: the chats of our rows, 64k tokens a round."""
    from transformers import AutoTokenizer

    return StoreJob(
        library="", store="", model=str(model), ids=str(ids_path(folder, model)),
        chats=str(folder / f"chats-{chats}.jsonl"), block=half_depth(model),
        pad_id=AutoTokenizer.from_pretrained(model).pad_token_id, tokens=1 << 16, rounds=3, threads=threads,
    )  # fmt: skip


def half_depth(model: Path) -> int:
    """The block that is read."""
    return json.loads((model / "config.json").read_text())["num_hidden_layers"] // 2 - 1


def ids_path(folder: Path, model: Path) -> Path:
    """Where the chats' tokens lie, chat by chat, for whoever does not render."""
    return folder / f"ids-{model.name}.json"


def settings(model: Path, transcripts: Path, out: Path, **changes: Any) -> Any:
    """A harvest at half depth."""
    from turnscope.harvest.config import HarvestConfig

    chosen: dict[str, Any] = {
        "sites": (f"resid.{half_depth(model)}",),
        "batch_tokens": BUDGET,
        "shard_turns": SHARD,
        **changes,
    }
    return HarvestConfig(transcripts=transcripts, model=str(model), out=out, **chosen)


def harvest(model: Path, transcripts: Path, out: Path, **changes: Any) -> tuple[float, float]:
    """Tokens per second of a harvest, from rendering to the files, and the share of padding; its files are removed."""
    import shutil

    from turnscope.harvest.harvest import run

    result = run(settings(model, transcripts, out, **changes))
    shutil.rmtree(out)
    return result.tokens_per_second, result.padding


def memory_of(model: Path, transcripts: Path, folder: Path) -> int:
    """Peak memory of a harvest in a fresh process, in MiB."""
    command = [sys.executable, __file__, "--memory", str(model), str(transcripts), str(folder / "memory")]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak_mib() -> int:
    """Most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def make_qwen(folder: Path) -> Path:
    """A random Qwen2 of 12 blocks and width 256, with a tokenizer of one token a byte, or dialogue-5M's at hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    if DIALOGUE.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(DIALOGUE)
    else:
        sys.path.insert(0, str(ROOT / "tests" / "harvest"))
        from harvest_support import make_tokenizer

        tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=2,
        intermediate_size=704, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def import_chats(folder: Path, n: int) -> Path:
    """An import of ``n`` chats; more than there are come round again with other words at the start."""
    from turnscope.transcripts.config import ImportConfig
    from turnscope.transcripts.import_ import run

    source, out = folder / f"chats-{n}.jsonl", folder / f"transcripts-{n}"
    if not source.exists():
        with source.open("w", encoding="utf-8") as file:
            for chat, _ in zip(chats(), range(n), strict=False):
                file.write(json.dumps(chat) + "\n")
        run(ImportConfig(sources=(source,), out=out))
    return out


def chats() -> Iterator[dict[str, Any]]:
    """Chats as records, without end."""
    turn = 0
    while True:
        for i, messages in enumerate(_some_chats()):
            if turn:
                messages[0]["content"] = f"({turn}) {messages[0]['content']}"
            yield {"id": f"{turn}-{i}", "messages": messages}
        turn += 1


def _some_chats() -> Iterator[list[dict[str, str]]]:
    if SGD.is_file():
        import zstandard

        with SGD.open("rb") as raw, zstandard.open(raw, "rb") as file:
            for line in io.TextIOWrapper(file, "utf-8", newline="\n"):
                yield json.loads(line)["messages"]
        return
    rng = random.Random(0)
    for _ in range(2000):
        lengths = [max(3, int(rng.lognormvariate(3, 0.8))) for _ in range(2 * rng.randint(1, 8))]
        yield [
            {
                "role": ("user", "assistant")[i % 2],
                "content": " ".join(rng.choices(["sun", "rain", "tea", "boat", "lamp", "fig"], k=n)),
            }
            for i, n in enumerate(lengths)
        ]


if __name__ == "__main__":
    sys.exit(main())
