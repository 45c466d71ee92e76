"""Reading finished activations: turn means, single tokens and the table of turns, without torch.

Shapes: N turns, T stored tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import Artifact, DataError
from turnscope.harvest.shards import TURNS, Mapped, map_tensors, read_turns

Ints = NDArray[np.int64]
Rows = NDArray[np.integer[Any]] | list[int] | slice


class ActivationStore:
    """The activations of one site. Means are row-aligned with ``turns``; tokens lie turn after turn.

    Attributes:
        artifact: the finished artifact.
        turns: conversation_id, turn, role, split, group, n_tokens, status, norm of each of the N rows.
        token_offsets: row i's stored tokens are the token rows ``token_offsets[i]:token_offsets[i + 1]``; length N + 1.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        names = sorted(name for name in artifact.manifest.files if name.endswith(".safetensors"))
        self._shards = [map_tensors(artifact.path / name) for name in names]
        self.turns: pa.Table = read_turns(artifact.path / TURNS)
        self._turn_starts = _starts([shard["mean_ND"].shape[0] for shard in self._shards])
        self._has_tokens = bool(self._shards) and "tokens_TD" in self._shards[0]
        if self._has_tokens:
            self._token_starts = _starts([shard["tokens_TD"].shape[0] for shard in self._shards])
            parts = [
                s["token_offsets"].take(slice(1, None)) + b
                for s, b in zip(self._shards, self._token_starts, strict=False)
            ]
            self.token_offsets: Ints = np.concatenate([np.zeros(1, np.int64), *parts])
        else:
            self._token_starts = np.zeros(len(self._shards) + 1, np.int64)
            self.token_offsets = np.zeros(len(self) + 1, np.int64)

    def __len__(self) -> int:
        return int(self._turn_starts[-1])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._shards[0]["mean_ND"].shape[1]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the artifact."""
        return self.artifact.fingerprint

    @property
    def n_tokens_stored(self) -> int:
        """Number of token rows; 0 when the harvest kept no tokens."""
        return int(self._token_starts[-1])

    def mean_ND(self, rows: Rows | None = None) -> NDArray[np.float32]:
        """Turn means as float32, all of them or those of some rows, in the order asked for."""
        return self._gather(lambda shard: shard["mean_ND"], self._turn_starts, rows)

    def tokens_TD(self, rows: Rows | None = None) -> NDArray[np.float32]:
        """Token activations as float32 by token row (0 to ``n_tokens_stored``; see ``token_offsets``), in the order
        asked for.

        Raises DataError if the harvest kept no tokens.
        """
        self._need_tokens()
        return self._gather(lambda shard: shard["tokens_TD"], self._token_starts, rows)

    def token_ids_T(self, rows: Rows | None = None) -> NDArray[np.int32]:
        """Vocabulary ids of stored tokens, by token row."""
        self._need_tokens()
        return self._gather(lambda shard: shard["token_ids_T"], self._token_starts, rows)

    def token_positions_T(self, rows: Rows | None = None) -> NDArray[np.int32]:
        """Positions of stored tokens in their rendered conversation, by token row."""
        self._need_tokens()
        return self._gather(lambda shard: shard["token_positions_T"], self._token_starts, rows)

    def _need_tokens(self) -> None:
        if not self._has_tokens:
            raise DataError(
                "these activations hold turn means only",
                where=str(self.artifact.path),
                fix="harvest with tokens=all or a number",
            )

    def _gather(
        self,
        tensor: Callable[[dict[str, Mapped]], Mapped],
        starts: Ints,
        rows: Rows | None,
    ) -> NDArray[Any]:
        n = int(starts[-1])
        if rows is None:
            return np.concatenate([tensor(shard).take(slice(None)) for shard in self._shards])
        index = np.arange(n)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if len(index) and (index.min() < 0 or index.max() >= n):
            raise IndexError(f"row {index.min() if index.min() < 0 else index.max()} of {n}")
        # In ascending order each shard is read once and forwards; the result is put back in the order asked for.
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        cuts = np.searchsorted(ordered, starts)
        first = tensor(self._shards[0]).take(slice(0, 0))
        out = np.empty((len(index), *first.shape[1:]), first.dtype)
        for shard, start, a, b in zip(self._shards, starts, cuts, cuts[1:], strict=False):
            if a < b:
                out[order[a:b]] = tensor(shard).take(ordered[a:b] - start)
        return out


def _starts(sizes: list[int]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(sizes, np.int64))])


def open_activations(path: str | Path) -> ActivationStore:
    """Open the finished activations of one site.

    Raises:
        IntegrityError: no finished activations there, or a damaged file.
    """
    return ActivationStore(Artifact.open(path, "activations"))
