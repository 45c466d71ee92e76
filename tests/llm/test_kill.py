"""Killed at any moment, by two processes at once: no answer on disk is asked for again, and the table is whole."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint import Endpoint, say

from turnscope.llm import LLMConfig, Reply, open_client
from turnscope.llm.request import ask

JOB = """
import sys
from pathlib import Path
from turnscope.llm import LLMConfig, open_client
from turnscope.llm.request import ask
config = LLMConfig(model="judge", base_url=sys.argv[1] + "/v1", table=Path(sys.argv[2]), max_concurrent=4)
with open_client(config) as client:
    client.ask([ask(f"p{i}") for i in range(int(sys.argv[3]))])
"""
N = 150


def answered(table: Path) -> set[bytes]:
    with sqlite3.connect(table) as base:
        return {row[0] for row in base.execute("SELECT key FROM calls WHERE state = 'ok'")}


def start(endpoint: Endpoint, table: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, endpoint.url, str(table), str(N)], stderr=subprocess.DEVNULL, env={"PATH": ""}
    )


@pytest.mark.slow
def test_no_paid_answer_is_asked_for_again(endpoint: Endpoint, config: Callable[..., LLMConfig]) -> None:
    endpoint.delay_s = 0.05
    made, draw = config(), random.Random(0)
    keys = {ask(f"p{i}").key(made.endpoint, made.model): f"p{i}" for i in range(N)}
    for _ in range(4):
        job = start(endpoint, made.table)
        first = sum(endpoint.asked.values())
        while job.poll() is None and sum(endpoint.asked.values()) == first:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.4)
        job.send_signal(signal.SIGKILL)
        job.wait()
        time.sleep(0.1)
        kept = {keys[key]: endpoint.asked[keys[key]] for key in answered(made.table)}
        with sqlite3.connect(made.table) as base:
            assert base.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    jobs = [start(endpoint, made.table) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert {prompt: endpoint.asked[prompt] for prompt in kept} == kept
    assert len(kept) > 0
    with open_client(made) as client:
        replies = client.ask([ask(f"p{i}") for i in range(N)])
        ledger = client.ledger
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [say(f"p{i}") for i in range(N)]
    # every call that reached the endpoint is in the table: answered once, or cut off by a kill
    assert ledger.calls - ledger.lost == N
    assert sum(endpoint.asked.values()) <= ledger.calls
    assert ledger.lost <= 4 * 4
