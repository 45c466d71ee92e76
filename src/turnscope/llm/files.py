"""The files backend: requests as JSON lines for whoever answers them, answers as JSON lines beside.

Requests are in the form of OpenAI's batch files, so that a provider's batch endpoint or vLLM's `run-batch` takes them
as they are, and both their output and plain {"custom_id", "text"} lines are read as answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from turnscope.artifacts import DataError, StorageError, atomic_path
from turnscope.llm.request import Request
from turnscope.llm.transport import Answer, openai_body, read_openai

REQUESTS, ANSWERS = "requests.jsonl", "answers.jsonl"


def write_requests(folder: Path, waiting: Sequence[tuple[bytes, Request]], model: str) -> Path:
    """All that wait for an answer, in place of what the file held. Raises StorageError."""
    path = folder / REQUESTS
    with atomic_path(path) as temp, temp.open("w", encoding="ascii", newline="\n") as file:
        for key, request in waiting:
            body = openai_body(request, request.model or model)
            body.update(body.pop("extra_body"))
            line = {"custom_id": key.hex(), "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


def read_answers(folder: Path) -> dict[bytes, Answer | str]:
    """Answers by key, the last one of several; of a request that a batch endpoint could not answer, the reason.

    Raises DataError for a line that is none, StorageError.
    """
    path, found = folder / ANSWERS, dict[bytes, "Answer | str"]()
    if not path.exists():
        return found
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}", where=path) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise TypeError("not an object")
            found[bytes.fromhex(value["custom_id"])] = _answer(cast("dict[str, Any]", value))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise DataError(
                f"line {number} is no answer: {type(error).__name__}: {error}", where=path,
                fix='write {"custom_id": "...", "text": "..."}, or the output of a batch endpoint',
            ) from error  # fmt: skip
    return found


def _answer(value: Mapping[str, Any]) -> Answer | str:
    if "text" in value:
        if not isinstance(value["text"], str):
            raise TypeError("text is no string")
        return Answer(value["text"], "stop")
    if value.get("error"):
        return str(value["error"])
    response = value["response"]
    if response["status_code"] != 200:
        return f"status {response['status_code']}"
    return read_openai(response["body"])
