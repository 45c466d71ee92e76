"""Examples of a topic: what the model wrote is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from endpoint import Endpoint, chat

from turnscope.artifacts import ConfigError, DataError
from turnscope.llm import LLMConfig, open_client
from turnscope.llm.examples import write_examples

Make = Callable[..., LLMConfig]


def say(endpoint: Endpoint, positive: list[str], negative: list[str]) -> None:
    endpoint.faults["*"] = [chat(json.dumps({"positive": positive, "negative": negative}))]


def test_blank_repeated_and_shared_texts_are_left_out(endpoint: Endpoint, config: Make) -> None:
    say(endpoint, ["a", " a ", "", "b", "c", "x"], ["x", "d", "e", "f"])
    with open_client(config()) as client:
        assert write_examples(client, "law", 2) == (["a", "b"], ["d", "e"])
        assert write_examples(client, "law", 2) == (["a", "b"], ["d", "e"])
        assert client.n_calls == 1
    assert "law" in endpoint.bodies[0]["messages"][-1]["content"]


@pytest.mark.parametrize(("positive", "negative"), [(["a"], ["b", "c"]), ([], []), (["a", "b"], ["a", "b"])])
def test_too_few(endpoint: Endpoint, config: Make, positive: list[str], negative: list[str]) -> None:
    say(endpoint, positive, negative)
    with open_client(config()) as client, pytest.raises(DataError):
        write_examples(client, "law", 5)


def test_no_examples(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["*"] = [chat("Sure! Here they are: 1. ...")]
    with open_client(config()) as client:
        with pytest.raises(DataError, match="not as asked"):
            write_examples(client, "law")
        for topic, n in ((" ", 5), ("law", 1), ("x" * 3000, 5)):
            with pytest.raises(ConfigError):
                write_examples(client, topic, n)
