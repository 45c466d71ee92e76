"""One run of one library, in the environment of that library: `python -m peers.train_one JOB.json`, in `benchmarks`.

The result is written beside the job, as JSON. A library is `train_LIBRARY.py` with
`run(job, steps, rows, begin) -> Trained | None`, which hands `steps` to the library's own loop and calls `begin` right
before the model is built.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers.apart import result_path
from peers.clock import Product, Steps, forget_peak, peak_mib, summary
from peers.job import Job, UnsupportedError
from peers.planted import Rows, quality


def main() -> int:
    """Run, write the result."""
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text()))
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    try:
        result = run(job)
    except UnsupportedError as error:
        result = {"skip": str(error)}
    result_path(path).write_text(json.dumps(result))
    return 0


def run(job: Job) -> dict[str, Any]:
    """The row's figures."""
    shape = job.sizes
    library = importlib.import_module(f"peers.train_{job.library}")
    rows = Rows(Path(job.rows), shape)
    steps = Steps(rows, job.steps, None if job.quality else Product(shape))
    held = [0.0]

    def begin() -> None:
        held[0] = forget_peak()

    train: Callable[..., Any] = library.run
    trained = train(job, steps, rows, begin)
    found = {
        **summary(steps.done[: job.steps], shape.batch),
        "added_mib": steps.peak_mib - held[0],
        "added_mib_to_the_end": peak_mib() - held[0],
    }
    return {**found, **quality(trained, rows)} if job.quality and trained else found


if __name__ == "__main__":
    sys.exit(main())
