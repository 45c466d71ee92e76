"""How long queries take: random postings of known densities in a real index, queries of one to eight terms.

    python benchmarks/query.py                 # a million turns, as QUALITY's load L4 asks
    python benchmarks/query.py --quick         # a tenth of it

Prints, for each query, milliseconds (median and 95th percentile of the wall clock, median of processor time, each time
parsed anew on an index opened before) and turns found; what the first query costs; and the same for searches over as
many explanations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from turnscope.artifacts import begin, write_json
from turnscope.artifacts.config import Config
from turnscope.features.arrays import Column, write_arrays
from turnscope.features.query import ExplanationSearch, Querier
from turnscope.features.store import FeatureIndex, open_index

DENSITIES = [0.0001, 0.001, 0.004, 0.01, 0.05, 0.2, 0.5, 0.9]
QUERIES = [
    "F3",
    'F2 > 0.4 & !F5 & topic = "law"',
    "F4 > p90 & role = assistant & next(F3)",
    "F5 & F6 & F7",
    "F5 | F6 | !F7",
    "!F0 & !F5 & !F6",
    "within(5, F2) & any(F1) & turn > 3",
    'F4 > 0.4 & !F7 & role = assistant & next(F3) & topic = "law"',
    "count(F5 > 0.5max) >= 3 | all(F7) | within(20, F6 & !F5) | prev(F4 | F3)",
]


class _Settings(Config):
    note: str = "random"


def write_index(folder: Path, n: int) -> FeatureIndex:
    dice = np.random.default_rng(0)
    turns_each = 10
    topics = [
        json.dumps({"topic": name, "right": right}) for name in ("law", "health", "tone") for right in (True, False)
    ]
    names = pa.array([f"conversation-{number}" for number in range(n // turns_each)])
    turn_N = np.arange(n) % turns_each
    roles = pa.array(["user", "assistant"])
    table = pa.table(
        {
            "conversation_id": names.take(pa.array(np.arange(n) // turns_each)),
            "turn": pa.array(turn_N.astype(np.int32)),
            "role": roles.take(pa.array(turn_N % 2)),
            "split": pa.array(["train", "eval"]).take(pa.array((np.arange(n) // turns_each) % 2)),
            "n_tokens": pa.array(dice.integers(1, 300, n).astype(np.int32)),
            "labels": pa.array(topics).take(pa.array(dice.integers(0, len(topics), n))),
        }
    )
    draft = begin(folder / "features" / "random", "features", _Settings(), {})
    pq.write_table(table, draft.path / "turns.parquet")
    rows = [np.flatnonzero(dice.random(n) < density) for density in DENSITIES]
    total = sum(map(len, rows))
    columns = {
        "by_feature.ptr": Column(np.int64, len(rows) + 1),
        "by_feature.rows": Column(np.int32, total),
        "by_feature.values": Column(np.float32, total),
    }
    with write_arrays(draft.path, columns) as writers:
        writers["by_feature.ptr"].append(np.cumsum([0, *map(len, rows)]))
        for each in rows:
            writers["by_feature.rows"].append(each)
            writers["by_feature.values"].append(dice.gamma(2, 0.5, len(each)))
    pq.write_table(pa.table({"feature": list(range(len(rows)))}), draft.path / "features.parquet")
    write_json(draft.path / "index.json", {"unit": "turn", "n_turns": n, "n_features": len(rows)})
    draft.commit({"turns": n})
    return open_index(draft.path)


def timed(ask: Callable[[], int], repeats: int) -> tuple[int, str]:
    """What was found, and how long it took."""
    taken, busy = list[float](), list[float]()
    found = 0
    for _ in range(repeats):
        start, start_busy = time.perf_counter(), time.process_time()
        found = ask()
        taken.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - start_busy))
    times = (np.median(taken), np.percentile(taken, 95), np.median(busy))
    return found, "{:8.1f} ms {:8.1f} ms p95 {:8.1f} ms CPU".format(*times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    n = 100_000 if parser.parse_args().quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        index = write_index(Path(folder), n)
        querier = Querier(index)
        found, times = timed(lambda: len(querier.find('next(F3) & topic = "law" & role = user')), 1)
        print(f"{times} {found:>9,}  the first query on {n:,} turns, which reads their table")
        for query in QUERIES:
            found, times = timed(lambda query=query: len(querier.find(query)), 20)
            print(f"{times} {found:>9,}  {query}")
        result = querier.find("F4")
        _, times = timed(lambda: result.table(20, by="F4", context=1, texts=False).num_rows, 10)
        print(f"{times} {len(result):>9,}  the first 20 by strength, with neighbours")
    search_explanations(n)


def search_explanations(n: int) -> None:
    dice = np.random.default_rng(1)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rd", "st", "ll", "x")]
    picks = (len(words) * dice.random((n, 6)) ** 3).astype(int)  # some words are frequent
    texts = pa.array([" ".join(words[pick] for pick in row) for row in picks.tolist()])
    numbers = pa.array(np.arange(n, dtype=np.int32))
    table = pa.table({"feature": numbers, "text": texts, "source": pa.nulls(n, pa.string())})
    start = time.perf_counter()
    search = ExplanationSearch(table)
    print(f"{n:,} explanations: {time.perf_counter() - start:.1f} s to take in")
    for asked in (words[200], words[290][:2], f"{words[150]} {words[250]}", words[0], f"{words[0]} {words[1]}"):
        found, times = timed(lambda asked=asked: len(search.find(asked, 20)), 10)
        print(f"{times} {found:>9,}  search {asked}")


if __name__ == "__main__":
    main()
