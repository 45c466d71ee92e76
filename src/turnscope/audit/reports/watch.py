"""Monitors over the turns of the file: what they found, and how much may be there where they found nothing. No torch.

Legend: R turns that a monitor looks at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from turnscope.artifacts import IntegrityError
from turnscope.audit.config import MonitorRunConfig
from turnscope.audit.monitors.file import Monitor, PointTable, read_monitor
from turnscope.audit.monitors.reference import everyday_rows
from turnscope.audit.monitors.run import run
from turnscope.audit.readings import Readings
from turnscope.audit.reports.bounds import FORMULA, highest_prevalence, highest_share
from turnscope.features.store import FeatureIndex
from turnscope.harvest.store import ActivationStore
from turnscope.stats import Estimate

_CHARACTERS = 2000


def watch(path: Path, index: FeatureIndex, store: ActivationStore, examples: int) -> dict[str, Any]:
    """Run one monitor.

    Raises ConfigError for a monitor without a threshold, IntegrityError for one of another dictionary or model.
    """
    monitor = read_monitor(path)
    _require_reading(monitor, store, path)
    alerts = list[dict[str, Any]]()
    result = run(
        MonitorRunConfig(
            monitor=path, index=index.artifact.path, splits=("train", "explain", "eval", "locked"),
            transcripts=None if index.transcripts is None else index.transcripts.artifact.path, characters=_CHARACTERS,
        ),
        alerts.append,
    )  # fmt: skip
    rows = everyday_rows(index, monitor.roles, None)
    clusters = Readings(index).clusters(np.arange(index.n_turns))
    n = len(np.unique(clusters[rows]))
    alerted = len(np.unique(clusters[[alert["row"] for alert in alerts]])) if alerts else 0
    alerts.sort(key=lambda alert: (-alert["score"], alert["row"]))
    worst = lowest_recall(monitor)
    fpr = monitor.figures["eval"].fpr.figure if "eval" in monitor.figures else None
    told: dict[str, Any] = {
        "name": monitor.name, "fingerprint": monitor.fingerprint, "description": monitor.description,
        "roles": list(monitor.roles), "turns": len(rows), "conversations": n, "alerts": len(alerts),
        "conversations_alerted": alerted, "notices": list(result.notices), "formula": FORMULA,
        "false_alerts_expected": fpr.value * len(rows) if isinstance(fpr, Estimate) else None,
        "examples": alerts[:examples], "highest_alert_share": highest_share(alerted, n) if n else None,
    }  # fmt: skip
    if n == 0:
        return told | {"bound": None, "bound_withheld": f"no turn here is of {', '.join(monitor.roles)}"}
    if worst is None:
        return told | {"bound": None, "bound_withheld": "its recall was never measured, so that it may see nothing"}
    where, recall = worst
    bound = highest_prevalence(alerted, n, recall.low)
    return told | {
        "bound": bound, "bound_withheld": "", "recall_on": where, "recall": recall.value,
        "recall_ci": [recall.low, recall.high], "recall_of": recall.n_positive + recall.n_negative,
    }  # fmt: skip


def lowest_recall(monitor: Monitor) -> tuple[str, Estimate] | None:
    """The measured recall with the lowest lower limit, of held-out, other and locked turns, and where it was."""
    points: dict[str, PointTable] = dict(monitor.figures)
    if monitor.locked:
        points["locked"] = monitor.locked[-1].figures
    words = {"eval": "held-out turns", "other": "another source", "locked": "locked turns"}
    found = [
        (words.get(name, name), recall)
        for name, point in points.items()
        if isinstance(recall := point.recall.figure, Estimate)
    ]
    return min(found, key=lambda each: each[1].low, default=None)


def _require_reading(monitor: Monitor, store: ActivationStore, path: Path) -> None:
    made = store.artifact.manifest.inputs
    for name in ("model", "tokenizer", "template"):
        wanted, found = getattr(monitor.reading, f"{name}_fingerprint"), made.get(name, "")
        if wanted and found and wanted != found:
            raise IntegrityError(
                f"the monitor was fitted on another {name}: {wanted[:16]}, these turns were read with {found[:16]}",
                where=path, fix="leave this monitor out, or fit it on turns read like these",
            )  # fmt: skip
