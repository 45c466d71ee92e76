"""Building and reading postings at load: `python benchmarks/postings.py [--quick] [--json FILE]`.

Random codes, 64 active features a turn of 65,536 with Zipf's densities, a million turns and a tenth of that, each in a
process of its own: encoded codes come in, the index's own code writes them in both directions. Told are postings a
second of processor time (each stored twice), peak memory beyond the imports, and how long a feature's turns take.

Beside it delphi's cache on the same codes, as its code lays it out: 28 bytes for each code in memory while it is made
(three int64 of location, one float32), saved in splits of features; a feature is read by loading its split, sorting it
by feature and taking its part, which its loader does each time it is opened.
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
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from turnscope.artifacts import Draft, begin
from turnscope.features.arrays import map_array
from turnscope.features.config import IndexConfig
from turnscope.features.encode import Block, Csr
from turnscope.features.postings import Postings, Written
from turnscope.features.statistics import Describer

FEATURES, ACTIVE, BLOCK = 65_536, 64, 8_192
SPLITS = 5  # delphi's default
MIB = 1 << 20


class Codes:
    """Stands for a dictionary: random codes, the same for a block of turns whoever asks."""

    unit, n_features, n_turn_features = "turn", FEATURES, FEATURES

    def __init__(self) -> None:
        weight_F = 1 / (np.arange(FEATURES) + 200.0)
        self._cdf = np.cumsum(weight_F) / weight_F.sum()

    def draw(self, start: int, n: int) -> Csr:
        """Codes of the turns from `start` on."""
        rng = np.random.default_rng(start)
        features = np.searchsorted(self._cdf, rng.random((n, ACTIVE))).astype(np.int32)
        features.sort(axis=1)
        new = np.ones(features.shape, np.bool_)
        new[:, 1:] = features[:, 1:] != features[:, :-1]
        return Csr(new.sum(1), features[new], rng.random(int(new.sum()), np.float32) + np.float32(0.1))

    def encode(self, start_N: Any, *_: Any) -> Block:
        """As of a dictionary; the activations are the numbers of the turns."""
        return Block(self.draw(int(start_N[0]), len(start_N)), None, 0)


class Store:
    """Stands for activations: a turn's is its number."""

    def mean_ND(self, rows_N: Any) -> Any:
        return rows_N


def main() -> int:
    """Measure, print, return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the turns")
    parser.add_argument("--json", type=Path, help="write machine, rows and targets here")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, folder, n = arguments.one
        print(json.dumps({"ours": ours, "delphi": delphi}[what](Path(folder), int(n))))
        return 0
    large = 100_000 if arguments.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        small = apart("ours", Path(folder) / "small", large // 10)
        mine = apart("ours", Path(folder) / "large", large)
        peer = apart("delphi", Path(folder) / "delphi", large)
    rows = [small, mine, peer]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    grown, memory = mine["peak_mib"] / small["peak_mib"], peer["peak_mib"] / mine["peak_mib"]
    targets = [
        target("postings a second of processor time", mine["postings_per_cpu_s"], 2e6, least=True),
        target("memory over ten times the turns", round(grown, 2), 1.15),
        target("ms to read a feature's turns, p95", mine["feature_ms_p95"], 50),
        target("memory of delphi's cache over ours", round(memory, 1), 5, least=True),
        target("time of delphi's read over ours", round(peer["feature_ms"] / mine["feature_ms"], 1), 10, least=True),
    ]
    for each in targets:
        print(f"{'ok  ' if each['holds'] else 'MISS'} {each['name']}: {each['value']} (goal {each['goal']})")
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows, "targets": targets}, indent=1))
    return 0 if all(each["holds"] for each in targets) else 1


def target(name: str, value: float, goal: float, *, least: bool = False) -> dict[str, Any]:
    """A figure and what it should be."""
    holds = value >= goal if least else value <= goal
    return {"name": name, "value": value, "goal": f"{'>=' if least else '<='} {goal:g}", "holds": holds}


def apart(what: str, folder: Path, n: int) -> dict[str, Any]:
    """In a process of its own, so that its peak of memory is its own."""
    ran = subprocess.run(
        [sys.executable, __file__, "--one", what, str(folder), str(n)], capture_output=True, text=True, check=False,
        env={**os.environ, "TURNSCOPE_QUIET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return {"what": what, "turns": n, **json.loads(ran.stdout)}


def ours(folder: Path, n: int) -> dict[str, Any]:
    """Write both directions and each feature's figures; then read."""
    config = IndexConfig(
        activations=folder, sae=folder, transcripts=folder, out=folder / "index", block_turns=BLOCK,
        memory_entries=2_000_000,
    )  # fmt: skip
    draft = begin(config.out, "features", config, {"codes": "random"})
    assert isinstance(draft, Draft)
    codes: Any = Codes()
    store: Any = Store()
    drawing, drawn = time.process_time(), codes.draw(0, BLOCK)
    drawing = time.process_time() - drawing
    del drawn
    before = peak()
    start = time.process_time()
    postings = Postings(draft, config, store, codes, np.arange(n))
    postings.make_pieces()
    counts = postings.join()
    describer = Describer(n, 20, 0.5, {}, [])
    for group in postings.turn_round(counts):
        describer.add(group)
    table = describer.features()
    seconds = time.process_time() - start - drawing * n / BLOCK  # making codes up is no part of it
    used = peak() - before
    entries = int(counts.turns_F.sum())
    written = Written(draft.path, n, FEATURES)
    found = timed(written.feature_turns, counts.turns_F)
    assert table.num_rows == FEATURES
    assert int(map_array(draft.path / "by_feature.ptr.npy")[-1]) == entries
    return {
        "postings": entries, "postings_per_cpu_s": round(entries / seconds), "cpu_s": round(seconds, 1),
        "peak_mib": round(used / MIB, 1), **found,
    }  # fmt: skip


def delphi(folder: Path, n: int) -> dict[str, Any]:
    """The same codes laid out as in delphi's cache: all in memory, saved in splits, a split sorted when it is read."""
    folder.mkdir(parents=True)
    codes = Codes()
    before = peak()
    locations: list[Any] = []
    values: list[Any] = []
    for start in range(0, n, BLOCK):
        drawn = codes.draw(start, min(BLOCK, n - start))
        rows = np.repeat(np.arange(start, start + len(drawn.counts)), drawn.counts)
        location = np.stack([rows, np.zeros_like(rows), drawn.features_E.astype(np.int64)], axis=1)
        locations.append(location)
        values.append(drawn.values_E)
    location_E3, value_E = np.concatenate(locations), np.concatenate(values)
    used = peak() - before
    del locations, values
    counts_F = np.bincount(location_E3[:, 2], minlength=FEATURES)
    bounds = np.linspace(0, FEATURES, SPLITS + 1).astype(int)
    for i in range(SPLITS):
        mine = (location_E3[:, 2] >= bounds[i]) & (location_E3[:, 2] < bounds[i + 1])
        save_file(
            {"locations": np.ascontiguousarray(location_E3[mine]), "activations": value_E[mine]},
            folder / f"{i}.safetensors",
        )

    def read(feature: int) -> Any:
        split = load_file(folder / f"{int(np.searchsorted(bounds, feature, side='right')) - 1}.safetensors")
        order = np.argsort(split["locations"][:, 2], kind="stable")
        at, values = split["locations"][order], split["activations"][order]
        first, last = np.searchsorted(at[:, 2], [feature, feature + 1])
        return at[first:last, 0], values[first:last]

    return {"postings": len(value_E), "peak_mib": round(used / MIB, 1), **timed(read, counts_F, 10)}


def timed(read: Any, counts_F: Any, times: int = 300) -> dict[str, float]:
    """Milliseconds to read all turns of a feature, of features that fire."""
    rng, taken = np.random.default_rng(0), list[float]()
    for feature in rng.choice(np.flatnonzero(counts_F), times).tolist():
        start = time.perf_counter()
        rows, values = read(feature)
        taken.append(time.perf_counter() - start)
        assert len(rows) == len(values) == counts_F[feature]
    return {
        "feature_ms": round(1000 * float(np.median(taken)), 3),
        "feature_ms_p95": round(1000 * float(np.quantile(taken, 0.95)), 3),
    }


def peak() -> int:
    """Largest resident memory so far, in bytes."""
    pa.default_memory_pool().release_unused()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
