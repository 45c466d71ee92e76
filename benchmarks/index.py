"""The feature index against its limits: `python benchmarks/index.py [--quick] [--json FILE]`.

Noise is indexed at one size and at ten times as many turns, each in a process of its own: turns a second, bytes on
disk, and peak memory (RSS) beyond that of the imports. Memory may grow by the table of turns, some hundred bytes a
turn; the codes themselves (8 bytes each on disk, twice) must not show in it. Then how fast a finished index is read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from turnscope.artifacts import Draft, begin, write_bytes
from turnscope.features.config import IndexConfig
from turnscope.features.index import run
from turnscope.features.store import open_index
from turnscope.harvest import ActivationsConfig
from turnscope.harvest._safetensors import pack
from turnscope.harvest.pieces import write_piece
from turnscope.harvest.shards import shard_name, turns_name
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation, Part, Turn
from turnscope.transcripts.import_ import import_conversations
from turnscope.transcripts.store import open_transcripts

WIDTH, FEATURES, ACTIVE, TURNS_A_CHAT, SHARD = 64, 2048, 48, 8, 8192
MIB = 1 << 20


def main() -> int:
    """Measure, print, return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the turns")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one[0]), int(arguments.one[1]))))
        return 0
    small = 2_000 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory() as folder:
        rows = [in_its_own_process(Path(folder) / str(n), n) for n in (small, 10 * small)]
        rows[1] |= reading(Path(folder) / str(10 * small) / "index")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    grown = (rows[1]["peak_mib"] - rows[0]["peak_mib"]) * MIB / (rows[1]["turns"] - rows[0]["turns"])
    limits = [
        ("bytes of memory a further turn costs", round(grown), 512),
        ("ms to read a feature's turns, p95", rows[1]["feature_ms_p95"], 20),
    ]
    targets = [{"name": name, "value": value, "goal": goal, "holds": value < goal} for name, value, goal in limits]
    for target in targets:
        print(f"{'ok  ' if target['holds'] else 'MISS'} {target['name']}: {target['value']} (goal < {target['goal']})")
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows, "targets": targets}, indent=1))
    return 0 if all(target["holds"] for target in targets) else 1


def in_its_own_process(folder: Path, n_turns: int) -> dict[str, Any]:
    """Data is made in this process, indexed in another."""
    make(folder, n_turns)
    ran = subprocess.run(
        [sys.executable, __file__, "--one", str(folder), str(n_turns)], capture_output=True, text=True, check=False,
        env={**os.environ, "TURNSCOPE_QUIET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout)


def make(folder: Path, n_turns: int) -> None:
    """Transcripts of noise, activations of noise, a random dictionary that fires on ACTIVE features a turn."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(500)])

    def chats() -> Any:
        for c in range(n_turns // TURNS_A_CHAT):
            said = rng.choice(words, (TURNS_A_CHAT, 6))
            turns = (
                Turn(t, ("user", "assistant")[t % 2], (Part("text", " ".join(said[t])),)) for t in range(TURNS_A_CHAT)
            )
            yield Conversation(f"c{c}", tuple(turns))

    import_conversations(chats(), folder / "transcripts", ImportConfig(out=folder / "transcripts"))
    store = open_transcripts(folder / "transcripts")
    columns = store.columns(["id", "split", "group"]).to_pydict()
    config = ActivationsConfig(model="noise", site="resid.0", template="plain")
    draft = begin(folder / "activations", "activations", config, {"model": "noise", "transcripts": store.fingerprint})
    assert isinstance(draft, Draft)
    per_shard = SHARD // TURNS_A_CHAT
    for index, start in enumerate(range(0, len(columns["id"]), per_shard)):
        ids = columns["id"][start : start + per_shard]
        n = len(ids) * TURNS_A_CHAT
        means = torch.from_numpy(rng.normal(size=(n, WIDTH)).astype(np.float32))
        write_bytes(draft.path / shard_name(index), pack({"mean_ND": means}))
        each = {name: np.repeat(values[start : start + per_shard], TURNS_A_CHAT) for name, values in columns.items()}
        turn = np.tile(np.arange(TURNS_A_CHAT), len(ids))
        table = {
            "conversation_id": each["id"], "turn": turn, "role": np.where(turn % 2, "assistant", "user"),
            "split": each["split"], "group": each["group"], "n_tokens": np.full(n, 6), "status": ["exact"] * n,
            "norm": np.full(n, WIDTH**0.5, np.float32),
        }  # fmt: skip
        write_piece(draft.path / turns_name(index), table, {"norms": {}, "counts": {}, "conversations": ""})
    draft.commit({})
    sae = SparseAutoencoder(SAEConfig(d_model=WIDTH, n_features=FEATURES, k=ACTIVE, architecture="topk"))
    noise_DF = torch.randn(WIDTH, FEATURES, generator=torch.Generator().manual_seed(0))
    sae.w_enc_DF.data = torch.nn.functional.normalize(noise_DF, dim=0)
    sae.w_dec_FD.data = sae.w_enc_DF.data.T.contiguous()
    made = begin(folder / "sae", "sae", sae.config, {})
    assert isinstance(made, Draft)
    sae.save(made.path)
    made.commit({})


def measure(folder: Path, n_turns: int) -> dict[str, Any]:
    """Index, in this process. Memory is taken above what it held when everything was imported."""
    torch.ones(8, 8) @ torch.ones(8, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    artifact = run(
        IndexConfig(
            activations=folder / "activations", sae=folder / "sae", transcripts=folder / "transcripts",
            out=folder / "index", cofiring_turns=2_000, word_turns=500, memory_entries=200_000,
        )
    ).artifact  # fmt: skip
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    counts = artifact.manifest.counts
    return {
        "turns": counts["turns"], "entries": counts["entries"], "seconds": round(seconds, 1),
        "turns_per_second": round(counts["turns"] / seconds),
        "disk_mib": round(sum(file.size for file in artifact.manifest.files.values()) / MIB, 1),
        "peak_mib": round(peak / 1024, 1),
    }  # fmt: skip


def reading(path: Path) -> dict[str, Any]:
    """Milliseconds, 95th percentile, to read all turns of a feature and all features of a turn."""
    index = open_index(path)
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, read, most in (
        ("feature", index.feature_turns, index.n_features),
        ("turn", index.turn_features, index.n_turns),
    ):
        times: list[float] = []
        for number in rng.integers(0, most, 300).tolist():
            start = time.perf_counter()
            read(number)
            times.append(time.perf_counter() - start)
        found[f"{name}_ms_p95"] = round(1000 * float(np.quantile(times, 0.95)), 3)
    return found


if __name__ == "__main__":
    sys.exit(main())
