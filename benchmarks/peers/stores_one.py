"""One activation store, in its own environment, between bare forward passes: `python -m peers.stores_one JOB.json`.

A store is a function of `stores_LIBRARY.py` that takes the job and returns batches without end, or a `Rate` of its own
where the library keeps the loop to itself.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peers.apart import result_path
from peers.bare import Bare, TokensSeen
from peers.clock import peak_mib
from peers.job import StoreJob

Rate = Callable[[int], float]
"""Takes tokens to be read, returns tokens per second through the model."""


def main() -> int:
    """Each round runs the store between two runs of its limit."""
    path = Path(sys.argv[1])
    job = StoreJob(**json.loads(path.read_text()))
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job.threads)
    library = importlib.import_module(f"peers.stores_{job.library}")
    made = getattr(library, job.store)(job)
    rate: Rate = served(made, TokensSeen(job.pad_id)) if isinstance(made, Iterator) else made
    held = peak_mib()
    limit = Bare(job.model, Path(job.ids), job.block).rate
    limit(job.tokens // 4)
    rates, shares, before = list[float](), list[float](), limit(job.tokens)
    for _ in range(job.rounds):
        rates.append(rate(job.tokens))
        after = limit(job.tokens)
        shares.append(2 * rates[-1] / (before + after))
        before = after
    result = {"tokens_per_s": median(rates), "share": median(shares), "shares": shares, "start_mib": held}
    result_path(path).write_text(json.dumps(result))
    return 0


def served(batches: Iterator[Any], seen: TokensSeen) -> Rate:
    """Batches are drawn until enough tokens went through the model: a round ends where a buffer is filled again."""
    next(batches)

    def rate(n_tokens: int) -> float:
        first, start = seen.count, time.perf_counter()
        while seen.count - first < n_tokens:
            next(batches)
        return (seen.count - first) / (time.perf_counter() - start)

    return rate


if __name__ == "__main__":
    sys.exit(main())
