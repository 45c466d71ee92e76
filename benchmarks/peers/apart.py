"""A job in a process and an environment of its own: JSON in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.install import python_of

THREADS = 2
_HERE = Path(__file__).parents[1]
_QUIET = {
    "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS), "TURNSCOPE_QUIET": "1", "TQDM_DISABLE": "1",
    "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg",
}  # fmt: skip


def apart(library: str, module: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `module` writes for the job, run by the interpreter of `library` (ours for `turnscope` and `limit`). What
    goes wrong there comes back as `error`.

    Args:
        library: whose environment.
        module: takes the path of the job, and writes beside it what `result_path` names.
        job: its `folder` is set to a fresh one.
        folder: where that is made, and removed.
    """
    python = sys.executable if library in ("turnscope", "limit") else str(python_of(library))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own, "job.json")
        path.write_text(json.dumps({**job, "folder": own}))
        command = [python, "-m", module, str(path)]
        done = subprocess.run(command, cwd=_HERE, env={**os.environ, **_QUIET}, capture_output=True, text=True)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        return json.loads(result_path(path).read_text())


def result_path(job: Path) -> Path:
    """Where the result of a job goes."""
    return job.with_suffix(".result.json")
