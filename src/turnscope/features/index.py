"""`turnscope index`: activations and a dictionary in, the feature index out.

Legend: N indexed turns, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from turnscope.artifacts import (
    Artifact,
    ConfigError,
    Draft,
    IntegrityError,
    atomic_path,
    begin,
    sole_writer,
    write_json,
)
from turnscope.features.arrays import map_array
from turnscope.features.config import IndexConfig
from turnscope.features.logits import Unembedding, logit_weights, read_unembedding
from turnscope.features.map import feature_map
from turnscope.features.postings import Counts, Postings, Written
from turnscope.features.relations import cofiring, duplicates, neighbours
from turnscope.features.statistics import Describer, Following, categories
from turnscope.features.store import (
    COFIRING,
    FACTS,
    FEATURES,
    GROUPS,
    KIND,
    LOGITS,
    MAP,
    NEIGHBOURS,
    NEURONS,
    SCRAMBLE,
    TURNS,
    WORDS,
    FeatureIndex,
)
from turnscope.features.turns import next_rows, next_rows_of_role, turn_table
from turnscope.features.words import TokenWords, halves, read_texts, turn_words
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.transcripts.store import TranscriptStore, open_transcripts

_ROW_ORDER = [("feature", "ascending"), ("kind", "ascending")]


@dataclass(frozen=True)
class IndexResult:
    """A finished index."""

    artifact: Artifact

    def open(self) -> FeatureIndex:
        """For reading."""
        return FeatureIndex(self.artifact)


def run(config: IndexConfig) -> IndexResult:
    """Index a dictionary. Stopped, it goes on after the last block of turns that was encoded, to the same bytes.

    Raises:
        ConfigError: a dictionary of another width.
        DataError: no turns of the splits asked for; turns that are not in the transcripts; a token dictionary and
            activations without tokens.
        IntegrityError: activations read otherwise than the dictionary's, or harvested from other transcripts; `out`
            holds another index, or another process writes there.
    """
    from turnscope.features.encode import Dictionary

    store, transcripts = open_activations(config.activations), open_transcripts(config.transcripts)
    dictionary = Dictionary(config.sae)
    dictionary.require_same_reading(store)
    _require_fit(store, transcripts, dictionary.config.d_model)
    if dictionary.unit == "token":
        store.raw("token")
    inputs = {
        "activations": store.fingerprint,
        "sae": dictionary.artifact.fingerprint,
        "transcripts": transcripts.fingerprint,
    }
    if (config.scramble_turns or config.neuron_turns) and not config.model:
        raise ConfigError("scrambled turns and neurons are read from the model", fix="name it with --model")
    unembedding = read_unembedding(config.model) if config.model and config.logits else None
    if unembedding is not None:
        inputs["unembedding"] = unembedding.fingerprint
    with sole_writer(config.out):
        draft = begin(config.out, KIND, config, inputs)
        if isinstance(draft, Artifact):
            return IndexResult(draft)
        return IndexResult(_make(config, draft, store, transcripts, dictionary, unembedding))


def _require_fit(store: ActivationStore, transcripts: TranscriptStore, d_model: int) -> None:
    if d_model != store.d_model:
        raise ConfigError(f"a dictionary of width {d_model}, activations of width {store.d_model}")
    harvested = store.artifact.manifest.inputs.get("transcripts")
    if harvested and harvested != transcripts.fingerprint:
        raise IntegrityError(
            "these activations were harvested from other transcripts",
            where=str(transcripts.artifact.path),
            fix="name the transcripts that the activations were harvested from",
        )


def _make(
    config: IndexConfig, draft: Draft, store: ActivationStore, transcripts: TranscriptStore, dictionary: Any,
    unembedding: Unembedding | None,
) -> Artifact:  # fmt: skip
    turns = turn_table(store, transcripts, config.splits, config.outlier_norm)
    write_table(draft, TURNS, turns)
    postings = Postings(draft, config, store, dictionary, turns["activation_row"].to_numpy())
    postings.make_pieces()
    counts = postings.join()
    describer = _describer(config, turns)
    for group in postings.turn_round(counts):
        describer.add(group)
    choose_N = halves(turns, config.seed)
    of_tokens = _of_tokens(draft, postings, counts, choose_N, config.seed) if counts.n_tokens else []
    write_table(draft, GROUPS, describer.groups())
    written = Written(draft.path, turns.num_rows, dictionary.n_features)
    words, n_read = _words(config, turns, transcripts, written, choose_N)
    write_table(draft, WORDS, pa.concat_tables([words, *of_tokens]).sort_by(_ROW_ORDER))
    next_N = describer.follow["persistence"].next_N
    partners, sampled = cofiring(written, next_N, config.cofiring_turns, config.neighbours, config.seed)
    write_table(draft, COFIRING, partners)
    near, pairs = neighbours(dictionary.decoder_FD(), config.neighbours, config.duplicate_cosine)
    write_table(draft, NEIGHBOURS, near)
    repeats = duplicates(written, pairs, config.duplicate_jaccard)
    write_table(draft, MAP, feature_map(dictionary.decoder_FD(), config.map, config.seed))
    if unembedding is not None:
        from turnscope.models import load_tokenizer

        tokenizer = load_tokenizer(config.model)
        table = logit_weights(
            dictionary.decoder_FD(), unembedding, lambda t: tokenizer.decode([t]), config.logit_tokens
        )
        write_table(draft, LOGITS, table)
    if config.scramble_turns or config.neuron_turns:
        _read_again(config, draft, store, transcripts, dictionary, turns, written, postings)
    features = _with_tokens(describer.features(), counts, dictionary.n_turn_features)
    features = features.append_column(
        "duplicate_of", pa.array([repeats.get(f) for f in range(dictionary.n_features)], pa.int32())
    )
    write_table(draft, FEATURES, features)
    facts: dict[str, Any] = {
        **sampled, "word_turns": n_read,
        "unit": dictionary.unit, "pool": config.pool, "n_turns": turns.num_rows, "n_features": dictionary.n_features,
        "n_turn_features": dictionary.n_turn_features, "n_tokens": counts.n_tokens, "site": dictionary.config.site,
    }  # fmt: skip
    write_json(draft.path / FACTS, facts)
    return draft.commit(
        {
            "turns": turns.num_rows, "turns.not_indexed": len(store) - turns.num_rows,
            "entries": int(counts.turns_F.sum()),
            "features": dictionary.n_features, "features.dead": int((counts.turns_F == 0).sum()),
            "features.dense": int(features["dense"].to_numpy().sum()), "features.duplicate": len(repeats),
            "tokens": counts.n_tokens, "tokens.sinks": counts.n_sinks,
        }
    )  # fmt: skip


def _read_again(
    config: IndexConfig, draft: Draft, store: ActivationStore, transcripts: TranscriptStore, dictionary: Any,
    turns: pa.Table, written: Written, postings: Postings,
) -> None:  # fmt: skip
    """What takes the model: turns with their tokens scrambled, and neurons."""
    from turnscope.features.again import Rereader
    from turnscope.features.neurons import neuron_table, sample_rows
    from turnscope.features.scramble import LEAST_TOKENS, pick_rows, scramble_table

    rereader = Rereader(store, transcripts, config.model)
    plain_N = ~turns["outlier"].to_numpy(zero_copy_only=False)
    if config.scramble_turns and not (draft.path / SCRAMBLE).exists():
        long_N = turns["n_tokens"].to_numpy() >= LEAST_TOKENS
        rows = pick_rows(written, plain_N & long_N, config.scramble_turns, config.seed)
        norm = postings.most_norm if dictionary.unit == "token" else 0.0
        table = scramble_table(rereader, dictionary, written, turns, rows, norm, config.pool, config.seed)
        write_table(draft, SCRAMBLE, table)
    if config.neuron_turns and not (draft.path / NEURONS).exists():
        rows = sample_rows(plain_N, config.neuron_turns, config.seed)
        by_max, scratch = dictionary.unit == "token", draft.work / "neurons"
        write_table(draft, NEURONS, neuron_table(rereader, written, turns, rows, by_max=by_max, scratch=scratch))


def _of_tokens(draft: Draft, postings: Postings, counts: Counts, choose_N: Any, seed: int) -> list[pa.Table]:
    ids, positions, offsets = (map_array(draft.path / f"tokens.{name}.npy") for name in ("ids", "positions", "ptr"))
    token_words = TokenWords(ids, positions, np.asarray(offsets), choose_N, seed)
    for group in postings.turn_tokens_round(counts):
        token_words.add(group)
    return [token_words.table()]


def _words(
    config: IndexConfig, turns: pa.Table, transcripts: TranscriptStore, written: Written, choose_N: Any
) -> tuple[pa.Table, int]:
    """Words held against features on a sample of turns, and its size."""
    rows_S = np.arange(turns.num_rows)
    if len(rows_S) > config.word_turns:
        rng = np.random.default_rng(config.seed)
        rows_S = np.sort(rng.choice(rows_S, config.word_turns, replace=False))
    texts = read_texts(turns, transcripts, rows_S)
    return turn_words(written, texts, rows_S, choose_N[rows_S], config.vocabulary, config.seed), len(rows_S)


def _describer(config: IndexConfig, turns: pa.Table) -> Describer:
    def codes(name: str) -> Any:
        return turns[name].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)

    conversation_N, role_N = codes("conversation_id"), codes("role")
    turn_N = turns["turn"].to_numpy().astype(np.int64)
    follow = {
        "persistence": Following(next_rows(conversation_N, turn_N)),
        "persistence_of_role": Following(next_rows_of_role(conversation_N, turn_N, role_N)),
    }
    return Describer(turns.num_rows, config.bins, config.dense, follow, categories(turns))


def _with_tokens(features: pa.Table, counts: Counts, n_turn_features: int) -> pa.Table:
    power = features["power"].to_numpy()
    block = np.where(np.arange(len(power)) < n_turn_features, "turn", "token")
    share = power / power.sum() if power.sum() > 0 else power
    columns = {"share": share, "block": block, "n_tokens": counts.tokens_F}
    features = features.drop_columns(["power"])
    for name, values in columns.items():
        features = features.append_column(name, pa.array(values))
    return features


def write_table(draft: Draft, name: str, table: pa.Table) -> None:
    """A Parquet file of the index. Raises StorageError."""
    with atomic_path(draft.path / name) as temp:
        pq.write_table(table, temp)
