"""Some indexed turns read from the model once more, as they are or altered, and encoded by the index's dictionary.

Legend: P picked turns, S segments, D width, E entries, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import IntegrityError
from turnscope.harvest.again import require_inputs, settings_again
from turnscope.harvest.harvest import open_subject, record
from turnscope.harvest.pool import Row
from turnscope.harvest.prepare import Shard, TurnRow, prepare
from turnscope.harvest.store import ActivationStore
from turnscope.harvest.write import Computed, compute, stored_values
from turnscope.models.site import Site
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.store import TranscriptStore

if TYPE_CHECKING:
    from turnscope.features.encode import Block, Dictionary, Pool

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_CONVERSATIONS = 64
_NEAR = 0.02
"""Relative distance at which a mean that was read again is another one; batches of other sizes round by far less."""


class Reading(NamedTuple):
    """Sequences of some turns, one each, ready to be run: `shard.turns[i]` is the index row `rows[i]`."""

    rows: Ints
    shard: Shard


class Rereader:
    """The model, template and settings that made some activations, for turns of an index over them.

    Args:
        store: the activations that the index was made of.
        transcripts: those that were harvested.
        model: where the model is now.

    Raises IntegrityError when model or transcripts are others, ModelError when the model cannot be loaded.
    """

    def __init__(self, store: ActivationStore, transcripts: TranscriptStore, model: str) -> None:
        self.store, self._transcripts = store, transcripts
        self.config = settings_again(store.artifact, transcripts.artifact.path, model)
        require_inputs(store.artifact, {"transcripts": transcripts.fingerprint})
        self.subject, self._renderer = open_subject(self.config)
        self.site = Site.parse(self.config.sites[0])
        _, inputs = record(self.config, self.site, self.subject, self._renderer.choice, transcripts.fingerprint)
        require_inputs(store.artifact, inputs)

    def readings(self, turns: pa.Table, rows: Ints) -> Iterator[Reading]:
        """The sequences of some indexed turns, some conversations at a time; turns spread over windows are left out.

        A decoder does not see what follows, so a sequence ends with its turn; an encoder gets the whole window.
        """
        wanted: dict[str, dict[int, int]] = {}
        names = turns["conversation_id"].take(pa.array(rows)).to_pylist()
        for row, name, turn in zip(rows.tolist(), names, turns["turn"].to_numpy()[rows].tolist(), strict=True):
            wanted.setdefault(name, {})[turn] = row
        group: list[Conversation] = []
        for conversation in self._transcripts:
            if conversation.id in wanted:
                group.append(conversation)
            if len(group) == _CONVERSATIONS:
                yield self._reading(group, wanted)
                group = []
        if group:
            yield self._reading(group, wanted)

    def _reading(self, group: list[Conversation], wanted: dict[str, dict[int, int]]) -> Reading:
        whole = prepare(0, group, self._renderer, self.subject, self.config)
        rows_of = {
            number: wanted[turn.conversation_id][turn.turn]
            for number, turn in enumerate(whole.turns)
            if turn.turn in wanted[turn.conversation_id]
        }
        alone = Shard(0)
        rows = list[int]()
        for number, sequence in alone_in(whole, rows_of, is_encoder=self.subject.is_encoder):
            turn = whole.turns[number]
            _append(alone, turn, sequence)
            rows.append(rows_of[number])
        return Reading(np.asarray(rows, np.int64), alone)

    def encode(
        self, reading: Reading, dictionary: Dictionary, most_norm: float, pool: Pool = "max"
    ) -> tuple[Floats, Block]:
        """Means (P, D) of turns as a store would give them back, and their codes."""
        made = compute(reading.shard, self.subject, self.config, [self.site])
        mean_PD = stored_values(reading.shard, made[self.site], self.config.dtype)
        return mean_PD, encode_shard(dictionary, reading.shard, made[self.site], mean_PD, most_norm, pool)

    def require_same(self, mean_PD: Floats, activation_rows_P: Ints) -> None:
        """IntegrityError when most turns come out otherwise than they were stored: two things would be compared."""
        stored_PD = self.store.mean_ND(activation_rows_P)
        distance_P = np.linalg.norm(mean_PD - stored_PD, axis=1) / np.maximum(np.linalg.norm(stored_PD, axis=1), 1e-12)
        if len(distance_P) and float(np.median(distance_P)) > _NEAR:
            raise IntegrityError(
                f"turns read again are others than those stored: {np.median(distance_P):.1%} apart",
                where=self.store.artifact.path,
                fix="use the library versions and the device of the harvest, or harvest again",
            )


def encode_shard(
    dictionary: Dictionary, shard: Shard, made: Computed, mean_ND: Floats, most_norm: float, pool: Pool
) -> Block:
    """Codes of turns that were just read: of their means, or of their stored tokens but the sinks."""
    if dictionary.unit == "turn":
        return dictionary.encode(mean_ND, None, np.zeros(len(mean_ND), np.int64), None)
    tokens_TD = made.tokens_TD.float().numpy()
    lengths_N = np.asarray([len(turn.token_ids) for turn in shard.turns], np.int64)
    keep_T = np.linalg.norm(tokens_TD, axis=1) <= most_norm
    keep_T &= np.concatenate([turn.token_positions for turn in shard.turns]) > 0
    return dictionary.encode(mean_ND, tokens_TD, lengths_N, keep_T, pool)


def alone_in(shard: Shard, numbers: dict[int, int], *, is_encoder: bool) -> Iterator[tuple[int, Row]]:
    """(turn number, its sequence with nothing else read from it), of those turns that lie in one sequence."""
    ends = np.cumsum([0, *(len(turn.token_ids) for turn in shard.turns)])
    seen: dict[int, list[tuple[Row, Ints]]] = {}
    for row in shard.rows:
        parts = np.split(row.places_P, np.cumsum(row.lengths_S)[:-1])
        for number, places in zip(row.rows_S.tolist(), parts, strict=True):
            if number in numbers:
                seen.setdefault(number, []).append((row, places))
    for number, found in sorted(seen.items()):
        if len(found) > 1:
            continue
        row, places = found[0]
        slots = row.token_slots
        mine = (slots >= ends[number]) & (slots < ends[number + 1])
        token_places = row.token_places[mine]
        last = max(int(places[-1]), int(token_places[-1]) if len(token_places) else 0)
        ids = row.ids if is_encoder else row.ids[: last + 1]
        one, none = np.array([len(places)]), np.zeros(1, np.int64)
        yield number, Row(ids, places, one, none, token_places, slots[mine] - ends[number])


def altered(reading: Reading, change: Callable[[int, Row], Row]) -> Reading:
    """The same turns with other sequences: `change(index row, sequence)`, which keeps places and length."""
    shard = Shard(0, reading.shard.turns, n_tokens_stored=reading.shard.n_tokens_stored)
    shard.rows = [change(row, old) for row, old in zip(reading.rows.tolist(), reading.shard.rows, strict=True)]
    return Reading(reading.rows, shard)


def _append(shard: Shard, turn: TurnRow, row: Row) -> None:
    number, first = len(shard.turns), shard.n_tokens_stored
    shard.turns.append(turn)
    shard.rows.append(
        Row(row.ids, row.places_P, row.lengths_S, np.array([number]), row.token_places, row.token_slots + first)
    )
    shard.n_tokens_stored += len(turn.token_ids)
