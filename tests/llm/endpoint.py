"""A deterministic local endpoint of both dialects, with faults on demand. For tests only."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def say(prompt: str) -> str:
    """The answer of the fake: the same for the same prompt in every process."""
    return "answer " + hashlib.sha256(prompt.encode()).hexdigest()[:8]


@dataclass
class Endpoint:
    """What was asked, and what goes wrong: `faults[prompt]` is used up one call at a time."""

    url: str
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    delay_s: float = 0.0
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def status(code: int, message: str = "no", **headers: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        give(handler, code, json.dumps({"error": {"message": message}}), **headers)

    return fault


def raw(text: str, kind: str = "application/json") -> Fault:
    return lambda handler, body: give(handler, 200, text, kind=kind)


def hang_up(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    handler.close_connection = True
    handler.connection.close()


def sleep(seconds: float) -> Fault:
    return lambda handler, body: time.sleep(seconds)


def chat(text: str | None, *, finish: str = "stop", refusal: str | None = None, usage: bool = True) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        give(handler, 200, json.dumps(completion(body, text, finish, refusal, usage=usage)))

    return fault


def completion(
    body: dict[str, Any], text: str | None, finish: str = "stop", refusal: str | None = None, *, usage: bool = True
) -> dict[str, Any]:
    words = sum(len(message["content"].split()) for message in body["messages"])
    used = {"prompt_tokens": words, "completion_tokens": len((text or "").split()), "total_tokens": 0}
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
    return {**whole, "usage": used} if usage else whole


def give(handler: BaseHTTPRequestHandler, code: int, text: str, kind: str = "application/json", **headers: str) -> None:
    data = text.encode()
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def serving() -> Generator[Endpoint]:
    """An endpoint at a free port."""
    endpoint = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with endpoint.lock:
                endpoint.asked[prompt] += 1
                endpoint.bodies.append(body)
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                endpoint.at.append(time.monotonic())
                endpoint.in_flight += 1
                endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
                waiting = endpoint.faults.get(prompt) or endpoint.faults.get("*") or []
                fault = waiting.pop(0) if waiting else None
            try:
                with suppress(BrokenPipeError, ConnectionResetError):
                    time.sleep(endpoint.delay_s)
                    if fault is not None:
                        return fault(self, body)
                    self.answer(body, prompt)
            finally:
                with endpoint.lock:
                    endpoint.in_flight -= 1

        def answer(self, body: dict[str, Any], prompt: str) -> None:
            if self.path.endswith("/chat/completions"):
                return give(self, 200, json.dumps(completion(body, say(prompt))))
            used = {"input_tokens": 7, "output_tokens": 2, "cache_read_input_tokens": 3}
            parts = [{"type": "text", "text": say(prompt)}]
            value = {"id": "x", "type": "message", "role": "assistant", "model": body["model"], "content": parts}
            return give(self, 200, json.dumps({**value, "stop_reason": "end_turn", "usage": used}))

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
