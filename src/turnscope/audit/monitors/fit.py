"""`turnscope monitor fit`: labelled turns in, a calibrated monitor out, beside the baselines.

Fitted and calibrated on `train` and `explain`, judged on `eval`, and on another source where one is named; the locked
turns are looked at only when asked, and each look is written down before its figures are shown.

Legend: N turns of the index, M labelled turns.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError, write_json
from turnscope.audit.config import MonitorFitConfig
from turnscope.audit.monitors.contenders import (
    Contender,
    Difference,
    baselines,
    best_other,
    of_probe,
    of_rule,
    scorer_of,
)
from turnscope.audit.monitors.figures import Point, figure_to_plain, point_to_plain
from turnscope.audit.monitors.file import (
    CalibrationTable,
    DictionaryTable,
    LookTable,
    Monitor,
    PointTable,
    ProbeTable,
    ReadingTable,
    RuleTable,
    read_monitor,
    write_monitor,
)
from turnscope.audit.monitors.labelled import Labelled, find_labelled
from turnscope.audit.monitors.reference import reference_of
from turnscope.audit.monitors.scoring import settle
from turnscope.audit.readings import Readings
from turnscope.features.query.errors import did_you_mean
from turnscope.features.query.result import Querier
from turnscope.features.store import FeatureIndex, open_index
from turnscope.stats import Estimate, Withheld

LOOKS = "locked_looks.jsonl"
"""Beside an index: every look at its locked turns, whichever monitor it was for."""
BASELINE_K = 5


@dataclass(frozen=True)
class FitResult:
    """A monitor, where it lies, and what it does beside the baselines.

    Attributes:
        contenders: the monitor, then the baselines, each with its points by set of turns.
        sets: the sets of turns, with their counts in words.
        differences: by set of turns, how far the monitor is from the best baseline.
        verdicts: what all of it comes to, in words.
    """

    monitor: Monitor
    path: Path
    report: Path
    contenders: list[Contender]
    sets: dict[str, str]
    differences: dict[str, Difference]
    verdicts: tuple[str, ...]
    notices: tuple[str, ...]


def run(config: MonitorFitConfig) -> FitResult:
    """Fit, calibrate and judge a monitor, and write it.

    Raises:
        ConfigError: a mistake in a query or rule; turns that are both positive and negative.
        DataError: no turns of one kind to fit on.
        IntegrityError: another source under another dictionary; activations or transcripts of another index.
        StorageError: a file that cannot be written; then no locked turn has been looked at.
    """
    index = open_index(config.index, config.transcripts)
    readings = Readings(index, config.activations)
    labelled, notices = find_labelled(readings, config.positive, config.negative)
    other = _other_source(config, readings)
    if config.other:
        labelled = labelled.where(~np.isin(labelled.rows, index.query(config.other).rows))
    fitting = labelled.of_splits(config.splits)
    _require_both(fitting, config)
    said: list[str] = list(notices)
    sets = {"fit": fitting, "eval": labelled.of_splits(["eval"])}
    if other is not None:
        sets["other"] = _apart(other, fitting)
    if config.locked:
        sets["locked"] = _locked(labelled, config)
    for name, turns in sets.items():
        sets[name] = turns.at_most(config.most_turns, config.seed)
        if len(sets[name]) < len(turns):
            said.append(f"{name}: {len(sets[name]):,} of {len(turns):,} turns, whole conversations drawn at random")
    fitting = sets.pop("fit")
    mine = _contender(config, index, fitting)
    is_baseline = not config.rule and not config.features and config.k == BASELINE_K
    others = baselines(fitting, config.fpr, config.seed, mine=mine if is_baseline else None) if config.baselines else []
    monitor = _monitor(config, readings, fitting, mine)
    shown = {name: turns.counts for name, turns in {"fit": fitting, **sets}.items()}
    earlier = _earlier_looks(config.out)
    if config.locked:
        _record_look(index, monitor, sets["locked"])
    for name, turns in sets.items():
        for each in (mine, *others):
            each.judge(name, turns, config.fpr, seed=config.seed, n_boot=config.n_boot)
    differences = {
        name: found
        for name, turns in sets.items()
        if len(turns) and (found := best_other(mine, others, turns, config.seed)) is not None
    }
    verdicts = _verdicts(mine, sets, differences)
    monitor = _with_figures(monitor, mine, verdicts, earlier, index)
    report = config.out.with_suffix(".report.json")
    write_json(report, _report(monitor, [mine, *others], shown, differences, verdicts))
    write_monitor(monitor, config.out)
    said += _everyday(monitor)
    if config.locked:
        looks = len(looks_at(index))
        said.append(f"look {looks} at this index's locked turns: each further one makes their figures worth less")
    return FitResult(monitor, config.out, report, [mine, *others], shown, differences, verdicts, tuple(said))


def _contender(config: MonitorFitConfig, index: FeatureIndex, fitting: Labelled) -> Contender:
    if config.rule:
        return of_rule(settle(config.rule, index), fitting, config.fpr)
    querier = Querier(index)
    features = tuple(querier.feature(name) for name in config.features) or None
    return of_probe(fitting, config.fpr, k=config.k, features=features, seed=config.seed)


def _monitor(config: MonitorFitConfig, readings: Readings, fitting: Labelled, mine: Contender) -> Monitor:
    index = readings.index
    reason = mine.threshold.reason if isinstance(mine.threshold, Withheld) else None
    number = None if isinstance(mine.threshold, Withheld) else float(mine.threshold)
    rule = probe = None
    if config.rule:
        rule = RuleTable(query=settle(config.rule, index).query, threshold=1.0 if number is None else number)
    else:
        scorer = scorer_of(mine)
        probe = ProbeTable(
            features=scorer.features, weights=tuple(scorer.weights_K.tolist()), bias=scorer.bias,
            threshold=number, chosen=scorer.chosen,
        )  # fmt: skip
    monitor = Monitor(
        name=config.name or config.out.stem, description=config.description, roles=fitting.roles,
        dictionary=dictionary_of(index), reading=reading_of(readings), rule=rule, probe=probe,
        calibration=CalibrationTable(
            index=index.artifact.fingerprint, positive=index.query(config.positive).query,
            negative=index.query(config.negative).query, splits=config.splits, fpr=config.fpr,
            n_positive=int(fitting.labels.sum()), n_negative=int((~fitting.labels).sum()),
            n_conversations=len(np.unique(fitting.clusters)), withheld=reason,
        ),
    )  # fmt: skip
    return monitor.model_copy(update={"reference": reference_of(monitor, readings, config.splits)})


def new(
    index: Path, rule: str, out: Path, *, name: str = "", description: str = "",
    roles: tuple[str, ...] = ("assistant",), activations: Path | None = None, transcripts: Path | None = None,
) -> Monitor:  # fmt: skip
    """Write a monitor from a rule as it stands, with a reference and no figures. Raises as `run`.

    Only a monitor is written over, and its looks at locked turns are kept.
    """
    earlier = _earlier_looks(out)
    opened = open_index(index, transcripts)
    readings = Readings(opened, activations)
    known = sorted(set(opened.turns["role"].to_pylist()))
    for role in roles:
        if role not in known:
            fix = did_you_mean(role, known) or f"roles here: {', '.join(known)}"
            raise ConfigError(f"no turn of the index is of the role {role}", where=index, fix=fix)
    monitor = Monitor(
        name=name or out.stem, description=description, roles=roles, dictionary=dictionary_of(opened),
        reading=reading_of(readings), rule=RuleTable(query=settle(rule, opened).query), locked=earlier,
    )  # fmt: skip
    splits = sorted(set(opened.turns["split"].to_pylist()) - {"locked"}) or ["locked"]
    monitor = monitor.model_copy(update={"reference": reference_of(monitor, readings, splits)})
    write_monitor(monitor, out)
    return monitor


def dictionary_of(index: FeatureIndex) -> DictionaryTable:
    """The dictionary of an index."""
    return DictionaryTable(
        fingerprint=index.artifact.manifest.inputs.get("sae", ""),
        n_features=index.n_features,
        unit=cast(Any, index.unit),
    )


def reading_of(readings: Readings) -> ReadingTable:
    """How the turns of an index were read, where its activations are at hand."""
    if readings.store is None:
        return ReadingTable()
    manifest = readings.store.artifact.manifest
    settings = {name: value for name, value in manifest.config.items() if value is not None}
    inputs = {f"{name}_fingerprint": manifest.inputs.get(name, "") for name in ("model", "tokenizer", "template")}
    return ReadingTable(**inputs, settings=settings)


def _require_both(fitting: Labelled, config: MonitorFitConfig) -> None:
    if not len(fitting) or fitting.labels.all() or not fitting.labels.any():
        raise DataError(
            f"nothing to fit on: {fitting.counts} in {' and '.join(config.splits)}",
            where=config.index,
            fix="widen the queries, or fit on more splits",
        )


def _other_source(config: MonitorFitConfig, readings: Readings) -> Labelled | None:
    if not config.has_other:
        return None
    if config.other_index is not None:
        index = open_index(config.other_index, config.other_transcripts)
        mine, theirs = (each.artifact.manifest.inputs.get("sae", "") for each in (readings.index, index))
        if mine != theirs:
            raise IntegrityError(
                f"two dictionaries: {mine[:16]} and {theirs[:16]}",
                where=config.other_index,
                fix="index the other source under the same dictionary",
            )
        readings = Readings(index, config.other_activations)
    turns, _ = find_labelled(
        readings, config.other_positive or config.positive, config.other_negative or config.negative
    )
    if config.other:
        turns = turns.where(np.isin(turns.rows, readings.index.query(config.other).rows))
        if not len(turns):
            raise DataError(f"no labelled turn of the other source: {config.other}", where=readings.index.artifact.path)
    split_M = readings.column("split", turns.rows)
    return turns.where(split_M != "locked")


def _apart(other: Labelled, fitting: Labelled) -> Labelled:
    """Turns of another source without those that share a duplicate group with a turn of the fit."""
    seen = set(fitting.readings.column("group", fitting.rows).tolist())
    groups = other.readings.column("group", other.rows)
    return other.where(np.array([group not in seen for group in groups.tolist()], np.bool_))


def _locked(labelled: Labelled, config: MonitorFitConfig) -> Labelled:
    turns = labelled.of_splits(["locked"])
    if not len(turns):
        raise DataError(
            "the index holds no labelled locked turns",
            where=config.index,
            fix="index with --splits train explain eval locked",
        )
    return turns


def _earlier_looks(path: Path) -> tuple[LookTable, ...]:
    """Looks that a monitor of this file has had; a file that is being replaced keeps its past."""
    return read_monitor(path).locked if path.exists() else ()


def _record_look(index: FeatureIndex, monitor: Monitor, turns: Labelled) -> None:
    """Written before anything is seen. StorageError where it cannot be written: then nothing is."""
    path = index.artifact.path / LOOKS
    line = {
        "monitor": monitor.fingerprint, "name": monitor.name, "look": len(looks_at(index)) + 1,
        "positive": int(turns.labels.sum()), "negative": int((~turns.labels).sum()),
    }  # fmt: skip
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"a look at the locked turns must be recorded, and cannot be: {error.strerror}", where=path
        ) from None


def looks_at(index: FeatureIndex) -> list[dict[str, Any]]:
    """Every look at an index's locked turns."""
    path = index.artifact.path / LOOKS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise IntegrityError(f"the record of looks cannot be read: {error}", where=path) from None


def _with_figures(
    monitor: Monitor, mine: Contender, verdicts: tuple[str, ...], earlier: tuple[LookTable, ...], index: FeatureIndex
) -> Monitor:
    points = {name: PointTable.of(point) for name, point in mine.points.items() if isinstance(point, Point)}
    looks = earlier
    if (seen := points.pop("locked", None)) is not None:
        look = LookTable(
            look=len(earlier) + 1, monitor=monitor.fingerprint, index=index.artifact.fingerprint, figures=seen
        )
        looks = (*earlier, look)
    assert monitor.calibration is not None
    calibration = monitor.calibration.model_copy(update={"verdict": " ".join(verdicts)})
    return monitor.model_copy(update={"figures": points, "locked": looks, "calibration": calibration})


def _everyday(monitor: Monitor) -> list[str]:
    """How often it would go off among all turns, where that is far from the rate that was asked for."""
    reference, calibration = monitor.reference, monitor.calibration
    if reference is None or calibration is None or reference.n_alerts is None:
        return []
    share = reference.n_alerts / reference.n_turns
    labelled = (calibration.n_positive + calibration.n_negative) / reference.n_turns
    if labelled > 0.8 or share <= 3 * calibration.fpr:
        return []
    return [
        f"it would alert on {share:.1%} of all {reference.n_turns:,} turns of its roles, of which only {labelled:.1%} "
        "are labelled: the rate holds for turns like the negatives, so let these be like what it will see"
    ]


def _verdicts(mine: Contender, sets: dict[str, Labelled], differences: dict[str, Difference]) -> tuple[str, ...]:
    """What the figures come to, in words: no more than their intervals allow."""
    words = {"eval": "On held-out turns", "other": "On the other source", "locked": "On the locked turns"}
    said = list[str]()
    if isinstance(mine.threshold, Withheld):
        said.append(f"No threshold: {mine.threshold.reason}.")
    for name in sets:
        point = mine.points[name]
        figure = point if isinstance(point, Withheld) else point.auroc
        if isinstance(figure, Withheld):
            said.append(f"{words[name]} nothing can be said: {figure.reason}.")
            continue
        text = f"{words[name]} its AUROC is {figure}"
        if figure.low <= 0.5:
            said.append(f"{text}: {'at chance' if figure.high >= 0.5 else 'below chance'}. Do not rely on it there.")
            continue
        if (found := differences.get(name)) is not None:
            value = found.value
            apart = f"{abs(value.value):.3f} {'above' if value.value > 0 else 'below'} the {found.name}"
            told = "they cannot be told apart" if value.low <= 0 <= value.high else (
                "features win" if value.value > 0 else "features lose"
            )  # fmt: skip
            text += f", {apart} [{value.low:+.3f}, {value.high:+.3f}]: {told}"
        said.append(text + ".")
    return tuple(said)


def _report(
    monitor: Monitor, contenders: list[Contender], shown: dict[str, str],
    differences: dict[str, Difference], verdicts: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """The table as JSON: the monitor beside the baselines on every set of turns."""
    assert monitor.calibration is not None
    return {
        "monitor": monitor.name, "fingerprint": monitor.fingerprint, "fpr": monitor.calibration.fpr,
        "positive": monitor.calibration.positive, "negative": monitor.calibration.negative, "turns": shown,
        "rows": [
            {
                "name": each.name, "chosen": each.chosen,
                "threshold": each.threshold.reason if isinstance(each.threshold, Withheld) else _plain(each.threshold),
                "points": {
                    name: {"withheld": point.reason} if isinstance(point, Withheld) else point_to_plain(point)
                    for name, point in each.points.items()
                },
            }
            for each in contenders
        ],
        "against_best_baseline": {
            name: {"name": each.name, "auroc_difference": figure_to_plain(each.value)}
            for name, each in differences.items()
        },
        "verdicts": list(verdicts),
    }  # fmt: skip


def _plain(threshold: float) -> float:
    return float(f"{threshold:.9g}")


def is_trusted(monitor: Monitor) -> bool:
    """Whether its held-out figures say that it does more than chance."""
    point = monitor.figures.get("eval")
    figure = None if point is None else point.auroc.figure
    return isinstance(figure, Estimate) and figure.low > 0.5


def require_fresh(path: Path) -> None:
    """ConfigError when a file that is no monitor would be written over."""
    if path.exists() and path.suffix != ".toml":
        raise ConfigError("a monitor file ends in .toml", where=path)
