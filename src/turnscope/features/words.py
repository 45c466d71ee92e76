"""Is a feature no more than a word? Words, pairs of words and tokens held against what fires.

Of each feature the best word is chosen by F1 on one half of the turns (parted by duplicate group) and judged on the
other, so that a choice among thousands does not flatter itself. Beside it the same with words of other turns: what the
best of so many words gives by luck.

Legend: S sampled turns, F features, B features of a block, V words, E entries, T tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from turnscope.features.relations import Codes
from turnscope.features.sorting import Group
from turnscope.transcripts.store import TranscriptStore

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["word", "pair", "word_before", "token", "token_pair", "token_before"]

# One word, or one character of scripts that write words without spaces between them, or one other sign.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
_MOST_CHARACTERS = 20_000
LEAST_TURNS = 5
"""A word on fewer turns of the choosing half, and a feature that fires on fewer of either half, is not looked at."""
_BLOCK = 256
_MOST_BUCKETS = 1 << 22
_TOKEN_KINDS: tuple[Kind, ...] = ("token", "token_pair", "token_before")


class Text(NamedTuple):
    """Words of one turn and of the turn before it in its conversation (empty where there is none)."""

    words: list[str]
    before: list[str]


def words_of(text: str) -> list[str]:
    """Words in lower case, in order.

    >>> words_of("Tea, please: 茶です")
    ['tea', ',', 'please', ':', '茶', 'で', 'す']
    """
    return _WORD.findall(text[:_MOST_CHARACTERS].lower())


def read_texts(turns: pa.Table, transcripts: TranscriptStore, rows_S: Ints) -> list[Text]:
    """Words of some indexed turns, in one pass over the transcripts."""
    ids = turns["conversation_id"].take(pa.array(rows_S)).to_pylist()
    numbers = turns["turn"].to_numpy()[rows_S].tolist()
    wanted: dict[str, list[tuple[int, int]]] = {}
    for place, (name, number) in enumerate(zip(ids, numbers, strict=True)):
        wanted.setdefault(name, []).append((place, number))
    found = [Text([], [])] * len(rows_S)
    for conversation in transcripts:
        for place, number in wanted.get(conversation.id, ()):
            said = {turn.index: turn.text for turn in conversation.turns if turn.index in (number, number - 1)}
            found[place] = Text(words_of(said.get(number, "")), words_of(said.get(number - 1, "")))
    return found


def halves(turns: pa.Table, seed: int) -> Bools:
    """For each turn whether it is of the half that words are chosen on; a duplicate group is on one side."""
    groups = turns["group"].combine_chunks().dictionary_encode()
    side = np.random.default_rng(seed).permutation(len(groups.dictionary)) % 2 == 0
    return side[groups.indices.to_numpy()]


def turn_words(index: Codes, texts: list[Text], rows_S: Ints, choose_S: Bools, vocabulary: int, seed: int) -> pa.Table:
    """Best word of the turn, pair of words of the turn, and word of the turn before, of each feature."""
    ptr, features_E, _ = index.turn_codes(rows_S)
    codes_SF = sparse.csr_array(
        (np.ones(len(features_E), np.float32), features_E, ptr), (len(rows_S), index.n_features)
    )
    rng = np.random.default_rng(seed)
    shuffle = np.arange(len(rows_S))
    for side in (choose_S, ~choose_S):
        shuffle[side] = rng.permutation(shuffle[side])
    kinds: dict[Kind, list[set[str]]] = {
        "word": [set(text.words) for text in texts],
        "pair": [{f"{a} {b}" for a, b in zip(text.words, text.words[1:], strict=False)} for text in texts],
        "word_before": [set(text.before) for text in texts],
    }
    tables = [_table([])]
    for kind, bags in kinds.items():
        words, words_SV = _presence(bags, choose_S, vocabulary)
        if words:
            tables += list(_best_words(kind, codes_SF, words, words_SV, words_SV[shuffle], choose_S))
    return pa.concat_tables(tables).combine_chunks()


def _presence(bags: list[set[str]], choose_S: Bools, most: int) -> tuple[list[str], Any]:
    """The most frequent words of the choosing half (by turns), and which turns hold them (S, V)."""
    counts = Counter(word for bag, side in zip(bags, choose_S.tolist(), strict=True) if side for word in bag)
    ranked = sorted(((-n, word) for word, n in counts.items() if n >= LEAST_TURNS))[:most]
    words = [word for _, word in ranked]
    number = {word: i for i, word in enumerate(words)}
    held = [sorted(number[word] for word in bag if word in number) for bag in bags]
    ptr = np.concatenate([[0], np.cumsum([len(h) for h in held])]).astype(np.int64)
    columns = np.fromiter((v for h in held for v in h), np.int64, int(ptr[-1]))
    return words, sparse.csr_array((np.ones(len(columns), np.float32), columns, ptr), (len(bags), len(words)))


def _best_words(
    kind: Kind, codes_SF: Any, words: list[str], words_SV: Any, shuffled_SV: Any, choose_S: Bools
) -> Iterator[pa.Table]:
    sides = [np.flatnonzero(choose_S), np.flatnonzero(~choose_S)]
    codes = [codes_SF[side].T.tocsr() for side in sides]
    fired = [np.asarray(part.sum(1)) for part in codes]
    eligible = np.minimum(*fired) >= LEAST_TURNS
    results: dict[str, tuple[Ints, Any, Any, Any]] = {}
    for name, matrix in (("", words_SV), ("shuffled_", shuffled_SV)):
        parts = [matrix[side] for side in sides]
        held = [np.asarray(part.sum(0)) for part in parts]
        best: list[NDArray[Any]] = []
        both: list[NDArray[Any]] = []
        for start in range(0, codes_SF.shape[1], _BLOCK):
            rows = slice(start, start + _BLOCK)
            chosen_BV = (codes[0][rows] @ parts[0]).toarray()
            f1_BV = 2 * chosen_BV / np.maximum(fired[0][rows, None] + held[0], 1)
            best.append(f1_BV.argmax(1))
            judged_BV = (codes[1][rows] @ parts[1]).toarray()
            both.append(judged_BV[np.arange(len(judged_BV)), best[-1]])
        word_F, both_F = np.concatenate(best), np.concatenate(both)
        held_F = held[1][word_F]
        results[name] = (word_F, both_F, held_F, 2 * both_F / np.maximum(fired[1] + held_F, 1))
    word_F, both_F, held_F, f1_F = results[""]
    rows = np.flatnonzero(eligible)
    yield _table(
        [
            (int(f), kind, words[word_F[f]], _share(both_F[f], held_F[f]), _share(both_F[f], fired[1][f]),
             float(f1_F[f]), float(results["shuffled_"][3][f]))
            for f in rows.tolist()
        ]
    )  # fmt: skip


class TokenWords:
    """Best token, pair of tokens, and token before (what a feature that "fires after X" fires after) of each feature.

    Chosen by F1 over all stored tokens of one half of the turns and judged on the other. Pairs are counted in
    2^22 buckets at most, so two pairs may, rarely, be counted as one. Shuffled: the ids of other tokens.

    Args:
        ids_T: vocabulary ids.
        positions_T: places in the rendered conversation; only a token whose neighbour is stored has one before it.
        offsets: turn i's tokens are `offsets[i]:offsets[i + 1]`.
        choose_N: turns of the choosing half.
        seed: of the shuffle.
    """

    def __init__(self, ids_T: Any, positions_T: Any, offsets: Ints, choose_N: Bools, seed: int) -> None:
        self._ids_T, self._positions_T, self._offsets, self._choose_N = ids_T, positions_T, offsets, choose_N
        self._n = len(ids_T)
        third = self._n // 3
        self._shift = int(np.random.default_rng(seed).integers(third + 1, max(2 * third, third + 2)))
        self._buckets = min(_MOST_BUCKETS, 1 << max(10, (8 * self._n).bit_length()))
        self._v = int(max((int(ids_T[i : i + (1 << 20)].max()) for i in range(0, self._n, 1 << 20)), default=0)) + 1
        self._tables = [_table([])]
        self._counts = {kind: self._count(kind) for kind in _TOKEN_KINDS}

    def add(self, group: Group) -> None:
        """Take in a group of features -> tokens."""
        for kind in _TOKEN_KINDS:
            self._tables.append(self._best(group, kind))

    def table(self) -> pa.Table:
        """Rows for `words.parquet`; `word` is the id of the token, or two ids."""
        return pa.concat_tables(self._tables).combine_chunks()

    def _keys(self, kind: Kind, places: Ints) -> tuple[Ints, Bools]:
        """A number for what stands at each place, below the number of buckets, and whether anything does."""
        ids = self._ids_T[places].astype(np.int64)
        if kind == "token":
            return ids, np.ones(len(places), np.bool_)
        turns = np.searchsorted(self._offsets, places, side="right") - 1
        before = np.maximum(places - 1, 0)
        known = (places > self._offsets[turns]) & (self._positions_T[places] - self._positions_T[before] == 1)
        previous = self._ids_T[before].astype(np.int64)
        if kind == "token_before":
            return previous, known
        return (previous * 1_000_003 + ids) % self._buckets, known

    def _sides(self, places: Ints) -> Bools:
        return self._choose_N[np.searchsorted(self._offsets, places, side="right") - 1]

    def _size(self, kind: Kind) -> int:
        return self._buckets if kind == "token_pair" else self._v

    def _count(self, kind: Kind) -> tuple[Ints, Ints]:
        counts = [np.zeros(self._size(kind), np.int64) for _ in range(2)]
        for start in range(0, self._n, 1 << 20):
            places = np.arange(start, min(start + (1 << 20), self._n))
            keys, known = self._keys(kind, places)
            choose = self._sides(places)
            for number, side in enumerate((choose, ~choose)):
                counts[number] += np.bincount(keys[known & side], minlength=self._size(kind))
        return counts[0], counts[1]

    def _best(self, group: Group, kind: Kind) -> pa.Table:
        places = np.asarray(group.places_E, np.int64)
        local_E, choose_E = group.local_E(), self._sides(places)
        n = len(group.ptr) - 1
        fired = [np.bincount(local_E[side], minlength=n) for side in (choose_E, ~choose_E)]
        word_G, both_G, held_G, f1_G = self._judged(group, kind, places, local_E, choose_E, fired)
        shuffled = self._judged(group, kind, (places + self._shift) % self._n, local_E, choose_E, fired)[3]
        rows: list[tuple[Any, ...]] = []
        for g in np.flatnonzero((np.minimum(*fired) >= LEAST_TURNS) & (word_G >= 0)).tolist():
            name = self._name(kind, int(word_G[g]), places[group.ptr[g] : group.ptr[g + 1]])
            precision, recall = _share(both_G[g], held_G[g]), _share(both_G[g], fired[1][g])
            rows.append((group.first + g, kind, name, precision, recall, float(f1_G[g]), float(shuffled[g])))
        return _table(rows)

    def _judged(
        self, group: Group, kind: Kind, places: Ints, local_E: Ints, choose_E: Bools, fired: list[Ints]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        size, n = self._size(kind), len(group.ptr) - 1
        keys_E, known_E = self._keys(kind, places)
        first, second = (
            np.unique((local_E * size + keys_E)[known_E & side], return_counts=True) for side in (choose_E, ~choose_E)
        )
        chosen, judged = self._counts[kind]
        features, words = np.divmod(first[0], size)
        f1 = 2 * first[1] / np.maximum(fired[0][features] + chosen[words], 1)
        order = np.lexsort((words, -f1, features))
        heads = order[np.flatnonzero(np.diff(features[order], prepend=-1))]
        word_G = np.full(n, -1)
        word_G[features[heads]] = words[heads]
        sought = np.arange(n) * size + np.maximum(word_G, 0)
        at = np.minimum(np.searchsorted(second[0], sought), max(0, len(second[0]) - 1))
        both_G = np.where(second[0][at] == sought, second[1][at], 0) if len(second[0]) else np.zeros(n, np.int64)
        held_G = judged[np.maximum(word_G, 0)]
        return word_G, both_G, held_G, 2 * both_G / np.maximum(fired[1] + held_G, 1)

    def _name(self, kind: Kind, key: int, places: Ints) -> str:
        if kind != "token_pair":
            return str(key)
        keys, known = self._keys(kind, places)
        hits = places[(keys == key) & known]
        pairs = Counter(zip(self._ids_T[hits - 1].tolist(), self._ids_T[hits].tolist(), strict=True))
        (before, after), _ = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        return f"{before} {after}"


def _share(some: Any, of: Any) -> float:
    return float(some / of) if of else 0.0


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


SCHEMA = pa.schema(
    [
        ("feature", pa.int32()), ("kind", pa.string()), ("word", pa.string()), ("precision", pa.float32()),
        ("recall", pa.float32()), ("f1", pa.float32()), ("f1_shuffled", pa.float32()),
    ]
)  # fmt: skip
