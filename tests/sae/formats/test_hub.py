"""Dictionaries on the hub: through huggingface_hub itself, to and from a hub of our own that also knows how to fail."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch

from turnscope.artifacts import ConfigError, StorageError
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.hub import card

COMMIT = "c" * 40
TOKEN = "hf_aSecretThatMustNotBeWrittenAnywhere"
# Its own process: huggingface_hub reads the endpoint and the cache folder when it is imported.
RUN = """
import json, os, sys
from turnscope.artifacts import TurnscopeError
from turnscope.sae import SparseAutoencoder
results = []
for token, verb, name, options in json.load(sys.stdin):
    os.environ["HF_TOKEN"] = token
    try:
        if verb == "push":
            said = SparseAutoencoder.load(options.pop("folder")).push_to_hub(name, **options)
        else:
            sae = SparseAutoencoder.from_pretrained(name, **options)
            said = [sae.config.model_dump(mode="json"), float(sae.w_enc_DF.sum())]
    except TurnscopeError as error:
        said = f"{type(error).__name__}: {error}"
    results.append(said)
print(json.dumps(results))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as is asked for. org/gated is gated, org/foreign holds no dictionary of ours, org/locked
    may not be written.
    """

    protocol_version = "HTTP/1.1"
    tokens: ClassVar[set[tuple[str, str | None]]] = set()
    files: ClassVar[dict[str, dict[str, bytes]]] = {
        "org/foreign": {"cfg.json": b"{}"},
        "org/carded": {"README.md": b"mine"},
    }
    made: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = "org/" + path.partition("/org/")[2].split("/")[0]
        self.tokens.add((name, self.headers.get("Authorization")))
        if name == "org/gated" and "/resolve/" in path:
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if name not in self.files and name != "org/gated":
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "none"})
        if "/revision/" in path and not path.endswith(("/main", COMMIT)):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "none"})
        if path.startswith("/api/models/"):
            return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": [], "tags": []}).encode())
        file = path.partition("/resolve/")[2].partition("/")[2]
        data = self.files.get(name, {}).get(file)
        if data is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"})
        return self._send(200, data, {"ETag": f'"{hash(data) & 0xFFFFFFFF:x}"'})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            self.made.append(wanted)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.tokens.add((name, self.headers.get("Authorization")))
            self.files.setdefault(name, {})
            return self._send(200, json.dumps({"url": f"http://{self.headers['Host']}/{name}"}).encode())
        name = "org/" + self.path.partition("/org/")[2].split("/")[0]
        self.tokens.add((name, self.headers.get("Authorization")))
        if name == "org/locked":
            return self._send(403, b'{"error": "no write access"}')
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, json.dumps({"files": files}).encode())
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    data = base64.b64decode(entry["value"]["content"])
                    self.files[name][entry["value"]["path"]] = data
            said = {
                "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            }
            return self._send(200, json.dumps(said).encode())
        return self._send(200, b'{"errors": [], "warnings": []}')

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def dictionary() -> SparseAutoencoder:
    sae = SparseAutoencoder(
        SAEConfig(
            d_model=4, n_features=8, k=2, site="resid.3", roles=("user", "assistant"), span_policy="as_of_turn",
            token_set="content", subject="org/base@0123",
        )
    )  # fmt: skip
    torch.manual_seed(0)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn_like(parameter))
    return sae


def test_there_and_back(hub: str, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "sae"
    home.mkdir()
    (home / "token").write_text("hf_another")  # what lies about in a file is never sent
    sae = dictionary()
    sae.save(folder)
    failures = {
        "StorageError: no dictionary of ours is in this repository": [TOKEN, "fetch", "org/foreign", {}],
        "StorageError: the repository is gated": [TOKEN, "fetch", "org/gated", {}],
        "StorageError: no such repository": ["", "fetch", "org/none", {}],
        "StorageError: no such revision": [TOKEN, "fetch", "org/new", {"revision": "v9"}],
        "ConfigError: no name of a repository": [TOKEN, "fetch", "no/such/folder", {}],
        "ConfigError: writing to the hub needs a token": ["", "push", "org/new", {"folder": str(folder)}],
        "StorageError: the hub refuses (403)": [TOKEN, "push", "org/locked", {"folder": str(folder)}],
    }
    cases = [
        [TOKEN, "push", "org/new", {"folder": str(folder)}],
        [TOKEN, "push", "org/new", {"folder": str(folder), "subfolder": "saes/turn"}],
        [TOKEN, "push", "org/carded", {"folder": str(folder), "private": False}],
        [TOKEN, "fetch", "org/new", {}],
        ["", "fetch", "org/new", {"subfolder": "saes/turn"}],
    ]
    environment = {
        **os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps([*cases, *failures.values()]), env=environment,
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    said = json.loads(ran.stdout)
    assert said[0] == f"{hub}/org/new/commit/{COMMIT}", said[0]
    assert said[3] == said[4] == [sae.config.model_dump(mode="json"), float(sae.w_enc_DF.sum())]
    for expected, told in zip(failures, said[5:], strict=True):
        assert str(told).startswith(expected), (expected, told)
    stored = Hub.files["org/new"]
    assert stored["sae.safetensors"] == (folder / "sae.safetensors").read_bytes()
    assert sorted(stored) == sorted(
        f"{prefix}{name}" for prefix in ("", "saes/turn/") for name in ("README.md", "sae.json", "sae.safetensors")
    )
    assert b"base_model: org/base\n" in stored["README.md"]
    assert b"| spans | as\\_of\\_turn |" in stored["README.md"]
    assert Hub.files["org/carded"]["README.md"] == b"mine"  # a card that is there is left as it is
    assert [made.get("private", made.get("visibility")) for made in Hub.made[:3]] in (
        [True, True, False], ["private", "private", "public"],
    )  # fmt: skip
    sent = {token for _, token in Hub.tokens}
    assert sent == {None, f"Bearer {TOKEN}"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in ran.stdout + ran.stderr


def test_a_folder_needs_no_hub(tmp_path: Path) -> None:
    sae = dictionary()
    sae.save(tmp_path / "mine")
    assert SparseAutoencoder.from_pretrained(tmp_path / "mine").config == sae.config
    assert SparseAutoencoder.from_pretrained(str(tmp_path), subfolder="mine").config == sae.config


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(StorageError, match="cannot be reached"):  # the tests are offline
        SparseAutoencoder.from_pretrained("org/new")
    with pytest.raises(ConfigError, match="needs a token"):
        dictionary().push_to_hub("org/new")
    for subfolder in ("../up", "/etc", "a//b", "a/.."):
        with pytest.raises(ConfigError, match="no such folder"):
            SparseAutoencoder.from_pretrained("org/new", subfolder=subfolder)


def test_a_card_is_text_whatever_the_model_is_called() -> None:
    hostile = 'x/y"\n---\ninjected: true\n<script>alert(1)</script> | [a](javascript:b)\u202e'
    text = card(SAEConfig(d_model=4, n_features=8, k=2, subject=hostile, token_set="`code`|\n# head"), "org/name")
    front = text.split("---\n")[1]
    assert front.splitlines() == [
        "library_name: turnscope",
        'tags: ["sparse-autoencoder", "interpretability", "turn-level"]',
    ]
    assert "<script>" not in text
    assert "\u202e" not in text
    assert "\n# head" not in text
    assert "injected: true\n" not in text
    assert "Trained on turn means" in text
