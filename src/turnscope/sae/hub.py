"""Dictionaries on the Hugging Face hub: `sae.json`, `sae.safetensors` and a model card with the turn-level facts.

A token comes from the environment (HF_TOKEN) alone, and goes nowhere but to the hub. What is fetched is pinned to one
commit and read as any other dictionary is: safetensors and JSON, checked before they are opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from turnscope.artifacts import ConfigError, StorageError, TurnscopeError
from turnscope.artifacts.text import visible
from turnscope.sae.config import SAEConfig
from turnscope.sae.units import TURN_WORDS

if TYPE_CHECKING:
    from turnscope.sae.sparse_autoencoder import SparseAutoencoder

TOKEN_VARIABLE = "HF_TOKEN"
CARD_NAME = "README.md"
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    sae: SparseAutoencoder, repo_id: str, *, private: bool = True, revision: str | None = None, subfolder: str = ""
) -> str:
    """Write a dictionary to a model repository in one commit, making the repository when it is not there.

    A model card is written only where there is none. Returns the commit's address. Raises ConfigError without a token
    or for a bad name, StorageError when the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ConfigError(
            "writing to the hub needs a token", where=repo_id, fix=f"put one that may write into {TOKEN_VARIABLE}"
        )
    _require_inside(subfolder)
    prefix = f"{subfolder}/" if subfolder else ""
    with _told(repo_id), tempfile.TemporaryDirectory() as folder:
        sae.save(folder)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(prefix + file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())
        ]
        if not api.file_exists(repo_id, prefix + CARD_NAME, revision=revision):
            operations.append(CommitOperationAdd(prefix + CARD_NAME, card(sae.config, repo_id).encode()))
        commit = api.create_commit(
            repo_id, operations, commit_message="Add a dictionary of Turnscope", revision=revision
        )
        return str(commit.commit_url)


def fetch(repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Path:
    """The local folder of a dictionary on the hub, both files of one commit.

    Raises StorageError when it is not there, may not be read, or the hub cannot be reached; ConfigError for a bad name.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from turnscope.sae.sparse_autoencoder import CONFIG_NAME, WEIGHTS_NAME

    token = os.environ.get(TOKEN_VARIABLE) or False  # False: nor one that lies about in a file
    _require_inside(subfolder)
    with _told(repo_id):
        commit = HfApi(token=token).model_info(repo_id, revision=revision).sha
        paths = [
            hf_hub_download(repo_id, name, subfolder=subfolder or None, revision=commit, token=token)
            for name in (CONFIG_NAME, WEIGHTS_NAME)
        ]
        return Path(paths[0]).parent


def card(config: SAEConfig, repo_id: str) -> str:
    """The model card: what the dictionary reads and how its turns were made, and how to load it."""
    base = config.subject.partition("@")[0]
    tags = ["sparse-autoencoder", "interpretability", f"{config.unit}-level"]
    front = ["---", "library_name: turnscope", f"tags: {json.dumps(tags)}"]
    front += [f"base_model: {base}"] if _ON_HUB.fullmatch(base) else []
    said = {
        "model": config.subject, "site": config.site, "rows": f"{config.unit}s", "roles": ", ".join(config.roles),
        "tokens averaged": config.token_set if config.unit == "turn" else "", "spans": config.span_policy,
        "architecture": config.architecture, "features": f"{config.n_features:,}", "width": f"{config.d_model:,}",
        "active per row (k)": str(config.k), "fingerprint of the model": config.subject_fingerprint,
        "fingerprint of its activations": config.input_fingerprint,
    }  # fmt: skip
    rows = [f"| {name} | {_cell(value)} |" for name, value in said.items() if value]
    words = [TURN_WORDS, ""] if config.unit == "turn" else []
    return "\n".join(
        [
            *front, "---", "", "# Sparse autoencoder", "", *words, "| | |", "| --- | --- |", *rows, "", "```python",
            "from turnscope.sae import SparseAutoencoder", "",
            f"sae = SparseAutoencoder.from_pretrained({json.dumps(repo_id)})",
            "codes = sae.encode(activations)  # raw activations, (rows, width)", "```", "",
        ]
    )  # fmt: skip


def _cell(value: str) -> str:
    """Text of unknown origin inside a table: nothing in it is markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", visible(value[:300]))


def _require_inside(subfolder: str) -> None:
    if subfolder and (subfolder.startswith("/") or not {".", "..", ""}.isdisjoint(subfolder.split("/"))):
        raise ConfigError(f"no such folder in a repository: {subfolder!r:.60}", fix="name it as on the hub: saes/turn")


@contextlib.contextmanager
def _told(repo_id: str) -> Generator[None]:
    """Turn what the hub's library raises into one clear error."""
    try:
        yield
    except TurnscopeError:
        raise
    except Exception as error:  # noqa: BLE001
        raise _error(error, repo_id) from None


def _error(error: Exception, where: str) -> TurnscopeError:
    from huggingface_hub import errors

    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"no name of a repository ({said})", where=where, fix="ORG/NAME, or a folder that is there")
    if isinstance(error, errors.GatedRepoError):
        return StorageError(
            "the repository is gated: only who accepted its terms may read it", where=where,
            fix=f"accept them on the hub, and give your token in {TOKEN_VARIABLE}",
        )  # fmt: skip
    if isinstance(error, errors.RevisionNotFoundError):
        return StorageError("no such revision of the repository", where=where, fix="name a branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = f"check its name; if it is private, give your token in {TOKEN_VARIABLE}"
        return StorageError("no such repository on the hub, or none that you may read", where=where, fix=fix)
    if isinstance(error, errors.EntryNotFoundError):
        return StorageError(
            "no dictionary of ours is in this repository", where=where,
            fix="fetch it (hf download) and convert it: turnscope convert FOLDER --out DIR",
        )  # fmt: skip
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        fix = f"the token in {TOKEN_VARIABLE} must be one that may write there"
        return StorageError(f"the hub refuses ({status})", where=where, fix=fix)
    fix = "check the network and try again"
    return StorageError(f"the hub cannot be reached or will not answer ({said:.200})", where=where, fix=fix)
