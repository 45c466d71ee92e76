"""Asking a language model: from the table where the answer is there, else from the endpoint, within the ceiling."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import SimpleQueue

from turnscope.artifacts import ConfigError, progress
from turnscope.llm._schema import unmet
from turnscope.llm.config import LLMConfig
from turnscope.llm.errors import CeilingReached, PendingAnswers
from turnscope.llm.files import ANSWERS, read_answers, write_requests
from turnscope.llm.price import Usage, most_tokens, price_of
from turnscope.llm.request import Failed, Reply, Request
from turnscope.llm.table import CallTable, Claim, Ledger
from turnscope.llm.transport import Answer, Transport, Trouble, open_transport

_POLL_S = 0.1
_GRACE_S = 5.0  # after an interrupt, for answers on their way
_Came = tuple[bytes, Reply | Failed | BaseException]


class Client:
    """What `open_client` yields. `ask` may be called again and again."""

    def __init__(self, config: LLMConfig, table: CallTable, transport: Transport | None) -> None:
        self.config, self.table, self._transport = config, table, transport
        self._price = price_of(config)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._not_before = 0.0
        self.spent_usd, self.n_calls = 0.0, 0
        """Of this client: what its answered calls cost, and how many there were. `ledger` has those of the table."""

    @property
    def ledger(self) -> Ledger:
        """Sums over the whole table, other runs and processes included."""
        return self.table.ledger()

    def ask(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        """An answer to each request, in order; equal requests are asked once.

        Raises PendingAnswers (files backend), CeilingReached, ConfigError when no request can succeed (a wrong key,
        no such model), StorageError. Answers that came before are kept: run again to go on.
        """
        keys = [request.key(self.config.endpoint, self.config.model) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        found = self._from_files(wanted) if self.config.backend == "files" else self._from_endpoint(wanted)
        return [found[key] for key in keys]

    def _from_files(self, wanted: dict[bytes, Request]) -> dict[bytes, Reply | Failed]:
        folder = self.config.folder
        if folder is None:
            raise ConfigError("the files backend needs a folder")
        answers, found, missing = read_answers(folder), dict[bytes, "Reply | Failed"](), list[bytes]()
        for key, request in wanted.items():
            answer = answers.get(key)
            kept = self.table.find(key)
            if isinstance(kept, Reply):
                found[key] = kept
            elif isinstance(answer, Answer):
                found[key] = self._keep_given(key, request, answer)
            elif answer is not None:
                found[key] = Failed(answer)
            else:
                missing.append(key)
        if missing:
            written = write_requests(folder, [(key, wanted[key]) for key in missing], self.config.model)
            raise PendingAnswers(
                f"{len(missing):,} of {len(wanted):,} requests wait for an answer: {written}",
                where=folder / ANSWERS,
                fix='write {"custom_id": "...", "text": "..."} lines there, or the output of a batch endpoint, '
                "and run again",
            )
        return found

    def _keep_given(self, key: bytes, request: Request, answer: Answer) -> Reply | Failed:
        judged = _judge(answer, request, answer.model or request.model or self.config.model)
        if isinstance(judged, Reply):
            tokens = (answer.usage.input_tokens, answer.usage.output_tokens) if answer.usage else None
            self.table.put(key, judged, purpose=request.purpose, tokens=tokens)
        return judged

    def _from_endpoint(self, wanted: dict[bytes, Request]) -> dict[bytes, Reply | Failed]:
        found = {key: kept for key in wanted if (kept := self._kept(key)) is not None}
        rest = [key for key in wanted if key not in found]
        if not rest:
            return found
        self._stop.clear()
        with progress(f"ask {self.config.model}", len(rest), "answers") as bar:
            for key, answer in self._answers(rest, wanted):
                found[key] = answer
                bar.advance()
        return found

    def _answers(self, keys: list[bytes], wanted: dict[bytes, Request]) -> Iterator[tuple[bytes, Reply | Failed]]:
        """Answers as they come, from threads that do not hold up the end of the process."""
        todo, came = deque(keys), SimpleQueue[_Came]()

        def work() -> None:
            with suppress(IndexError):
                while not self._stop.is_set():
                    key = todo.popleft()
                    try:
                        came.put((key, self._answer(key, wanted[key])))
                    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
                        came.put((key, error))

        count = min(self.config.max_concurrent, len(keys))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        n_came, grace_s = 0, float(_GRACE_S)
        try:
            while n_came < len(keys):
                key, answer = came.get()
                if isinstance(answer, BaseException):
                    grace_s = self.config.timeout_s + _GRACE_S
                    raise _counted(answer, n_came, len(keys))
                n_came += 1
                yield key, answer
        finally:
            # those on their way may come back, and are kept; none is sent any more
            self._stop.set()
            until = time.monotonic() + grace_s
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))

    def _kept(self, key: bytes) -> Reply | Failed | None:
        kept = self.table.find(key)
        return None if self.config.retry_failed and isinstance(kept, Failed) else kept

    def _answer(self, key: bytes, request: Request) -> Reply | Failed:
        model, tries = request.model or self.config.model, 0
        again = self.config.retry_failed
        while not self._stop.is_set():
            claim = self._claim(key, request, model, again)
            if claim is None:
                self._stop.wait(_POLL_S)
                continue
            if not isinstance(claim, Claim):
                return claim
            tries += 1
            trouble = self._call(claim, request, model)
            if not isinstance(trouble, Trouble):
                return trouble
            if not trouble.again:
                return Failed(trouble.reason, "rejected")
            if tries >= self.config.tries:
                return Failed(f"{trouble.reason} ({tries} tries)")
            if trouble.wait_s is not None and trouble.wait_s > self.config.longest_wait_s:
                return Failed(f"{trouble.reason} (asks to wait {trouble.wait_s:.0f} s)")
            self._pause(trouble.wait_s, tries)
        return Failed("stopped")

    def _claim(self, key: bytes, request: Request, model: str, again: bool) -> Reply | Failed | Claim | None:
        got = self.table.claim(
            key, model=model, purpose=request.purpose, need_usd=self._price(model, most_tokens(request)),
            max_usd=self.config.max_usd, max_calls=self.config.max_calls, again=again,
        )  # fmt: skip
        return None if isinstance(got, str) else got

    def _call(self, claim: Claim, request: Request, model: str) -> Reply | Failed | Trouble:
        if self._transport is None:
            raise ConfigError("the files backend sends nothing")
        try:
            answer = self._transport.send(request, model)
        except Trouble as trouble:
            if trouble.maybe_paid:
                self.table.lose(claim, trouble.reason)
            else:
                self.table.drop(claim)
            return trouble
        except BaseException:
            self.table.drop(claim)
            raise
        return self._keep(claim, request, model, answer)

    def _keep(self, claim: Claim, request: Request, model: str, answer: Answer) -> Reply | Failed:
        usage = answer.usage
        usd = self._price(model, usage) if usage else None
        judged = _judge(answer, request, answer.model or model)
        if isinstance(judged, Reply):
            judged = replace(judged, usd=usd)
        self.table.finish(claim, judged, tokens=_tokens(usage), usd=usd)
        with self._lock:
            self.n_calls += 1
            self.spent_usd += usd or 0.0
        return judged

    def _pause(self, asked_s: float | None, tries: int) -> None:
        """Full jitter, the ceiling doubled each time. What the endpoint asks for holds for all threads."""
        own_s = random.uniform(0, min(self.config.longest_wait_s, self.config.wait_s * 2 ** (tries - 1)))
        with self._lock:
            if asked_s is not None:
                self._not_before = max(self._not_before, time.monotonic() + asked_s)
            until = max(self._not_before, time.monotonic()) + own_s
        while (left_s := until - time.monotonic()) > 0 and not self._stop.wait(left_s):
            pass


@contextmanager
def open_client(config: LLMConfig, transport: Transport | None = None) -> Generator[Client]:
    """A client on the config's table; `transport` in place of the SDK's.

    Raises DependencyError without the extra `llm`, ConfigError without a key or a price, StorageError, IntegrityError.
    """
    price_of(config)
    if transport is None and config.backend == "endpoint":
        transport = open_transport(config)
    table = CallTable(config.table)
    try:
        yield Client(config, table, transport)
    finally:
        table.close()
        if transport is not None:
            transport.close()


def _judge(answer: Answer, request: Request, model: str) -> Reply | Failed:
    if answer.refusal:
        return Failed(f"refused: {answer.refusal}", "refused", answer.text)
    if not answer.text.strip():
        cut = ", cut off at max_tokens" if answer.finish == "length" else ""
        return Failed(f"an empty answer{cut}", "empty", answer.text)
    if request.schema is not None and (wrong := unmet(answer.text, request.schema)):
        cut = f"cut off at {request.max_tokens} tokens; " if answer.finish == "length" else ""
        return Failed(f"not as asked for: {cut}{wrong}", "schema", answer.text)
    tokens = _tokens(answer.usage) or (0, 0)
    return Reply(answer.text, model, *tokens, None, False, answer.finish)


def _tokens(usage: Usage | None) -> tuple[int, int] | None:
    return (usage.input_tokens, usage.output_tokens) if usage else None


def _counted(error: BaseException, done: int, of: int) -> BaseException:
    if isinstance(error, CeilingReached):
        return CeilingReached(f"{error.what}; {done:,} of {of:,} were answered", where=error.where, fix=error.fix)
    return error
