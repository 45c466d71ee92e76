"""Traits that a run knows how to see, and those that nobody has shown a feature for. No torch.

A trait file names a trait. It counts as seen by a trusted feature where the run holds one of these under the same
dictionary, with a held-out AUROC of .9 or more: a contrast or persona result of its name, or a monitor of its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from turnscope.artifacts import Artifact, IntegrityError, StorageError, TurnscopeError
from turnscope.audit.monitors.file import Monitor, read_monitor
from turnscope.audit.trait import load_trait, shipped
from turnscope.features.store import FeatureIndex
from turnscope.stats import Estimate

TRUSTED = 0.9


class Known(NamedTuple):
    """What tells a trait: a kind of artifact, its place, held-out AUROC, and its one feature where it is one."""

    trait: str
    kind: str
    place: str
    auroc: float
    feature: int | None


def traits(run: Path, baseline: FeatureIndex, monitors: list[Path]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every shipped trait with what is known of it, the best first, and the fingerprints of what was read for it."""
    known, inputs = list[Known](), dict[str, str]()
    for one, name, fingerprint in _known(run, baseline, monitors):
        known.append(one)
        inputs[f"known:{name}"] = fingerprint
    rows: list[dict[str, Any]] = []
    for name in shipped():
        mine = sorted(
            (each for each in known if each.trait == _plain(name)), key=lambda each: (-each.auroc, each.place)
        )
        best = mine[0] if mine else None
        rows.append(
            {
                "trait": name, "definition": load_trait(name).definition,
                "trusted": best is not None and best.auroc >= TRUSTED,
                "watched": any(each.kind == "monitor run here" and each.auroc >= TRUSTED for each in mine),
                "by": "" if best is None else f"{best.kind} {best.place}",
                "auroc": None if best is None else best.auroc, "feature": None if best is None else best.feature,
            }
        )  # fmt: skip
    return rows, inputs


def _known(run: Path, baseline: FeatureIndex, monitors: list[Path]) -> Iterator[tuple[Known, str, str]]:
    sae = baseline.artifact.manifest.inputs.get("sae", "")
    here = [path.resolve() for path in monitors]
    others = [path for path in sorted((run / "monitors").glob("*.toml")) if path.resolve() not in here]
    for path in (*monitors, *others):
        try:
            monitor = read_monitor(path)
        except TurnscopeError:
            if path in monitors:
                raise
            continue
        auroc = _held_out(monitor)
        if auroc is not None and monitor.dictionary.fingerprint == sae:
            kind = "monitor run here" if path in monitors else "monitor"
            for name in {_plain(monitor.name), _plain(path.stem)}:
                yield Known(name, kind, path.name, auroc, None), f"monitors/{path.name}", monitor.fingerprint
    for folder in sorted((run / "contrasts").glob("*")):
        made = _read(folder, "contrast", "contrast.json")
        if made is None or made[0].manifest.inputs.get("index") != baseline.artifact.fingerprint:
            continue
        rows = [
            row
            for row in made[1].get("features", [])
            if row["separates"] and row["up_in"] == "a" and not row["confounded_by"]
        ]
        if rows:
            best = max(rows, key=lambda row: row["chosen_auroc"])
            place = f"contrasts/{folder.name}"
            yield (
                Known(_plain(folder.name), "contrast", folder.name, best["auroc"], best["feature"]),
                place,
                made[0].fingerprint,
            )
    for folder in sorted((run / "personas").glob("*")):
        made = _read(folder, "persona", "persona.json")
        if made is None or made[0].manifest.inputs.get("sae") != sae or not made[1].get("features"):
            continue
        first = made[1]["features"][0]  # the best of the ranking half
        auroc = first["held"].get("auroc")
        if auroc is not None:
            place = f"personas/{folder.name}"
            yield (
                Known(_plain(made[1]["trait"]), "persona", folder.name, auroc, first["feature"]),
                place,
                made[0].fingerprint,
            )


def _held_out(monitor: Monitor) -> float | None:
    point = monitor.figures.get("eval")
    figure = None if point is None else point.auroc.figure
    return figure.value if isinstance(figure, Estimate) else None


def _read(folder: Path, kind: str, name: str) -> tuple[Artifact, dict[str, Any]] | None:
    try:
        artifact = Artifact.open(folder, kind)
        return artifact, json.loads((folder / name).read_bytes())
    except (IntegrityError, StorageError, OSError, ValueError):
        return None


def _plain(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())
