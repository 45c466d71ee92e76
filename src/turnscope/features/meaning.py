"""Searching what features are said to mean by meaning: vectors of explanations, kept beside them. No torch.

A vector belongs to a text, so new explanations leave the vectors of old ones be. Cosine, exact, block after block.

Legend: U different texts, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError, IntegrityError, atomic_path, progress
from turnscope.features.query.explanations import Found

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
VECTORS = "explanations.vectors.safetensors"
_BLOCK, _TEXTS = 65_536, 1_024
_CHARACTERS = 2_000


class MeaningSearch:
    """Explanations by meaning.

    Args:
        explanations: (feature, text, source).
        folder: of the index; vectors are read from there, and those that are missing are made and written there.
        embedder: texts to unit vectors.
        name: of the embedder; vectors of another one are not used.
    """

    def __init__(self, explanations: pa.Table, folder: Path, embedder: Embed, name: str) -> None:
        self._embed = embedder
        texts = explanations["text"].combine_chunks().dictionary_encode()
        self._text_N = texts.indices.to_numpy().astype(np.int64)
        self._texts = texts.dictionary.to_pylist()
        self._table = explanations
        self._vectors_UD = self._complete(folder / VECTORS, name)

    def find(self, words: str, limit: int = 20) -> list[Found]:
        """The nearest explanations, the nearest first; the score is the cosine. Raises ConfigError without words."""
        if limit < 1:
            raise ConfigError(f"limit must be 1 or more, not {limit}")
        if not words.strip():
            raise ConfigError("nothing to search for", fix="give a word or more")
        asked_D = self._embed([words[:_CHARACTERS]])[0].astype(np.float32)
        vectors_UD = self._vectors_UD
        cosine_U = np.concatenate(
            [vectors_UD[i : i + _BLOCK].astype(np.float32) @ asked_D for i in range(0, len(vectors_UD), _BLOCK)]
        )
        cosine_N = cosine_U[self._text_N]
        best = np.argsort(-cosine_N, kind="stable")[:limit]
        rows = self._table.take(pa.array(best)).to_pylist()
        return [
            Found(row["feature"], row["text"], row["source"] or "", float(cosine_N[i]))
            for i, row in zip(best.tolist(), rows, strict=True)
        ]

    def _complete(self, path: Path, name: str) -> NDArray[np.float16]:
        keys = np.frombuffer(b"".join(map(_key, self._texts)), "V16")
        known_keys, known_UD = _read(path, name)
        order = np.argsort(known_keys.view("S16"), kind="stable") if len(known_keys) else np.zeros(0, np.int64)
        at = np.zeros(len(keys), np.int64)
        have = np.zeros(len(keys), np.bool_)
        if len(order):
            ordered = known_keys[order].view("S16")
            place = np.minimum(np.searchsorted(ordered, keys.view("S16")), len(order) - 1)
            at, have = order[place], known_keys[order[place]] == keys
        if have.all() and len(known_keys) == len(keys):
            return known_UD[at]
        lost = np.flatnonzero(~have)
        made = list[NDArray[np.float16]]()
        with progress("embedding explanations", len(lost), "texts") as bar:
            for start in range(0, len(lost), _TEXTS):
                part = [self._texts[i] for i in lost[start : start + _TEXTS].tolist()]
                vectors = self._embed([text[:_CHARACTERS] for text in part])
                if not np.isfinite(vectors).all():
                    raise DataError("the embedding of an explanation is not finite")
                made.append(vectors.astype(np.float16))
                bar.advance(len(part))
        width = made[0].shape[1] if made else known_UD.shape[1]
        out = np.zeros((len(keys), width), np.float16)
        if have.any():
            out[have] = known_UD[at[have]]
        if made:
            out[lost] = np.concatenate(made)
        _write(path, keys, out, name)
        return out


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _read(path: Path, name: str) -> tuple[NDArray[np.void], NDArray[np.float16]]:
    from safetensors import SafetensorError, safe_open

    none = np.zeros(0, "V16"), np.zeros((0, 0), np.float16)
    if not path.exists():
        return none
    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("model") != name:
                return none
            keys, vectors = file.get_tensor("keys"), file.get_tensor("vectors")
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=path, fix="delete it: it is made anew") from error
    if keys.ndim != 2 or keys.shape[1] != 16 or vectors.ndim != 2 or len(keys) != len(vectors):
        raise IntegrityError("not the vectors of explanations", where=path, fix="delete it: it is made anew")
    return np.ascontiguousarray(keys).view("V16")[:, 0], vectors


def _write(path: Path, keys: NDArray[np.void], vectors_UD: NDArray[np.float16], name: str) -> None:
    from safetensors.numpy import save_file

    tensors = {"keys": keys.view(np.uint8).reshape(-1, 16), "vectors": vectors_UD}
    with atomic_path(path) as temp:
        save_file(tensors, temp, {"model": name})
