"""Asking: faults, the ceiling, the cache, keys. The endpoint counts what it was asked."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from endpoint import Endpoint, chat, hang_up, raw, say, sleep, status

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.llm import CeilingReached, Failed, LLMConfig, Message, Reply, Request, open_client
from turnscope.llm.request import ask

Make = Callable[..., LLMConfig]


def test_answers_in_order_and_once_for_equal_requests(endpoint: Endpoint, config: Make) -> None:
    prompts = [f"p{i}" for i in (*range(20), 3, 3)]
    with open_client(config(max_concurrent=4)) as client:
        replies = client.ask([ask(prompt) for prompt in prompts])
        again = client.ask([ask(prompt) for prompt in prompts])
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [say(prompt) for prompt in prompts]
    assert all(isinstance(reply, Reply) and reply.cached for reply in again)
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == 20
    assert 1 < endpoint.most_in_flight <= 4


@pytest.mark.parametrize("field", [{"seed": 1}, {"temperature": 0.5}, {"max_tokens": 7}, {"model": "other"},
                                   {"schema": {"type": "string"}}])  # fmt: skip
def test_what_decides_the_answer_is_in_the_key(field: dict[str, object]) -> None:
    base = Request("judge", (Message("user", "a"),))
    assert base.key("openai") != Request(**{"model": "judge", "messages": base.messages, **field}).key("openai")  # type: ignore[arg-type]
    assert base.key("openai") != base.key("anthropic")
    assert base.key("openai") == Request("", base.messages, purpose="other").key("openai", "judge")


@pytest.mark.parametrize("code", [408, 409, 429, 500, 503, 529])
def test_asks_again(endpoint: Endpoint, config: Make, code: int) -> None:
    endpoint.faults["p"] = [status(code), status(code)]
    with open_client(config()) as client:
        (reply,) = client.ask([ask("p")])
        assert client.ledger.calls == 1  # a call that the endpoint did not take is none
    assert isinstance(reply, Reply)
    assert reply.text == say("p")
    assert endpoint.asked["p"] == 3


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_rejected_request_is_not_asked_again(endpoint: Endpoint, config: Make, code: int) -> None:
    endpoint.faults["p"] = [status(code, "too long")]
    with open_client(config()) as client:
        failed, other = client.ask([ask("p"), ask("q")])
    assert isinstance(failed, Failed)
    assert failed.kind == "rejected"
    assert "too long" in failed.reason
    assert isinstance(other, Reply)
    assert endpoint.asked["p"] == 1


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_or_model_ends_the_job(endpoint: Endpoint, config: Make, code: int) -> None:
    endpoint.faults["*"] = [status(code) for _ in range(50)]
    with open_client(config(max_concurrent=2)) as client, pytest.raises(ConfigError, match=str(code)):
        client.ask([ask(f"p{i}") for i in range(50)])
    assert sum(endpoint.asked.values()) <= 4


def test_gives_up_after_its_tries(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["p"] = [status(500) for _ in range(9)]
    with open_client(config(tries=3)) as client:
        (failed,) = client.ask([ask("p")])
    assert isinstance(failed, Failed)
    assert "3 tries" in failed.reason
    assert endpoint.asked["p"] == 3


def test_waits_as_long_as_it_is_told(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["p"] = [status(429, Retry_After="0.4")]
    with open_client(config()) as client:
        client.ask([ask("p")])
    assert endpoint.at[1] - endpoint.at[0] >= 0.4


def test_a_wait_beyond_the_longest_is_a_failure(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["p"] = [status(429, Retry_After="Wed, 01 Jan 2200 00:00:00 GMT")]
    with open_client(config()) as client:
        (failed,) = client.ask([ask("p")])
    assert isinstance(failed, Failed)
    assert "asks to wait" in failed.reason


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (raw('{"choices": [{"mess'), "cannot be read"),
        (raw("<html><body>502</body></html>", "text/html"), "web page"),
        (raw("[]"), "cannot be read"),
        (raw('{"choices": []}'), "cannot be read"),
        (hang_up, "connection broke off"),
        (sleep(1.0), "no answer in time"),
    ],
)
def test_no_answer_is_asked_again_then_failed(endpoint: Endpoint, config: Make, fault: object, word: str) -> None:
    endpoint.faults["p"] = [fault, fault]  # type: ignore[list-item]
    endpoint.faults["q"] = [fault]  # type: ignore[list-item]
    with open_client(config(tries=2, timeout_s=0.3)) as client:
        failed, reply = client.ask([ask("p"), ask("q")])
    assert isinstance(failed, Failed)
    assert word in failed.reason
    assert failed.kind == "transport"
    assert isinstance(reply, Reply)
    assert reply.text == say("q")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (chat(""), "empty"),
        (chat(None), "empty"),
        (chat(" \n"), "empty"),
        (chat(None, refusal="I will not"), "refused"),
        (chat("no", finish="content_filter"), "refused"),
    ],
)
def test_an_answer_that_is_none_was_paid_for_and_stays_one(
    endpoint: Endpoint, config: Make, fault: object, kind: str
) -> None:
    endpoint.faults["p"] = [fault]  # type: ignore[list-item]
    with open_client(config()) as client:
        (failed,) = client.ask([ask("p")])
        assert client.ask([ask("p")]) == [failed]
        assert client.ledger.calls == 1
    assert isinstance(failed, Failed)
    assert failed.kind == kind
    assert endpoint.asked["p"] == 1
    with open_client(config(retry_failed=True)) as client:
        (reply,) = client.ask([ask("p")])
        assert isinstance(reply, Reply)
        assert client.ledger.calls == 2


def test_schema(endpoint: Endpoint, config: Make) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"enum": ["a", "b"]}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    texts = ['{"n": 1, "s": "a"}', '{"n": 1.5}', '{"n": true}', '{"s": "a"}', '{"n": 1, "s": "c"}', '{"n": 1', "NaN",
             '{"n": 1, "x": 2}']  # fmt: skip
    for i, text in enumerate(texts):
        endpoint.faults[f"p{i}"] = [chat(text)]
    with open_client(config()) as client:
        replies = client.ask([ask(f"p{i}", schema=schema) for i in range(len(texts))])
    assert isinstance(replies[0], Reply)
    assert all(isinstance(reply, Failed) and reply.kind == "schema" for reply in replies[1:])
    assert endpoint.bodies[0]["response_format"]["json_schema"]["schema"] == schema


def test_leaves_out_a_temperature_that_the_model_does_not_take(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["p"] = [status(400, "`temperature` is deprecated for this model.")]
    with open_client(config(max_concurrent=1)) as client:
        first, second = client.ask([ask("p"), ask("q")])
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert ["temperature" in body for body in endpoint.bodies] == [True, False, False]
    assert all("seed" in body for body in endpoint.bodies)


def test_a_ceiling_in_usd_is_never_passed(endpoint: Endpoint, config: Make) -> None:
    # 1 USD a token: a prompt of 1 word costs 1, an answer of 2 words costs 2, so 3 USD a call
    prices = {"usd_per_million": (1e6, 1e6)}
    words = [ask(f"{i}", max_tokens=2) for i in range(60)]
    most = 2 + 32 + len("{}") + 32 + 2  # what a call of at most 2 bytes can cost
    with open_client(config(max_usd=100, **prices)) as client:
        with pytest.raises(CeilingReached, match="of 60 were answered"):
            client.ask(words)
        ledger, spent = client.ledger, client.spent_usd
    asked = sum(endpoint.asked.values())
    assert ledger.usd == spent == 3 * asked
    assert ledger.calls == asked
    assert ledger.usd <= 100
    assert ledger.usd + 3 + most > 100
    with open_client(config(max_usd=10_000, **prices)) as client:
        assert all(isinstance(reply, Reply) for reply in client.ask(words))
        assert client.ledger.usd == 180
    assert set(endpoint.asked.values()) == {1}


def test_a_ceiling_of_calls_is_never_passed_by_two_clients(endpoint: Endpoint, config: Make) -> None:
    def run(start: int) -> None:
        with open_client(config(max_calls=25)) as client, pytest.raises(CeilingReached):
            client.ask([ask(f"p{i}") for i in range(start, start + 30)])

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(endpoint.asked.values()) == 25
    assert set(endpoint.asked.values()) == {1}


def test_a_lost_answer_stays_bound(endpoint: Endpoint, config: Make) -> None:
    endpoint.faults["p"] = [hang_up]
    with open_client(config(usd_per_million=(1e6, 1e6))) as client:
        client.ask([ask("p", max_tokens=2)])
        ledger = client.ledger
    assert (ledger.calls, ledger.lost, ledger.usd) == (2, 1, 3.0)
    assert ledger.lost_usd >= 3


def test_a_ceiling_needs_a_price(config: Make) -> None:
    with pytest.raises(ConfigError, match="no price"), open_client(config(max_usd=1)):
        pass


def test_list_prices_are_those_of_the_provider(
    endpoint: Endpoint, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from turnscope.llm.price import Usage, price_of

    price = price_of(LLMConfig(model="gpt-4o-mini"))
    assert price("gpt-4o-mini", Usage(1_000_000, 0)) == pytest.approx(0.15)
    assert price("gpt-4o-mini", Usage(0, 1_000_000)) == pytest.approx(0.60)
    assert price("gpt-4o-mini", Usage(1_000_000, 0, 1_000_000)) == pytest.approx(0.075)
    assert price("no-such-model-xyz", Usage(1, 1)) is None


def test_anthropic(endpoint: Endpoint, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    made = config(model="claude-x", base_url=endpoint.url, dialect="anthropic", key_env="MY_KEY")
    with open_client(made) as client:
        (reply,) = client.ask([ask("p", system="be brief", schema={"type": "string"}, temperature=None)])
    assert isinstance(reply, Failed)
    assert reply.kind == "schema"
    with open_client(made) as client:
        (reply,) = client.ask([ask("p", system="be brief")])
    assert isinstance(reply, Reply)
    assert (reply.text, reply.input_tokens, reply.finish) == (say("p"), 10, "stop")
    assert endpoint.bodies[1]["system"] == "be brief"
    assert endpoint.bodies[1]["temperature"] == 0.0
    sent = endpoint.headers[0]
    assert sent.get("x-api-key", sent.get("authorization")) in ("sk-secret", "Bearer sk-secret")


def test_keys_stay_where_they_belong(
    endpoint: Endpoint, config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-house")
    monkeypatch.setenv("TURNSCOPE_LLM_KEY", "sk-local-key")
    endpoint.faults["p"] = [status(400, "bad: key sk-local-key has no rights")]
    with open_client(config()) as client:
        (failed,) = client.ask([ask("p")])
        client.ask([ask("q")])
    assert isinstance(failed, Failed)
    assert "sk-" not in failed.reason
    assert {each["authorization"] for each in endpoint.headers} == {"Bearer sk-local-key"}
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-" not in written
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="no key") as told, open_client(config(base_url=None)):
        pass
    assert "OPENAI_API_KEY" in told.value.fix


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", "http://u:p@h/v1", "http://h/v1?key=1"])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        LLMConfig(model="m", base_url=url)


def test_a_file_of_another_kind_is_refused(config: Make, tmp_path: Path) -> None:
    (tmp_path / "llm.sqlite").write_bytes(b"not a data base, certainly not" * 50)
    with pytest.raises(IntegrityError), open_client(config()):
        pass
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE labels (x)")
    other.commit()
    other.close()
    with pytest.raises(IntegrityError, match="another kind"), open_client(config(table=tmp_path / "other.sqlite")):
        pass


def test_an_answer_that_nobody_waits_for_any_more_blocks_none(endpoint: Endpoint, config: Make) -> None:
    endpoint.delay_s = 1.0
    with open_client(config(usd_per_million=(1e6, 1e6))) as client:

        def work() -> None:
            with suppress(ConfigError):  # the table is closed when the answer comes
                client.ask([ask("p")])

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not endpoint.asked:
            time.sleep(0.01)
    endpoint.delay_s = 0.0
    with open_client(config()) as client:
        assert client.ledger.lost == 1
        assert isinstance(client.ask([ask("p")])[0], Reply)
    thread.join()
