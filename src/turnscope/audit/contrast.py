"""Which features tell one set of turns from another: chosen on some conversations, judged on others. No torch.

Two queries name the sets. The features that separate them best on split `explain` are judged on split `eval`: AUROC
with its interval by conversation, how often each fires, false discoveries, the turns that speak against it, and whether
turn length, position, role, language or source would do as well.

Legend: N turns judged, F features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from turnscope.artifacts import Artifact, atomic_path, begin, sole_writer, write_json
from turnscope.audit._sides import Division, Sides, divide, find_sides
from turnscope.audit.config import ContrastConfig
from turnscope.audit.confounds import Confound, auroc_within, confounds, rates, together, unchecked
from turnscope.audit.separation import MIN_FIRING, Separation, clusters_of, separate
from turnscope.audit.verdict import verdict
from turnscope.features.query.result import Querier, words_of
from turnscope.features.store import FeatureIndex, open_index
from turnscope.stats.bootstrap import auroc_ci
from turnscope.stats.estimate import Estimate, Withheld
from turnscope.stats.multiple import benjamini_hochberg

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Side = Literal["a", "b"]

KIND = "contrast"
FILE, TABLE = "contrast.json", "features.parquet"


@dataclass(frozen=True)
class ContrastResult:
    """A finished contrast. `report` is what contrast.json holds, `table` both splits' figures of every feature."""

    report: dict[str, Any]
    table: pa.Table
    artifact: Artifact | None = None

    @property
    def verdict(self) -> str:
        """The outcome in a few sentences."""
        return str(self.report["verdict"])

    @property
    def features(self) -> list[dict[str, Any]]:
        """The features judged: those up in A, the best on the choosing turns first, then those up in B."""
        return self.report["features"]

    @property
    def found(self) -> list[int]:
        """Features that tell A from B on turns they were not chosen on."""
        return [row["feature"] for row in self.features if row["separates"]]


def run(config: ContrastConfig) -> ContrastResult:
    """Contrast two sets of turns.

    Where a set is too small the figures are withheld and the report says why.

    Raises:
        QueryError, ConfigError: a query is wrong; the sets are the same, or one lies within the other.
        DataError: a set is empty.
        IntegrityError: `out` holds something else; the index is damaged, or of other transcripts.
    """
    index = open_index(config.index, config.transcripts)
    if config.out is None:
        return contrast(index, config)
    with sole_writer(config.out):
        draft = begin(config.out, KIND, config, {"index": index.artifact.fingerprint})
        if isinstance(draft, Artifact):
            return load(draft)
        result = contrast(index, config)
        with atomic_path(draft.path / TABLE) as temp:
            pq.write_table(result.table, temp)
        write_json(draft.path / FILE, result.report)
        counts = {f"{name}.{key}": n for name in ("a", "b") for key, n in result.report[name]["turns"].items()}
        artifact = draft.commit({**counts, "in_both": result.report["in_both"]})
        return ContrastResult(result.report, result.table, artifact)


def load(artifact: Artifact) -> ContrastResult:
    """A finished contrast."""
    report = json.loads((artifact.path / FILE).read_bytes())
    return ContrastResult(report, pq.ParquetFile(artifact.path / TABLE).read(), artifact)


def contrast(index: FeatureIndex, config: ContrastConfig, sides: Sides | None = None) -> ContrastResult:
    """As `run`, on an open index and without writing; `sides` instead of the sets that the queries name."""
    querier = Querier(index)
    found = sides or find_sides(index, querier, config)
    division = divide(index, found, config)
    head = _head(index, config, found, division)
    if division.withheld:
        none: dict[str, Any] = {"features": [], "confounds": [], "found": [], "together": None}
        report = {**head, **none, "withheld": division.withheld}
        return ContrastResult({**report, "verdict": verdict(report)}, pa.table({}))
    choose, judge = separate(index, *division.choose), separate(index, *division.judge)
    judged = _Judged(index, querier, config, found, division)
    rows = judged.features(choose, judge)
    report = {
        **head,
        "notices": [*head["notices"], *judged.notices],
        "tested": judge.n_tested,
        "differ": len(judge.discoveries(config.fdr)),
        "confounds": judged.confounds,
        "features": rows,
        "together": judged.together([row["feature"] for row in rows]),
        "found": [row["feature"] for row in rows if row["separates"]],
    }
    report["verdict"] = verdict(report)
    return ContrastResult(_strict(report), _table(choose, judge))


def _head(index: FeatureIndex, config: ContrastConfig, sides: Sides, division: Division) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for at, name in enumerate(("a", "b")):
        rows, choose, judge = (sides.a, sides.b)[at], division.choose[at], division.judge[at]
        conversations = {
            key: len(np.unique(clusters_of(index, each))) if len(each) else 0
            for key, each in (("all", rows), ("choose", choose), ("judge", judge))
        }
        turns = {"all": len(rows), "choose": len(choose), "judge": len(judge), "unused": division.unused[at]}
        report[name] = {"query": sides.queries[at], "turns": turns, "conversations": conversations}
    notices = [*sides.notices, *division.notices]
    if sides.features:
        named = ", ".join(f"F{feature}" for feature in sorted(sides.features))
        notices.append(f"{named}: named in a query, so left out of the ranking")
    return {
        **report, "in_both": sides.in_both, "chosen_on": division.chosen_on, "judged_on": division.judged_on,
        "n_features": index.n_features, "fdr": config.fdr, "least": config.least, "notices": notices,
    }  # fmt: skip


class _Judged:
    """The turns judged, and those chosen on, with what is known of them."""

    def __init__(
        self, index: FeatureIndex, querier: Querier, config: ContrastConfig, sides: Sides, division: Division
    ) -> None:
        self.index, self.config, self._excluded = index, config, sides.features
        a, b = division.judge
        self.rows_N = np.concatenate([a, b])
        self.is_a_N = np.arange(len(self.rows_N)) < len(a)
        choose = self._chosen_on = np.concatenate(division.choose)
        every = np.concatenate([self.rows_N, choose])
        self._is_a_chosen_on = np.arange(len(choose)) < len(division.choose[0])
        is_a = np.concatenate([self.is_a_N, self._is_a_chosen_on])
        self.clusters_N = clusters_of(index, self.rows_N)
        each = confounds(querier.names.columns, every, config.confounds, sides.fields)
        self.notices = unchecked(querier.names.columns, every, config.confounds, sides.fields)
        whole = together(each)
        learnt = np.arange(len(every)) >= len(self.rows_N)
        n = len(self.rows_N)
        self._confounds: list[tuple[Confound, NDArray[np.float64]]] = [
            (Confound(c.name, c.stratum_N[:n], c.coarse_N[:n]), rates(c.stratum_N, is_a, learnt)[:n])
            for c in (*each, *([whole] if whole else []))
        ]

    @cached_property
    def confounds(self) -> list[dict[str, Any]]:
        """How well each thing tells A from B by itself: by the share of A among its like on the choosing turns."""
        found: list[dict[str, Any]] = []
        for confound, rate_N in self._confounds:
            estimate = auroc_ci(rate_N, self.is_a_N, self.clusters_N, n_boot=self.config.n_boot, seed=self.config.seed)
            values = len(np.unique(confound.stratum_N))
            found.append({"name": confound.name, "values": values, **_figures(estimate)})
        return found

    def features(self, choose: Separation, judge: Separation) -> list[dict[str, Any]]:
        """The features chosen in each direction, judged."""
        chosen, q = tried(choose, judge, self.config.top, self._excluded)
        picked = np.array([feature for _, _, feature in chosen], np.int64)
        explained = self._explained(set(picked.tolist()))
        rows: list[dict[str, Any]] = []
        for (side, rank, feature), q_value in zip(chosen, q.tolist(), strict=True):
            values_N = self.index.matrix([feature], self.rows_N)[:, 0]
            row = self._feature(feature, side, values_N, judge)
            row |= {"rank": rank, "chosen_auroc": _toward(choose.auroc_F[feature], side), "q": q_value}
            is_best = row["auroc"] == max(_toward(judge.auroc_F[f], side) for s, _, f in chosen if s == side)
            row["within"] = self._within(values_N, side, row["auroc"], 200 if is_best else 0)
            row["confounded_by"] = [each["name"] for each in row["within"] if each["explains"]]
            row["alike"] = row["within"][-1]["auroc"] if row["within"] else None
            row["differs"] = q_value <= self.config.fdr and row["auroc"] > 0.5
            row["separates"] = bool(row["differs"] and row["auroc"] >= self.config.least)
            row["explanation"] = explained.get(feature, "")
            row["against"], row["silent"] = self._counter_examples(values_N, side)
            rows.append(row)
        self._give_words(rows)
        return rows

    def _feature(self, feature: int, side: Side, values_N: NDArray[Any], judge: Separation) -> dict[str, Any]:
        mine_N = self.is_a_N if side == "a" else ~self.is_a_N
        found = auroc_ci(values_N, mine_N, self.clusters_N, n_boot=self.config.n_boot, seed=self.config.seed)
        figures = {
            "share_a": judge.share_a_F, "share_b": judge.share_b_F, "mean_a": judge.mean_a_F, "mean_b": judge.mean_b_F,
            "effect": judge.effect_F, "p": judge.p_F,
        }  # fmt: skip
        return {
            "feature": feature, "up_in": side, **_figures(found),
            "auroc": _toward(judge.auroc_F[feature], side),
            **{name: float(values_F[feature]) for name, values_F in figures.items()},
            "conversations": int(judge.conversations_F[feature]),
        }  # fmt: skip

    def _within(self, values_N: NDArray[Any], side: Side, auroc: float, n_boot: int) -> list[dict[str, Any]]:
        """The AUROC among turns that are alike.

        `explains`: less than half of its distance from one half is left; or what reached `least` does so no more, or is
        outdone by the confound alone, whose bins are wider than what it tells, or of which A and B share no value.
        Intervals take time, so only the best feature of each direction has them.
        """
        found: list[dict[str, Any]] = []
        mine_N = self.is_a_N if side == "a" else ~self.is_a_N
        for (confound, _), alone in zip(self._confounds, self.confounds, strict=True):
            within = auroc_within(
                values_N, mine_N, confound.stratum_N, self.clusters_N, n_boot=n_boot, seed=self.config.seed
            )
            lost, halved = (alone["auroc"] or 0.0) >= auroc, False
            if isinstance(within, Estimate):
                lost |= within.value < self.config.least
                halved = auroc > 0.5 and within.value - 0.5 < (auroc - 0.5) / 2
            explains = bool((lost and auroc >= self.config.least) or halved)
            found.append({"name": confound.name, **_figures(within), "explains": explains})
        return found

    def together(self, picked: list[int]) -> dict[str, Any] | None:
        """A logistic regression on the features tried, fitted on the turns they were chosen on; None without any.

        What no feature shows by itself, several may: then the dictionary knows of it, but not as one thing.
        """
        if not picked:
            return None
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(self.index.matrix(picked, self._chosen_on), self._is_a_chosen_on)
        score_N = np.asarray(model.decision_function(self.index.matrix(picked, self.rows_N)), np.float64)
        found = auroc_ci(score_N, self.is_a_N, self.clusters_N, n_boot=self.config.n_boot, seed=self.config.seed)
        row: dict[str, Any] = {"features": len(picked), **_figures(found)}
        reached = row["auroc"] is not None and row["auroc"] >= self.config.least
        row["within"] = self._within(score_N, "a", row["auroc"] or 0.0, 200)
        row["confounded_by"] = [each["name"] for each in row["within"] if each["explains"]]
        row["alike"] = row["within"][-1]["auroc"] if row["within"] else None
        row["separates"] = bool(reached and row["ci"] is not None and row["ci"][0] > 0.5)
        return row

    def _explained(self, wanted: set[int]) -> dict[int, str]:
        table = self.index.explanations()
        pairs = zip(table["feature"].to_pylist(), table["text"].to_pylist(), strict=True)
        return {feature: text for feature, text in pairs if feature in wanted and text}

    def _counter_examples(self, values_N: NDArray[Any], side: Side) -> tuple[list[dict[str, Any]], ...]:
        """Turns of the other set on which it is strongest, and turns of its own, at random, on which it is silent."""
        mine_N = self.is_a_N if side == "a" else ~self.is_a_N
        other = np.flatnonzero(~mine_N & (values_N > 0))
        silent = np.flatnonzero(mine_N & (values_N == 0))
        strongest = other[np.argsort(-values_N[other], kind="stable")]
        return tuple(
            [{"row": int(self.rows_N[at]), "value": float(values_N[at])} for at in self._no_text_twice(places)]
            for places in (strongest, np.random.default_rng(self.config.seed).permutation(silent))
        )

    def _no_text_twice(self, places: Ints) -> Iterator[int]:
        seen: set[int] = set()
        has_hash = "text_hash" in self.index.turns.column_names
        for at in places.tolist():
            if len(seen) == self.config.examples:
                return
            row = int(self.rows_N[at])
            key = int(self.index.turns["text_hash"][row].as_py()) if has_hash else row
            if key not in seen:
                seen.add(key)
                yield at

    def _give_words(self, rows: list[dict[str, Any]]) -> None:
        examples = [each for row in rows for each in (*row["against"], *row["silent"])]
        known = self.index.turns.select(["conversation_id", "turn", "role", "labels"])
        places = pa.array([each["row"] for each in examples], pa.int64())
        reach: dict[str, set[int]] = {}
        for each, facts in zip(examples, known.take(places).to_pylist(), strict=True):
            each |= {**facts, "labels": json.loads(facts["labels"] or "{}")}
            reach.setdefault(each["conversation_id"], set()).add(each["turn"])
        said = words_of(self.index.transcripts, reach) if self.index.transcripts is not None else {}
        for each in examples:
            each["text"] = said.get((each["conversation_id"], each["turn"]), (None, None))[1]


def best_of(choose: Separation, side: Side, most: int, excluded: frozenset[int] = frozenset()) -> Ints:
    """Features that are larger on turns of this side, the highest AUROC first; none that fires too rarely to be tested.

    Read it of turns that are not judged.
    """
    toward_F = choose.auroc_F if side == "a" else 1 - choose.auroc_F
    usable_F = (toward_F > 0.5) & (choose.conversations_F >= MIN_FIRING)
    usable_F[sorted(excluded)] = False
    order = np.argsort(-toward_F, kind="stable")
    return order[usable_F[order]][:most]


def tried(
    choose: Separation, judge: Separation, most: int, excluded: frozenset[int] = frozenset()
) -> tuple[list[tuple[Side, int, int]], Floats]:
    """(side, rank, feature) of the best of each direction on the choosing turns, and their q on the judged ones.

    Only these are tested, so only these are corrected for. NaN where a feature fires in too few conversations.
    """
    sides: tuple[Side, Side] = ("a", "b")
    chosen: list[tuple[Side, int, int]] = []
    for side in sides:
        best = best_of(choose, side, most, excluded)
        chosen.extend((side, rank, int(feature)) for rank, feature in enumerate(best.tolist()))
    p = judge.p_F[[feature for _, _, feature in chosen]] if chosen else np.zeros(0)
    q = np.full(len(p), np.nan)
    q[np.isfinite(p)] = benjamini_hochberg(p[np.isfinite(p)])
    return chosen, q


def _toward(auroc: float, side: Side) -> float:
    return float(auroc if side == "a" else 1 - auroc)


def _figures(found: Estimate | Withheld) -> dict[str, Any]:
    if isinstance(found, Withheld):
        return {"auroc": None, "ci": None, "withheld": found.reason}
    return {"auroc": found.value, "ci": None if math.isnan(found.low) else list(found.ci)}


def _table(choose: Separation, judge: Separation) -> pa.Table:
    parts = {"choose": choose.table(), "judge": judge.table()}
    columns: dict[str, Any] = {"feature": parts["judge"]["feature"]}
    for name, part in parts.items():
        columns |= {f"{name}_{column}": part[column] for column in part.column_names if column != "feature"}
    return pa.table(columns)


def _strict(value: Any) -> Any:
    """Without NaN and infinities, which JSON has not."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_strict(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value
