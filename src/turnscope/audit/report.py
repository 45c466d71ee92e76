"""`turnscope audit`: a one-page report on a set of transcripts, held against a baseline, and on what it cannot see.

Import, harvest and index are artifacts below the audit's folder, made like the baseline's and gone on with after a
stop; the report is one more, `reports/NAME`, with the same bytes for the same inputs. docs/audit.md, and
docs/design/audit.md for the figures.

Legend: N turns of file and baseline together, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from turnscope.artifacts import (
    Artifact,
    DataError,
    Draft,
    RunFolder,
    atomic_path,
    begin,
    file_sha256,
    fingerprint,
    write_json,
    write_text,
)
from turnscope.audit.config import AuditConfig
from turnscope.audit.readings import read_turns
from turnscope.audit.reports.described import conversation_numbers, described, repeated, surprising
from turnscope.audit.reports.stages import Ready, prepare
from turnscope.audit.reports.surprise import Surprise, surprise
from turnscope.audit.reports.together import Together, drawn
from turnscope.audit.reports.trust import Rebuilder, trust
from turnscope.audit.reports.unseen import traits
from turnscope.audit.reports.unusual import differing, named
from turnscope.audit.reports.verdict import verdict
from turnscope.audit.reports.watch import watch
from turnscope.audit.separation import MIN_CLUSTERS, Separation, clusters_of, separate
from turnscope.features.store import FeatureIndex

Ints = NDArray[np.int64]
KIND = "audit"
FACTS, FEATURES, TURNS = "audit.json", "features.parquet", "turns.parquet"
MARKDOWN, HTML = "audit.md", "audit.html"
_CHARACTERS = 2000
_FEW = 20  # conversations of the baseline outside the dictionary's training turns, below which these count too


@dataclass(frozen=True)
class AuditResult:
    """A finished audit. `report` is the content of audit.json."""

    artifact: Artifact
    report: dict[str, Any]
    notices: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Folder of the report."""
        return self.artifact.path

    @property
    def verdict(self) -> list[str]:
        """The outcome, a few sentences."""
        return self.report["verdict"]


def run(config: AuditConfig) -> AuditResult:
    """Audit some chats.

    Raises:
        ConfigError: no baseline, or a model, site or dictionary that is not known.
        DataError: files without a conversation; no turn that could be read; a baseline without turns.
        IntegrityError: a baseline, monitor or dictionary of another making, with both fingerprints; `out` holds the
            audit of other chats.
        ModelError, StorageError: as the stages raise them.
    """
    with RunFolder(config.out).lock():
        ready = prepare(config)
        known, inputs = traits(_run_of(ready.baseline), ready.baseline, list(config.monitors))
        inputs |= {f"monitor:{number}": file_sha256(path) for number, path in enumerate(config.monitors)}
        inputs |= {
            "index": ready.file.artifact.fingerprint, "baseline": ready.baseline.artifact.fingerprint,
            "explanations": fingerprint(ready.baseline.explanations().to_pylist()),
        }  # fmt: skip
        draft = begin(RunFolder(config.out).artifact("reports", config.name), KIND, config, inputs)
        if isinstance(draft, Artifact):
            return AuditResult(draft, json.loads((draft.path / FACTS).read_bytes()), ready.notices)
        report, features, turns = measure(config, ready, known)
        _write(draft, report, features, turns)
        counts = {name: report[name]["turns"] for name in ("file", "baseline")}
        artifact = draft.commit({**counts, "features.differ": report["unusual"]["differ"]})
        return AuditResult(artifact, report, ready.notices)


def _run_of(index: FeatureIndex) -> Path:
    return index.artifact.path.resolve().parents[1]


def measure(
    config: AuditConfig, ready: Ready, known: list[dict[str, Any]]
) -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """The report, every feature's figures, and every turn's, from indexes that are there; `known` are the traits."""
    rows, of_baseline = _baseline_rows(config, ready)
    both = Together(ready.file, ready.baseline, rows)
    cluster_N = clusters_of(both, np.arange(both.n_turns))
    conversation_N = conversation_numbers(both)
    found = separate(both, np.arange(both.n_file), np.arange(both.n_file, both.n_turns))
    scored = surprise(both, cluster_N, conversation_N)
    rebuilder = Rebuilder(ready.dictionary, _outlier_norm(ready.baseline))
    at, usual_at = (
        ready.file.turns["activation_row"].to_numpy(),
        ready.baseline.turns["activation_row"].to_numpy()[rows],
    )
    centre_D = rebuilder.centre(ready.baseline_store, usual_at)
    file_errors = rebuilder.errors(ready.file_store, at, centre_D)
    fit = trust(file_errors, rebuilder.errors(ready.baseline_store, usual_at, centre_D), cluster_N[: both.n_file])
    unusual = differing(
        both, found, cluster_N, fdr=config.fdr, shown=config.shown, n_boot=config.n_boot, seed=config.seed
    )
    report: dict[str, Any] = {
        "files": _files(ready), "made_with": _made_with(ready, rebuilder.unit),
        "file": described(both, np.arange(both.n_file), conversation_N),
        "baseline": described(both, np.arange(both.n_file, both.n_turns), conversation_N) | of_baseline,
        "repeated_turns": repeated(both), "min_conversations": MIN_CLUSTERS,
        "unusual": unusual | {"surprise": surprising(config, scored, both)},
        "trust": {**fit, "worst": fit.get("worst", [])[: config.examples]},
        "monitors": [watch(path, ready.file, ready.file_store, config.examples) for path in config.monitors],
        "traits": _with_shares(known, found), "dropped": _dropped(ready), "notices": list(ready.notices),
    }  # fmt: skip
    _give_words(ready, report)
    _name_features(ready, report)
    report = _strict(report)
    report["verdict"] = verdict(report)
    return report, found.table(), _turn_table(both, scored, file_errors.nmse_N)


def _baseline_rows(config: AuditConfig, ready: Ready) -> tuple[Ints, dict[str, Any]]:
    """Turns of the baseline that count: none that the dictionary was trained on where there are enough others."""
    index = ready.baseline
    rows = np.arange(index.n_turns)
    told: dict[str, Any] = {"where": config.baseline_where, "indexed": index.n_turns, "trained_on": False}
    if config.baseline_where:
        rows = index.query(config.baseline_where).rows
    if ready.dictionary.config.input_fingerprint:
        splits = np.asarray(index.turns["split"].to_pylist(), object)
        fresh = rows[splits[rows] != "train"]
        if len(fresh) and len(np.unique(clusters_of(index, fresh))) >= _FEW:
            rows = fresh
        told["trained_on"] = bool((splits[rows] == "train").any())
    if not len(rows):
        raise DataError(
            "no turn of the baseline counts", where=config.baseline_where or index.artifact.path,
            fix="widen --baseline-where, or name another baseline",
        )  # fmt: skip
    kept = drawn(index, rows, config.most, config.seed)
    return kept, told | {"of_turns": len(rows)}


def _outlier_norm(index: FeatureIndex) -> float:
    return float(index.artifact.manifest.config.get("outlier_norm", 10.0))


def _files(ready: Ready) -> list[dict[str, str]]:
    assert ready.file.transcripts is not None
    inputs = ready.file.transcripts.artifact.manifest.inputs
    return [{"name": name.partition(":")[2] or name, "sha256": value} for name, value in sorted(inputs.items())]


def _made_with(ready: Ready, judged: str) -> dict[str, Any]:
    manifest, sae = ready.file_store.artifact.manifest, ready.dictionary.config
    return {
        "model": manifest.config["model"], "model_fingerprint": manifest.inputs["model"],
        "site": manifest.config["site"], "roles": manifest.config["roles"], "token_set": manifest.config["token_set"],
        "span_policy": manifest.config["span_policy"], "template": manifest.config["template"],
        "sae": ready.dictionary.artifact.fingerprint, "architecture": sae.architecture, "unit": ready.dictionary.unit,
        "n_features": ready.dictionary.n_features, "pool": ready.file.facts.get("pool", "max"), "judged_block": judged,
        "index": ready.file.artifact.fingerprint, "baseline": ready.baseline.artifact.fingerprint,
    }  # fmt: skip


def _with_shares(known: list[dict[str, Any]], found: Separation) -> list[dict[str, Any]]:
    """With how often a trait's feature fires in the file and in the baseline."""
    for row in known:
        feature = row["feature"]
        if feature is not None and feature < len(found.share_a_F):
            row |= {
                "share_file": float(found.share_a_F[feature]), "share_baseline": float(found.share_b_F[feature]),
                "q": float(found.q_F[feature]),
            }  # fmt: skip
    return known


def _dropped(ready: Ready) -> dict[str, dict[str, int]]:
    """What each stage left out or changed, by reason."""
    assert ready.file.transcripts is not None
    stages = {
        "import": ready.file.transcripts.counts, "harvest": ready.file_store.artifact.manifest.counts,
        "index": ready.file.artifact.manifest.counts,
    }  # fmt: skip
    return {stage: dict(sorted((name, n) for name, n in counts.items() if n)) for stage, counts in stages.items()}


def _give_words(ready: Ready, report: dict[str, Any]) -> None:
    """Conversation, turn, role and words for every row that the report names."""
    unusual = report["unusual"]
    examples = [each for feature in unusual["features"] for each in feature["evidence"]]
    examples += [*unusual["surprise"]["conversations"], *unusual["surprise"]["turns"]]
    worst = [{"row": row} for row in report["trust"]["worst"]]
    report["trust"]["worst"] = worst
    for index, mine in (
        (ready.file, [each for each in (*examples, *worst) if each.get("of") != "baseline"]),
        (ready.baseline, [each for each in examples if each.get("of") == "baseline"]),
    ):
        rows = sorted({each["row"] for each in mine})
        facts = index.turns.select(["conversation_id", "turn", "role"]).take(pa.array(rows, pa.int64())).to_pylist()
        known = dict(zip(rows, facts, strict=True))
        said: Mapping[int, str] = read_turns(index, rows) if index.transcripts is not None and rows else {}
        for each in mine:
            text = said.get(each["row"])
            each |= {**known[each["row"]], "text": None if text is None else text[:_CHARACTERS]}


def _name_features(ready: Ready, report: dict[str, Any]) -> None:
    features = report["unusual"]["features"]
    said = named(ready.baseline, [row["feature"] for row in features])
    for row in features:
        row |= said[row["feature"]]


def _turn_table(both: Together, scored: Surprise, nmse_N: NDArray[np.float64]) -> pa.Table:
    turns = both.file.turns.select(["conversation_id", "turn", "role", "n_tokens"])
    columns = {"bits": scored.bits_N, "place": scored.place_N, "nmse": nmse_N}
    for name, values in columns.items():
        turns = turns.append_column(name, pa.array(values, from_pandas=True))
    return turns


def _write(draft: Draft, report: dict[str, Any], features: pa.Table, turns: pa.Table) -> None:
    from turnscope.audit.reports.render import render_html, render_markdown

    for name, table in ((FEATURES, features), (TURNS, turns)):
        with atomic_path(draft.path / name) as temp:
            pq.write_table(table, temp)
    write_json(draft.path / FACTS, report)
    write_text(draft.path / MARKDOWN, render_markdown(report))
    write_text(draft.path / HTML, render_html(report))


def _strict(value: Any) -> Any:
    """Without NaN and infinities, which JSON has not, and without numpy's numbers."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_strict(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
