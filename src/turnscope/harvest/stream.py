"""Harvest while training: forward passes run on the fly into a bounded buffer, and nothing is stored.

An epoch draws the conversations of the split, in small runs of neighbours, in an order that follows from (seed, epoch)
alone, and cuts it into chunks of about `buffer_rows` rows. A chunk is read from the model as a whole, its rows are
permuted and served; the next one is read in a thread meanwhile, so two of them are held. A position is an epoch, a
chunk and a row of it: to go on from there, that one chunk is read again.

What is left of the order of conversations is that the rows of one come in one chunk: of a batch of B rows, a row meets
on average (B - 1) times the share of its own conversation among the other rows of the chunk. A permutation of all rows
has the same with the whole epoch for the chunk.

Shapes: N rows, D model width, M rows of a chunk.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, DataError, IntegrityError, fingerprint
from turnscope.harvest.ahead import ahead
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.harvest import open_subject, record
from turnscope.harvest.prepare import Shard, prepare
from turnscope.harvest.shards import Ints
from turnscope.harvest.shuffle import Shuffle
from turnscope.harvest.write import Computed, compute, stored_values
from turnscope.models.site import Site
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.splits import check_split
from turnscope.transcripts.store import open_transcripts

_SAMPLE = 256  # conversations rendered to tell how many rows there are
_BLOCKS = 64  # runs of neighbouring conversations in a chunk
Floats = NDArray[np.float32]


class _Chunk(NamedTuple):
    """The rows of some conversations at every site, and which conversation each is of."""

    rows_MD: dict[Site, Floats]
    conversation_M: Ints


class LiveHarvest:
    """One model reading the conversations of one split, for sources of several sites (`source`).

    Args:
        config: as for a harvest; `out`, `reuse`, `engine` and shards have no part in it.
        unit: rows are turn means, or the single tokens that `config.tokens` asks for.
        split: `train`, `explain` or `eval`.
        seed: of the order.
        buffer_rows: rows of a chunk, about; twice as many are held at each site.
        like: a harvest whose model, loaded already, is to be used.

    Raises as a harvest does, and ConfigError for a locked split, or tokens that are not asked for.
    """

    def __init__(
        self,
        config: HarvestConfig,
        unit: Literal["turn", "token"] = "turn",
        split: Literal["train", "explain", "eval"] = "train",
        seed: int = 0,
        buffer_rows: int = 1 << 16,
        like: LiveHarvest | None = None,
    ) -> None:
        if check_split(split) == "locked":
            raise ConfigError(f"split {split!r} may not be trained on", fix="use train, explain or eval")
        if unit == "token" and config.tokens == "none":
            raise ConfigError(
                "rows are tokens, and tokens is none", fix="set tokens to all, or to a number of each turn"
            )
        self.config, self.unit, self.seed, self.split = config, unit, seed, split
        self.sites = [Site.parse(text) for text in config.sites]
        self._store = open_transcripts(config.transcripts)
        self._subject, self._renderer = open_subject(config) if like is None else (like._subject, like._renderer)
        self._subject.check_sites(self.sites)
        self.d_model = self._subject.d_model
        table = self._store.columns(["id", "split"])
        self._places = np.asarray([i for i, name in enumerate(table["split"].to_pylist()) if name == split], np.int64)
        self._numbers = {name: i for i, name in enumerate(table["id"].to_pylist())}
        rows = self._rows_of_sample()
        per_conversation = rows / max(1, min(len(self._places), _SAMPLE))
        self.n_rows = round(per_conversation * len(self._places))
        """Rows of an epoch: counted on 256 conversations drawn evenly, so exact where there are no more."""
        if not self.n_rows:
            raise DataError(f"no {unit}s of split {split!r} can be read", where=str(config.transcripts))
        most = max(1, round(buffer_rows / per_conversation))
        n_conversations = len(self._places)
        block = n_conversations if most >= n_conversations else max(1, most // _BLOCKS)
        self._shuffle = Shuffle(n_conversations, block, -(-n_conversations // most))
        self._kept: dict[tuple[int, int], _Chunk] = {}
        # One model reads one batch at a time, whoever asks.
        self._lock = threading.Lock() if like is None else like._lock

    def conversations(self, epoch: int) -> Ints:
        """Which conversation (its number in the transcripts) each row of an epoch is of, in the order of serving."""
        return np.concatenate([self.chunk(epoch, number).conversation_M for number in range(self.n_chunks)])

    def fingerprint(self, site: Site) -> str:
        """Names the rows of a site: model, tokenizer, template, settings, transcripts, unit and split."""
        settings, inputs = self.recorded(str(site))
        return fingerprint({"live": settings, "inputs": inputs, "unit": self.unit, "split": self.split})

    def source(self, site: str, batch_size: int) -> LiveSource:
        """The rows of one site. Sources of one harvest that take turns batch by batch share its forward passes."""
        return LiveSource(self, Site.parse(site), batch_size)

    def recorded(self, site: str) -> tuple[dict[str, Any], dict[str, str]]:
        """What the manifest of a stored harvest of this site would say: settings, and fingerprints of inputs."""
        renderer, store = self._renderer, self._store
        settings, inputs = record(self.config, Site.parse(site), self._subject, renderer.choice, store.fingerprint)
        return settings.recorded(), inputs

    def __str__(self) -> str:
        shuffle = self._shuffle
        return f"{shuffle.n_rows} conversations in {shuffle.n_chunks} chunks, blocks of {shuffle.block_rows}"

    @property
    def n_chunks(self) -> int:
        """Chunks of an epoch."""
        return self._shuffle.n_chunks

    def chunk(self, epoch: int, number: int) -> _Chunk:
        """The rows of a chunk in the order in which they are served; the last few chunks are remembered."""
        with self._lock:
            key = (epoch, number)
            if key not in self._kept:
                while len(self._kept) >= 2:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = self._read(epoch, number)
            return self._kept[key]

    def _read(self, epoch: int, number: int) -> _Chunk:
        drawn = next(c for c in self._shuffle.chunks(self.seed, epoch) if c.number == number)
        shard = self._prepared(self._places[drawn.rows_M])
        made = compute(shard, self._subject, self.config, self.sites)
        sizes = _sizes(shard, self.unit)
        finite_M = np.ones(int(sizes.sum()), np.bool_)
        rows = {site: self._rows(shard, made[site]) for site in self.sites}
        for rows_MD in rows.values():
            finite_M &= np.isfinite(rows_MD).all(axis=1)
        turn_conversation_N = [self._numbers[turn.conversation_id] for turn in shard.turns]
        conversation_M = np.repeat(np.asarray(turn_conversation_N, np.int64), sizes)
        order = np.flatnonzero(finite_M)
        order = order[np.random.default_rng([self.seed, epoch, number]).permutation(len(order))]
        return _Chunk({site: rows_MD[order] for site, rows_MD in rows.items()}, conversation_M[order])

    def _rows(self, shard: Shard, made: Computed) -> Floats:
        """A chunk's rows as a store would give them back: rounded to the type of storage."""
        if self.unit == "token":
            return made.tokens_TD.float().numpy()
        return stored_values(shard, made, self.config.dtype)

    def _prepared(self, places: Ints) -> Shard:
        return prepare(0, self._conversations(places), self._renderer, self._subject, self.config)

    def _conversations(self, places: Ints) -> list[Conversation]:
        """Conversations of the store by their numbers, which ascend."""
        found = list[Conversation]()
        for run in np.split(places, np.flatnonzero(np.diff(places) > _BLOCKS) + 1):
            wanted = set(run.tolist())
            near = enumerate(self._store.slice(int(run[0]), int(run[-1]) + 1), int(run[0]))
            found += [conversation for number, conversation in near if number in wanted]
        return found

    def _rows_of_sample(self) -> int:
        if not len(self._places):
            return 0
        step = max(1, len(self._places) // _SAMPLE)
        return int(_sizes(self._prepared(self._places[::step][:_SAMPLE]), self.unit).sum())


def _sizes(shard: Shard, unit: str) -> Ints:
    """Rows of each turn."""
    return np.asarray([len(turn.token_ids) if unit == "token" else 1 for turn in shard.turns], np.int64)


@dataclass
class _Place:
    epoch: int = 0
    chunk: int = 0
    row: int = 0


class LiveSource:
    """The rows of one site of a live harvest, as a trainer takes them; every batch is full. See `StoreSource`."""

    def __init__(self, harvest: LiveHarvest, site: Site, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", fix="use 1 or more")
        self._harvest, self._site, self._batch_size = harvest, site, batch_size
        self.n_rows, self.d_model = harvest.n_rows, harvest.d_model
        self.fingerprint = harvest.fingerprint(site)
        self._place = _Place()

    def batches(self) -> Iterator[Floats]:
        """Batches without end, from the current state on; each (B, D) float32 and owned by the caller."""
        parts, wanted = list[Floats](), self._batch_size
        for place, rows_MD in ahead(self._jobs()):
            while place.row < len(rows_MD):
                piece = rows_MD[place.row : place.row + wanted]
                parts.append(piece)
                place.row, wanted = place.row + len(piece), wanted - len(piece)
                if not wanted:
                    self._place = _Place(place.epoch, place.chunk, place.row)
                    yield np.concatenate(parts)
                    parts, wanted = list[Floats](), self._batch_size

    def _jobs(self) -> Iterator[Callable[[], tuple[_Place, Floats]]]:
        place = self._place
        while True:
            yield functools.partial(self._load, _Place(place.epoch, place.chunk, place.row))
            last = place.chunk + 1 == self._harvest.n_chunks
            place = _Place(place.epoch + last, 0 if last else place.chunk + 1)

    def _load(self, place: _Place) -> tuple[_Place, Floats]:
        return place, self._harvest.chunk(place.epoch, place.chunk).rows_MD[self._site]

    def state_dict(self) -> dict[str, Any]:
        """Where the source stands, as plain JSON values: after the last batch that was taken."""
        place = self._place
        return {
            "source": self.fingerprint, "seed": self._harvest.seed, "batch_size": self._batch_size,
            "shuffle": str(self._harvest), "epoch": place.epoch, "chunk": place.chunk, "row": place.row,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved state. IntegrityError if it is of other rows, another seed, batch size or buffer."""
        mine = self.state_dict()
        for name in ("source", "seed", "batch_size", "shuffle"):
            if state[name] != mine[name]:
                raise IntegrityError(
                    f"the saved state is of another source: {name} was {state[name]}, is {mine[name]}",
                    fix="resume with the settings of the first run",
                )
        self._place = _Place(int(state["epoch"]), int(state["chunk"]), int(state["row"]))


def neighbours(conversation_N: Sequence[int] | Ints, batch_size: int) -> float:
    """How many other rows of a batch are of a row's own conversation, on average; a last part batch is left out."""
    served = np.asarray(conversation_N)
    batches = served[: len(served) // batch_size * batch_size].reshape(-1, batch_size)
    total = 0
    for batch_B in batches:
        _, counts = np.unique(batch_B, return_counts=True)
        total += int((counts * (counts - 1)).sum())
    return total / max(1, batches.size)
