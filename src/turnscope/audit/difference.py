"""`turnscope diff`: the same conversations read by two models under one dictionary; which features rose or fell, where.

Legend: P pairs of turns, F features, K features shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from turnscope.artifacts import (
    Artifact,
    ConfigError,
    DataError,
    Draft,
    IntegrityError,
    atomic_path,
    begin,
    sole_writer,
    write_json,
)
from turnscope.audit.changes import Changes, Moved, Pairs, Tally, intervals, judged, most_changed, switched
from turnscope.audit.config import DiffConfig
from turnscope.audit.foregoing import Corpus, foregoing, recurring
from turnscope.audit.pairs import Fit, Matched, Reading, match
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.store import TranscriptStore, open_transcripts

if TYPE_CHECKING:
    from turnscope.sae import SparseAutoencoder

KIND = "difference"
FEATURES, TURNS, WITHHELD, FACTS = "features.parquet", "turns.parquet", "withheld.parquet", "difference.json"
BEFORE = "before.parquet"
RENDERING = (
    "site", "roles", "token_set", "pool", "span_policy", "control_tokens", "chat_template", "template", "too_long",
)  # fmt: skip
"""Settings that both must share, for turns to be the same tokens read at the same place."""
_TEXT = 1000  # characters of a turn that are kept
_LOOKED_BEFORE, _EXPLAINED, _SAMPLE = 50, 10, 3000  # turns, features, conversations of the search for phrases
_WORST = 1000  # withheld turns that are listed


@dataclass(frozen=True)
class DiffResult:
    """A finished difference."""

    artifact: Artifact

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What holds for all features: turns, conversations, variance explained of either model, notes."""
        return cast("dict[str, Any]", json.loads((self.artifact.path / FACTS).read_bytes()))

    @cached_property
    def features(self) -> pa.Table:
        """One row for each feature, the claimed ones first, then by net share of turns; see docs/diff.md."""
        return pq.ParquetFile(self.artifact.path / FEATURES).read()

    @cached_property
    def turns(self) -> pa.Table:
        """The most changed turns of the first features, with their words."""
        return pq.ParquetFile(self.artifact.path / TURNS).read()

    @cached_property
    def before(self) -> pa.Table:
        """Phrases that stand before the most changed turns of the first features, and before few others."""
        return pq.ParquetFile(self.artifact.path / BEFORE).read()

    @cached_property
    def withheld(self) -> pa.Table:
        """Turns that are in no feature's figures, the worst first."""
        return pq.ParquetFile(self.artifact.path / WITHHELD).read()


def run(config: DiffConfig) -> DiffResult:
    """Compare two models. Stopped, it goes on after the last block of turns that was read.

    Raises:
        IntegrityError: activations of other transcripts, or read or rendered otherwise (both fingerprints are named);
            a dictionary of other readings; `out` holds something else.
        ConfigError: other widths; a dictionary of tokens.
        DataError: no turns in common, activations that are not finite.
    """
    before, after = (open_activations(locate(path, config.sae)) for path in (config.before, config.after))
    transcripts = open_transcripts(config.transcripts)
    require_same_reading(before, after, transcripts)
    sae, notes = _dictionary(config.sae, before, after)
    inputs = {
        "before": before.fingerprint, "after": after.fingerprint, "transcripts": transcripts.fingerprint,
        "sae": Artifact.open(config.sae, "sae").fingerprint,
    }  # fmt: skip
    matched = match(before, after, config.splits)
    with sole_writer(config.out):
        draft = begin(config.out, KIND, config, inputs)
        if isinstance(draft, Artifact):
            return DiffResult(draft)
        reading = Reading(before, after, sae, matched, draft.work / "pairs", config.block_turns)
        reading.make()
        return DiffResult(_report(config, draft, reading, matched, _Texts(before, matched, transcripts), sae, notes))


def locate(path: Path, sae: Path) -> Path:
    """The activations that a path names: itself, or those of the dictionary's site in a run folder."""
    if (path / "manifest.json").exists() or not (path / "activations").is_dir():
        return path
    site = _site(sae)
    folder = path / "activations" / site
    if not site or not folder.is_dir():
        raise ConfigError(
            f"the run folder has no activations of the dictionary's site {site or '(not told)'}", where=str(path),
            fix="name the folder of activations itself",
        )  # fmt: skip
    return folder


def _site(sae: Path) -> str:
    from turnscope.features.encode import Dictionary

    return Dictionary(sae).config.site


def require_same_reading(before: ActivationStore, after: ActivationStore, transcripts: TranscriptStore) -> None:
    """Refuse what cannot be put side by side, naming both."""
    pair = [store.artifact.manifest for store in (before, after)]
    where = f"{before.artifact.path} and {after.artifact.path}"
    for name in ("transcripts", "tokenizer", "template"):
        values = [manifest.inputs.get(name, "(not told)") for manifest in pair]
        if values[0] != values[1]:
            raise IntegrityError(
                f"the two were not harvested alike: {name} {values[0]} and {values[1]}", where=where,
                fix="harvest the same transcripts by both models, rendered by the same tokenizer and template",
            )  # fmt: skip
    made_from = pair[0].inputs.get("transcripts")
    if made_from and made_from != transcripts.fingerprint:
        raise IntegrityError(
            f"these are other transcripts: {transcripts.fingerprint}, the activations are of {made_from}",
            where=str(transcripts.artifact.path), fix="name those that both were harvested from",
        )  # fmt: skip
    for name in RENDERING:
        values = [manifest.config.get(name) for manifest in pair]
        if values[0] != values[1]:
            raise IntegrityError(
                f"the two were read under other policies: {name} {values[0]} and {values[1]} "
                f"(activations {before.fingerprint} and {after.fingerprint})",
                where=where, fix="harvest both with the same settings",
            )  # fmt: skip
    if before.d_model != after.d_model:
        raise ConfigError(f"activations of width {before.d_model} and {after.d_model}", where=where)


def _dictionary(
    folder: Path, before: ActivationStore, after: ActivationStore
) -> tuple[SparseAutoencoder, list[str]]:  # fmt: skip
    """The block that reads turns, and what should be known of it."""
    from turnscope.features.encode import Dictionary

    dictionary = Dictionary(folder)
    sae, notes = dictionary.blocks.get("turn"), list[str]()
    if sae is None:
        raise ConfigError("a dictionary of tokens: models are compared by turn", where=str(folder),
                          fix="name a turn dictionary, or a nested one")  # fmt: skip
    if dictionary.nested is not None:
        notes.append("of the nested dictionary only the turn block is read")
    config, read = sae.config, before.artifact.manifest.config
    if config.d_model != before.d_model:
        raise ConfigError(f"a dictionary of width {config.d_model}, activations of width {before.d_model}",
                          where=str(folder))  # fmt: skip
    for name, wanted in (
        ("site", config.site), ("token_set", config.token_set), ("span_policy", config.span_policy),
        ("roles", list(config.roles)),
    ):  # fmt: skip
        if wanted and wanted != read.get(name):
            raise IntegrityError(
                f"the dictionary was trained on other activations: {name} {wanted}, these have {read.get(name)}",
                where=str(folder), fix="name a dictionary of this site and reading",
            )  # fmt: skip
    models = [store.artifact.manifest.inputs.get("model", "") for store in (before, after)]
    if config.subject_fingerprint and config.subject_fingerprint != models[0]:
        whose = "the second model" if config.subject_fingerprint == models[1] else "neither model"
        notes.append(f"the dictionary was trained on {whose}: what it explains of the first is no reference for it")
    if models[0] == models[1]:
        notes.append("both were harvested from the same model")
    return sae, notes


class _Lost(NamedTuple):
    turn: int
    before: float
    after: float


class _Kept:
    """The pairs that count, block by block, read anew each time; what does not is counted at the first reading."""

    def __init__(self, reading: Reading, fall: float) -> None:
        self._reading, self._fall = reading, fall
        self.sums = np.zeros(4)
        self.lost: list[_Lost] = []
        self._counted = False

    def __iter__(self) -> Iterator[Pairs]:
        for pairs, fit in self._reading.blocks():
            lost_N = unreliable(fit, self._fall)
            if not self._counted:
                self.sums += [fit.error_before, fit.error_after, fit.total_before, fit.total_after]
                for i in np.flatnonzero(lost_N).tolist():
                    self.lost.append(_Lost(int(pairs.turns[i]), float(fit.before_N[i]), float(fit.after_N[i])))
            yield pairs.keep(~lost_N)
        self._counted = True


def unreliable(fit: Fit, fall: float) -> NDArray[np.bool_]:
    """Turns on which the dictionary explains more than the share `fall` less of the second model than of the first, or
    nothing of the first.
    """
    return (fit.before_N <= 0) | (fit.after_N < (1 - fall) * fit.before_N)


def _report(
    config: DiffConfig, draft: Draft, reading: Reading, matched: Matched, texts: _Texts, sae: SparseAutoencoder,
    notes: list[str],
) -> Artifact:  # fmt: skip
    kept, tally = _Kept(reading, config.fall), Tally(sae.config.n_features)
    for pairs in kept:
        tally.add(pairs)
    changes = tally.result(config.margin, config.min_conversations)
    if not changes.n_turns:
        raise DataError(
            f"none of {len(matched.before_P):,} turns is explained well enough in the second model",
            where=str(draft.path), fix="use a dictionary that reads both models",
        )  # fmt: skip
    counted = Tally(sae.config.n_features)
    for pairs in switched(kept, changes.typical, config.by):
        counted.add(pairs)
    switches = counted.result(config.margin, config.min_conversations)
    p_F, q_F = judged(switches, changes, config.min_conversations)
    claimed_F = np.nan_to_num(q_F, nan=1.0) <= config.fdr
    order_F = ranking(changes, switches, claimed_F)
    _write(draft, FEATURES, _feature_table(config, kept, changes, switches, (p_F, q_F, claimed_F), order_F))
    shown = order_F[changes.withheld[order_F] == ""][: config.shown]
    signs = np.sign(np.where(switches.change == 0, changes.change, switches.change))
    found = most_changed(kept, shown, signs[shown], max(config.turns, _LOOKED_BEFORE))
    _write(draft, TURNS, _turn_table(shown, [turns[: config.turns] for turns in found], texts))
    _write(draft, BEFORE, _before_table(shown[:_EXPLAINED], found[:_EXPLAINED], texts))
    _write(draft, WITHHELD, _withheld_table(kept.lost, texts))
    explained = [1 - kept.sums[i] / max(kept.sums[i + 2], 1e-300) for i in (0, 1)]
    counts = {
        "turns": len(matched.before_P), "turns.kept": changes.n_turns, "turns.withheld": len(kept.lost),
        "turns.withheld.nothing_explained": sum(each.before <= 0 for each in kept.lost),
        "turns.only_in_first": matched.alone_before, "turns.only_in_second": matched.alone_after,
        "conversations": changes.n_conversations, "features": sae.config.n_features,
        "features.tested": int((changes.withheld == "").sum()), "features.claimed": int(claimed_F.sum()),
    }  # fmt: skip
    effects = np.abs(changes.effect[changes.withheld == ""])
    write_json(draft.path / FACTS, {
        "variance_explained": {"before": explained[0], "after": explained[1]},
        "median_effect": float(np.median(effects)) if len(effects) else None,
        "by": config.by, "margin": config.margin, "fdr": config.fdr, "fall": config.fall,
        "counts": counts, "notes": notes,
    })  # fmt: skip
    return draft.commit(counts)


def ranking(changes: Changes, switches: Changes, claimed_F: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Features in the order of the table: claimed ones first, then tested ones, each by the net share of turns on which
    they came on or went out, then by effect.
    """
    effect = np.nan_to_num(np.abs(changes.effect))
    return np.lexsort((np.arange(len(effect)), -effect, -np.abs(switches.change), changes.withheld != "", ~claimed_F))


def _feature_table(
    config: DiffConfig, kept: _Kept, changes: Changes, switches: Changes, test: tuple[Any, Any, Any],
    order_F: NDArray[np.int64],
) -> pa.Table:  # fmt: skip
    bounds = np.full((4, len(order_F)), np.nan)
    told = order_F[changes.withheld[order_F] == ""][: config.intervals]
    if len(told):
        bounds[:2, told] = intervals(switched(kept, changes.typical, config.by), told, config.n_boot, config.seed)
        bounds[2:, told] = intervals(kept, told, config.n_boot, config.seed)
    columns = {
        "feature": np.arange(len(order_F), dtype=np.int32), "claimed": test[2],
        "net": switches.change, "net_low": bounds[0], "net_high": bounds[1], "p": test[0], "q": test[1],
        "came_on": switches.mean_after, "went_out": switches.mean_before,
        "effect": changes.effect, "change": changes.change, "low": bounds[2], "high": bounds[3],
        "mean_before": changes.mean_before, "mean_after": changes.mean_after, "typical": changes.typical,
        "density_before": changes.density_before, "density_after": changes.density_after,
        "conversations": changes.conversations, "withheld": changes.withheld.astype(str),
    }  # fmt: skip
    return pa.table({name: pa.array(values[order_F], from_pandas=True) for name, values in columns.items()})


def _turn_table(shown: NDArray[np.int64], found: list[list[Moved]], texts: _Texts) -> pa.Table:
    rows = [
        {"feature": int(feature), "rank": rank, "pair": turn.turn, "before": turn.before, "after": turn.after}
        for feature, turns in zip(shown, found, strict=True)
        for rank, turn in enumerate(turns)
    ]
    schema = pa.schema(
        [("feature", pa.int32()), ("rank", pa.int32()), ("before", pa.float64()), ("after", pa.float64()), *_OF_TURN]
    )
    told = texts.tell([int(row["pair"]) for row in rows])
    return pa.Table.from_pylist([{**row, **told[int(row.pop("pair"))]} for row in rows], schema)


def _before_table(shown: NDArray[np.int64], found: list[list[Moved]], texts: _Texts) -> pa.Table:
    schema = pa.schema(
        [("feature", pa.int32()), ("phrase", pa.string()), ("changed", pa.int64()), ("of_changed", pa.int64()),
         ("others", pa.int64()), ("of_others", pa.int64()), ("p", pa.float64())]
    )  # fmt: skip
    changed = [texts.changed(turns) for turns in found]
    corpus = Corpus(texts.sample(_SAMPLE), set[str]().union(*map(recurring, changed)))
    rows = [
        {"feature": int(feature), **each._asdict()}
        for feature, own in zip(shown, changed, strict=True)
        for each in foregoing(own, corpus)
    ]
    return pa.Table.from_pylist(rows, schema)


def _withheld_table(lost: list[_Lost], texts: _Texts) -> pa.Table:
    worst = sorted(lost, key=lambda each: each.after - each.before)[:_WORST]
    schema = pa.schema([("explained_before", pa.float64()), ("explained_after", pa.float64()), *_OF_TURN])
    told = texts.tell([each.turn for each in worst])
    rows = [{"explained_before": each.before, "explained_after": each.after, **told[each.turn]} for each in worst]
    return pa.Table.from_pylist(rows, schema)


_OF_TURN = [
    ("conversation_id", pa.string()), ("turn", pa.int32()), ("role", pa.string()), ("text", pa.string()),
    ("previous", pa.string()), ("labels", pa.string()),
]  # fmt: skip


class _Texts:
    """What transcripts say of some pairs of turns."""

    def __init__(self, store: ActivationStore, matched: Matched, transcripts: TranscriptStore) -> None:
        self._store, self._matched, self._transcripts = store, matched, transcripts

    def places(self, pairs: list[int]) -> list[tuple[str, int]]:
        """Conversation and turn of pairs, in the order given."""
        rows = self._matched.before_P[np.asarray(pairs, np.int64)]
        table = self._store.table(["conversation_id", "turn"]).take(pa.array(rows))
        return list(zip(table["conversation_id"].to_pylist(), table["turn"].to_pylist(), strict=True))

    def sample(self, most: int) -> Iterator[Conversation]:
        """Conversations of the pairs: all, or so many spread evenly."""
        firsts = np.flatnonzero(np.diff(self._matched.conversation_P, prepend=-1))
        chosen = firsts[np.unique(np.linspace(0, len(firsts) - 1, min(most, len(firsts))).astype(np.int64))]
        return (self._transcripts.get(name) for name, _ in self.places(chosen.tolist()))

    def changed(self, turns: list[Moved]) -> list[tuple[Conversation, int]]:
        """The conversations of some turns, each with the first of these."""
        first = dict[str, int]()
        for name, turn in self.places([each.turn for each in turns]):
            first.setdefault(name, turn)
        return [(self._transcripts.get(name), turn) for name, turn in first.items()]

    def tell(self, pairs: list[int]) -> dict[int, dict[str, Any]]:
        """Place, words, the turn before and labels, by number of the pair."""
        wanted = sorted(set(pairs))
        rows = self._matched.before_P[np.asarray(wanted, np.int64)]
        table = self._store.table(["conversation_id", "turn"]).take(pa.array(rows)).to_pylist()
        told: dict[int, dict[str, Any]] = {}
        for pair, row in zip(wanted, table, strict=True):
            turns = {turn.index: turn for turn in self._transcripts.get(row["conversation_id"]).turns}
            turn, last = turns[row["turn"]], turns.get(row["turn"] - 1)
            told[pair] = {
                **row, "role": turn.role, "text": turn.text[:_TEXT], "previous": last.text[:_TEXT] if last else "",
                "labels": json.dumps(dict(turn.labels), sort_keys=True),
            }  # fmt: skip
        return told


def _write(draft: Draft, name: str, table: pa.Table) -> None:
    with atomic_path(draft.path / name) as temp:
        pq.write_table(table, temp)
