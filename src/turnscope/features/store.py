"""Reading a finished feature index. Never imports torch; postings are memory maps.

Legend: N turns, F features, E entries, T stored tokens, K features of a block asked for, M rows asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from turnscope.artifacts import Artifact, ConfigError, IntegrityError, atomic_path
from turnscope.features.arrays import gather, open_array
from turnscope.transcripts.store import TranscriptStore, open_transcripts

if TYPE_CHECKING:
    from turnscope.features.query.result import Querier, QueryResult

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

KIND = "features"
TURNS, FEATURES, GROUPS = "turns.parquet", "features.parquet", "groups.parquet"
COFIRING, NEIGHBOURS, WORDS = "cofiring.parquet", "neighbours.parquet", "words.parquet"
FACTS = "index.json"
LOGITS, MAP = "logits.parquet", "map.parquet"
SCRAMBLE, NEURONS = "scramble.parquet", "neurons.parquet"
EXPLANATIONS = "explanations.parquet"
EXPLANATION_SCHEMA = pa.schema([("feature", pa.int32()), ("text", pa.string()), ("source", pa.string())])
_TORN = "run turnscope index again into an empty folder"


class FeatureIndex:
    """Which turns a feature fires on, which features a turn has, and what is known of both.

    Rows number the indexed turns from 0, features the dictionary's elements (of a nested dictionary the turn block
    first). A turn's value of a token feature is the largest one of its tokens.
    """

    def __init__(self, artifact: Artifact, transcripts: TranscriptStore | None = None) -> None:
        self.artifact, self.transcripts = artifact, transcripts
        facts = self.facts
        self.n_turns, self.n_features = int(facts["n_turns"]), int(facts["n_features"])
        self.unit = cast(Literal["turn", "token"], facts["unit"])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """`index.json`: sizes, unit, and what was counted on how many turns."""
        try:
            return cast("dict[str, Any]", json.loads((self.artifact.path / FACTS).read_bytes()))
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{FACTS} cannot be read: {error}", where=str(self.artifact.path), fix=_TORN
            ) from error

    @cached_property
    def turns(self) -> pa.Table:
        """One row for each indexed turn; see docs/index.md for the columns."""
        return self.table(TURNS)

    @cached_property
    def features(self) -> pa.Table:
        """One row for each feature, in order; see docs/index.md for the columns."""
        return self.table(FEATURES)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file of the index, read anew. IntegrityError when it is missing or damaged."""
        try:
            return pq.ParquetFile(self.artifact.path / name).read(columns=list(columns) if columns else None)
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise IntegrityError(f"{name}: {reason}", where=str(self.artifact.path), fix=_TORN) from error

    def array(self, name: str) -> NDArray[Any]:
        """A file `NAME.npy` of the index, mapped."""
        if name not in self._arrays:
            self._arrays[name] = open_array(self.artifact, f"{name}.npy")
        return self._arrays[name]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def feature_turns(self, feature: int) -> tuple[Ints, Floats]:
        """Rows of the turns on which it fires, ascending, and its values there."""
        first, last = self._run("by_feature", feature, self.n_features, "feature")
        return _ints(self.array("by_feature.rows")[first:last]), _floats(self.array("by_feature.values")[first:last])

    def turn_features(self, row: int) -> tuple[Ints, Floats]:
        """Features that fire on a turn, ascending, and their values."""
        first, last = self._run("by_turn", row, self.n_turns, "turn row")
        return _ints(self.array("by_turn.features")[first:last]), _floats(self.array("by_turn.values")[first:last])

    def turn_codes(self, rows: Sequence[int] | Ints) -> tuple[Ints, Ints, Floats]:
        """Features of many turns at once as (ptr, features, values): the i-th has `ptr[i]:ptr[i + 1]`."""
        return self._gather("by_turn", "features", np.asarray(rows, np.int64), self.n_turns, "turn row")

    def feature_codes(self, features: Sequence[int] | Ints) -> tuple[Ints, Ints, Floats]:
        """Turns of many features at once as (ptr, rows, values)."""
        return self._gather("by_feature", "rows", np.asarray(features, np.int64), self.n_features, "feature")

    def feature_tokens(self, feature: int) -> tuple[Ints, Ints, Floats]:
        """(turn rows, token numbers, values) of a token feature, in order; empty for a feature of a turn block.

        A token's number counts the stored tokens of its turn from 0: with all tokens stored, those of its words.
        Raises ConfigError when the dictionary has no token features.
        """
        self._need_tokens()
        first, last = self._run("tokens.by_feature", feature, self.n_features, "feature")
        places = _ints(self.array("tokens.by_feature.places")[first:last])
        rows = np.searchsorted(self.token_offsets, places, side="right") - 1
        return rows, places - self.token_offsets[rows], _floats(self.array("tokens.by_feature.values")[first:last])

    def turn_tokens(self, row: int) -> tuple[Ints, Ints, Floats]:
        """(token numbers, features, values) of a turn's tokens, token after token. Raises as `feature_tokens`."""
        self._need_tokens()
        start, end = self._run("tokens", row, self.n_turns, "turn row")
        ptr = self.array("tokens.by_token.ptr")[start : end + 1]
        first, last = int(ptr[0]), int(ptr[-1])
        numbers = np.repeat(np.arange(end - start), np.diff(ptr))
        features = _ints(self.array("tokens.by_token.features")[first:last])
        return numbers, features, _floats(self.array("tokens.by_token.values")[first:last])

    def token_ids(self, row: int) -> tuple[Ints, Ints]:
        """Vocabulary ids of a turn's stored tokens, and their positions in the rendered conversation."""
        self._need_tokens()
        start, end = self._run("tokens", row, self.n_turns, "turn row")
        return _ints(self.array("tokens.ids")[start:end]), _ints(self.array("tokens.positions")[start:end])

    @cached_property
    def token_offsets(self) -> Ints:
        """Turn i's stored tokens are the token places `token_offsets[i]:token_offsets[i + 1]`."""
        self._need_tokens()
        return np.asarray(self.array("tokens.ptr"), np.int64)

    def matrix(self, features: Sequence[int] | Ints, rows: Sequence[int] | Ints) -> Floats:
        """Values (M, K) of some features on some turns; for small blocks."""
        rows_M, out_KM = np.asarray(rows, np.int64), []
        for feature in np.asarray(features, np.int64).tolist():
            active, values = self.feature_turns(feature)
            at_M = np.minimum(np.searchsorted(active, rows_M), max(0, len(active) - 1))
            hit_M = active[at_M] == rows_M if len(active) else np.zeros(len(rows_M), np.bool_)
            out_KM.append(np.where(hit_M, values[at_M] if len(active) else 0, 0).astype(np.float32))
        return np.stack(out_KM, axis=1) if out_KM else np.zeros((len(rows_M), 0), np.float32)

    def partners(self, feature: int, kind: Literal["same", "next"] = "same") -> pa.Table:
        """Features that fire on the same turns, or on the turns that follow: rows of `cofiring.parquet`."""
        table = self._of_feature(COFIRING, feature)
        return table.filter(pc.call_function("equal", [table["kind"], kind]))

    def neighbours(self, feature: int) -> pa.Table:
        """Features whose decoder directions are nearest: rows of `neighbours.parquet`, nearest first."""
        return self._of_feature(NEIGHBOURS, feature)

    def groups(self, feature: int) -> pa.Table:
        """On how many turns of each role, split, language and script it fires: rows of `groups.parquet`."""
        return self._of_feature(GROUPS, feature)

    def words(self, feature: int) -> pa.Table:
        """The best word, pair and word before of a feature, and of a token feature the best token ids."""
        return self._of_feature(WORDS, feature)

    def logits(self, feature: int) -> pa.Table:
        """Tokens that a feature promotes (sign 1) and suppresses (-1); ConfigError when the index has none."""
        if LOGITS not in self.artifact.manifest.files:
            raise ConfigError("this index has no logit weights", fix="index with --model")
        return self._of_feature(LOGITS, feature)

    def scramble(self) -> pa.Table:
        """What scrambling the tokens of turns does to each feature; ConfigError when it was not tried."""
        return self._optional(SCRAMBLE, "scrambled turns", "--scramble-turns")

    def neurons(self) -> pa.Table:
        """The neuron that each feature correlates with most; ConfigError when neurons were not read."""
        return self._optional(NEURONS, "neurons", "--neuron-turns")

    def _optional(self, name: str, what: str, option: str) -> pa.Table:
        if name not in self.artifact.manifest.files:
            raise ConfigError(
                f"this index has no {what}", where=str(self.artifact.path), fix=f"index with --model and {option}"
            )
        return self.table(name)

    @cached_property
    def map(self) -> pa.Table:
        """A place in the plane for each feature: (feature, x, y); NaN for one whose direction is zero."""
        return self.table(MAP)

    def _of_feature(self, name: str, feature: int) -> pa.Table:
        if not 0 <= feature < self.n_features:
            raise ConfigError(f"no feature {feature}: there are {self.n_features}", where=str(self.artifact.path))
        if name not in self._tables:
            table = self.table(name)
            features = table["feature"].to_numpy()
            if (features[1:] < features[:-1]).any():
                order = np.argsort(features, kind="stable")
                table, features = table.take(pa.array(order)), features[order]
            self._tables[name] = table.combine_chunks(), np.searchsorted(features, np.arange(self.n_features + 1))
        table, first = self._tables[name]
        return table.slice(first[feature], first[feature + 1] - first[feature])

    @cached_property
    def _tables(self) -> dict[str, tuple[pa.Table, Ints]]:
        """Tables in order of feature, and where each feature's rows begin."""
        return {}

    def query(self, text: str) -> QueryResult:
        """The turns that satisfy a query such as `F12 > 0.4 & next(F9)`; see docs/query.md. Raises QueryError."""
        return self._querier.find(text)

    @cached_property
    def _querier(self) -> Querier:
        from turnscope.features.query.result import Querier

        return Querier(self)

    def explanations(self) -> pa.Table:
        """What features are said to mean: (feature, text, source); empty when nobody has said anything."""
        path = self.artifact.path / EXPLANATIONS
        if not path.exists():
            return EXPLANATION_SCHEMA.empty_table()
        try:
            return pq.ParquetFile(path).read().cast(EXPLANATION_SCHEMA)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError(f"{EXPLANATIONS} cannot be read: {error}", where=str(path.parent)) from error

    def set_explanations(self, table: pa.Table) -> None:
        """Replace all explanations. They are not part of the finished artifact: its fingerprint stays. StorageError.

        Raises ConfigError for a feature that the dictionary has not.
        """
        try:
            table = table.select(EXPLANATION_SCHEMA.names).cast(EXPLANATION_SCHEMA)
        except (pa.ArrowException, KeyError) as error:
            raise ConfigError(f"not a table of explanations: {error}", fix="columns feature, text, source") from error
        features = table["feature"].fill_null(-1).to_numpy()
        if table["feature"].null_count or (
            len(features) and not 0 <= features.min() <= features.max() < self.n_features
        ):
            none = sorted({each for each in features.tolist() if not 0 <= each < self.n_features})
            raise ConfigError(
                f"explanations name {', '.join(map(str, none[:5]))}: none of the {self.n_features} features",
                where=self.artifact.path,
                fix=f"it has F0 to F{self.n_features - 1}",
            )
        with atomic_path(self.artifact.path / EXPLANATIONS) as temp:
            pq.write_table(table, temp)
        self.__dict__.pop("_querier", None)  # it knows the old ones

    def _run(self, direction: str, number: int, size: int, what: str) -> tuple[int, int]:
        if not 0 <= number < size:
            raise ConfigError(f"no {what} {number}: there are {size}", where=str(self.artifact.path))
        ptr = self.array(f"{direction}.ptr")
        return int(ptr[number]), int(ptr[number + 1])

    def _gather(self, direction: str, column: str, which: Ints, size: int, what: str) -> tuple[Ints, Ints, Floats]:
        if len(which) and not 0 <= which.min() <= which.max() < size:
            raise ConfigError(f"no such {what}: there are {size}", where=str(self.artifact.path))
        arrays = {name: self.array(name) for name in (f"{direction}.{part}" for part in ("ptr", column, "values"))}
        return gather(arrays, direction, column, which)

    def _need_tokens(self) -> None:
        if self.unit != "token":
            raise ConfigError("a turn dictionary has no token features", where=str(self.artifact.path))


def _ints(values: NDArray[Any]) -> Ints:
    return np.array(values, np.int64)


def _floats(values: NDArray[Any]) -> Floats:
    return np.array(values, np.float32)


def open_index(path: str | Path, transcripts: str | Path | None = None) -> FeatureIndex:
    """Open a finished index.

    Args:
        path: its folder.
        transcripts: those that it was made from; when not given, looked for in the run folder (`transcripts/` beside
            `features/`), and None where there are none or others.

    Raises StorageError or IntegrityError as `Artifact.open`; IntegrityError when the transcripts named are others.
    """
    artifact = Artifact.open(path, KIND)
    wanted = artifact.manifest.inputs.get("transcripts", "")
    if transcripts is not None:
        store = open_transcripts(transcripts)
        if store.fingerprint != wanted:
            raise IntegrityError(
                "the index was made from other transcripts", where=str(transcripts), fix="name those it was made from"
            )
        return FeatureIndex(artifact, store)
    beside = artifact.path.resolve().parents[1] / "transcripts"
    if (beside / "manifest.json").is_file():
        store = open_transcripts(beside)
        if store.fingerprint == wanted:
            return FeatureIndex(artifact, store)
    return FeatureIndex(artifact)
