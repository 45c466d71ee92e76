"""The files backend: what is written can be answered by hand or by a batch endpoint, and is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from turnscope.artifacts import ConfigError, DataError
from turnscope.llm import Failed, LLMConfig, PendingAnswers, Reply, open_client
from turnscope.llm.request import ask

REQUESTS = [ask("one"), ask("two", schema={"type": "integer"}), ask("three")]


def config(tmp_path: Path) -> LLMConfig:
    return LLMConfig(model="any", backend="files", folder=tmp_path / "io", table=tmp_path / "llm.sqlite")


def pending(tmp_path: Path) -> list[dict[str, Any]]:
    with open_client(config(tmp_path)) as client, pytest.raises(PendingAnswers) as told:
        client.ask(REQUESTS)
    assert told.value.where == str(tmp_path / "io" / "answers.jsonl")
    assert told.value.exit_code == 8
    return [json.loads(line) for line in (tmp_path / "io" / "requests.jsonl").read_text().splitlines()]


def answer(tmp_path: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / "io" / "answers.jsonl").write_text(text, encoding="utf-8")


def test_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    asked = pending(tmp_path)
    assert [each["body"]["messages"][0]["content"] for each in asked] == ["one", "two", "three"]
    batch = {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}], "model": "m",
             "usage": {"prompt_tokens": 5, "completion_tokens": 1}}  # fmt: skip
    answer(tmp_path, {"custom_id": asked[0]["custom_id"], "text": "eins"},
           {"custom_id": asked[1]["custom_id"], "response": {"status_code": 200, "body": batch}, "error": None},
           "")  # fmt: skip
    rest = pending(tmp_path)
    assert [each["custom_id"] for each in rest] == [asked[2]["custom_id"]]
    answer(tmp_path, {"custom_id": rest[0]["custom_id"], "text": "drei"})  # the others are kept in the table
    with open_client(config(tmp_path)) as client:
        texts = [reply.text for reply in client.ask(REQUESTS) if isinstance(reply, Reply)]
        assert client.ledger.calls == 3
        assert client.spent_usd == 0
    assert texts == ["eins", "7", "drei"]


def test_bad_answers_are_no_answers(tmp_path: Path) -> None:
    ids = [each["custom_id"] for each in pending(tmp_path)]
    answer(tmp_path, {"custom_id": ids[0], "text": " "}, {"custom_id": ids[1], "text": "seven"},
           {"custom_id": ids[2], "response": None, "error": {"message": "expired"}})  # fmt: skip
    with open_client(config(tmp_path)) as client:
        replies = client.ask(REQUESTS)
    assert [reply.kind for reply in replies if isinstance(reply, Failed)] == ["empty", "schema", "transport"]
    answer(tmp_path, *({"custom_id": id_, "text": "7"} for id_ in ids))  # mended by hand
    with open_client(config(tmp_path)) as client:
        assert all(isinstance(reply, Reply) for reply in client.ask(REQUESTS))


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"custom_id": "zz", "text": ""}', '{"custom_id": "00"}',
                                  '{"custom_id": "00", "text": 7}'])  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    pending(tmp_path)
    answer(tmp_path, "", line)
    with open_client(config(tmp_path)) as client, pytest.raises(DataError, match="line 2"):
        client.ask(REQUESTS)


def test_a_folder_is_needed() -> None:
    with pytest.raises(ConfigError, match="folder"):
        LLMConfig(model="any", backend="files")
