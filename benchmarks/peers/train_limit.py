"""No library: the encoder product alone, in float32 (beside itself, to see the noise) and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peers.clock import Product, Steps
from peers.job import Job
from peers.planted import Rows


def run(job: Job, steps: Steps, _rows: Rows, begin: Callable[[], None]) -> None:
    begin()
    product = Product(job.sizes, getattr(torch, job.variant))
    for _ in steps:
        product()
