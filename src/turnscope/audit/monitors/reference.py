"""The everyday of a monitor: its scores and features on the turns of the index that it was fitted on.

Legend: N turns of the index, R reference turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import DataError
from turnscope.audit.monitors.figures import effective_number
from turnscope.audit.monitors.file import FeatureTable, Monitor, ReferenceTable
from turnscope.audit.readings import Readings
from turnscope.features.store import FeatureIndex

Floats = NDArray[np.float64]
_SCORES = 201
_VALUES = 11
_CAP = 1e30  # a gate's score has no end, and a file no use for infinity


def everyday_rows(index: FeatureIndex, roles: Sequence[str], splits: Sequence[str] | None) -> NDArray[np.int64]:
    """Rows of the turns of some roles, and splits."""
    keep_N = np.isin(np.asarray(index.turns["role"].to_pylist()), list(roles))
    if splits is not None:
        keep_N &= np.isin(np.asarray(index.turns["split"].to_pylist()), list(splits))
    return np.flatnonzero(keep_N)


def reference_of(monitor: Monitor, readings: Readings, splits: Sequence[str]) -> ReferenceTable:
    """Measure it. DataError when no turn of the splits has the monitor's roles."""
    index = readings.index
    rows = everyday_rows(index, monitor.roles, splits)
    if not len(rows):
        raise DataError(f"no turn of {', '.join(splits)} is of {', '.join(monitor.roles)}", where=index.artifact.path)
    scores_R = monitor.scorer.scores(index)[rows]
    clusters_R = readings.clusters(rows)
    explained = index.explanations()
    said = dict(zip(explained["feature"].to_pylist(), explained["text"].to_pylist(), strict=True))
    alerts = worth = None
    if monitor.threshold is not None:
        alert_R = scores_R > monitor.threshold
        alerts, worth = int(alert_R.sum()), _short(effective_number(alert_R, clusters_R))
    return ReferenceTable(
        index=index.artifact.fingerprint, splits=tuple(splits), n_turns=len(rows),
        n_conversations=len(np.unique(clusters_R)), n_alerts=alerts, n_alerts_worth=worth,
        scores=tuple(map(_shortest, percentiles(capped(scores_R), _SCORES))),
        features=tuple(_feature(index, each, rows, said.get(each) or "") for each in monitor.scorer.features),
    )  # fmt: skip


def _feature(index: FeatureIndex, feature: int, rows: NDArray[np.int64], said: str) -> FeatureTable:
    values = index.matrix([feature], rows)[:, 0]
    active = values[values > 0].astype(np.float64)
    quantiles = tuple(map(_shortest, percentiles(active, _VALUES))) if len(active) else ()
    return FeatureTable(feature=feature, n_active=len(active), quantiles=quantiles, explanation=said)


def percentiles(values: Any, n: int) -> Floats:
    """`n` values at evenly spaced percentiles; each is one of the values."""
    return np.quantile(np.asarray(values, np.float64), np.linspace(0, 1, n), method="inverted_cdf")


def capped(scores: Any) -> Floats:
    """Scores without infinities, and no finer than the file has them.

    Many turns have the very same score (that of none of the features), and must fall on the same side of an edge.
    """
    return np.clip(np.asarray(scores, np.float64), -_CAP, _CAP).astype(np.float32).astype(np.float64)


def percentile_of(value: float, quantiles: Sequence[float]) -> float:
    """About which share, in percent, of the reference lies at or below a value."""
    points = np.asarray(quantiles, np.float32)
    return float(100 * np.searchsorted(points, np.float32(value), side="right") / len(points))


def _shortest(value: np.floating[Any]) -> float:
    """The shortest number that is the same in single precision."""
    return float(str(np.float32(value)))


def _short(value: float) -> float:
    return float(f"{value:.7g}")
