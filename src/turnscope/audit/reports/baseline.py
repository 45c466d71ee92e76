"""Where a baseline lies, and what it refuses: another dictionary, model, site or policy; both sides are named."""

from __future__ import annotations

from pathlib import Path

from turnscope.artifacts import Artifact, ConfigError, IntegrityError, StorageError
from turnscope.artifacts.manifest import MANIFEST_NAME
from turnscope.audit.config import AuditConfig
from turnscope.audit.difference import RENDERING
from turnscope.features.store import KIND as INDEX
from turnscope.features.store import FeatureIndex
from turnscope.harvest.store import MADE_WITH, ActivationStore

ADVICE = (
    "a baseline is an index of chats that are usual where these come from, a few hundred conversations or more. "
    "With a dictionary of yours: turnscope run --model M --transcripts usual.jsonl --out runs/usual, then turnscope "
    "index, then --baseline runs/usual. With a dictionary of others: --sae PATH --model M --baseline usual.jsonl"
)


def index_folder(path: Path, sae: Path | None) -> Path | None:
    """The index that a baseline names: itself, or that of the run folder; None for chat files.

    Raises StorageError when there is nothing; ConfigError for a run folder with no index, or several.
    """
    if not path.exists():
        raise StorageError("no such baseline", where=path, fix=ADVICE)
    if path.is_file():
        return None
    if (path / MANIFEST_NAME).is_file():
        Artifact.open(path, INDEX)
        return path
    inside = sorted(folder.parent for folder in (path / "features").glob(f"*/{MANIFEST_NAME}"))
    if len(inside) > 1 and sae is not None and (sae / MANIFEST_NAME).is_file():
        wanted = Artifact.open(sae, "sae").fingerprint
        inside = [each for each in inside if Artifact.open(each, INDEX).manifest.inputs.get("sae") == wanted] or inside
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(str(each) for each in inside)
        raise ConfigError("the run folder holds several indexes", where=path, fix=f"name one: {names}")
    if (path / "features").is_dir() or (path / "run.toml").is_file() or (path / "activations").is_dir():
        raise ConfigError(
            "this run folder holds no index", where=path,
            fix=f"turnscope index {path}/activations/SITE --sae {path}/saes/NAME --transcripts {path}/transcripts "
            f"--out {path}/features/NAME",
        )  # fmt: skip
    return None


def require_dictionary(baseline: FeatureIndex, sae: Artifact) -> None:
    """IntegrityError for a baseline made by another dictionary, naming both."""
    wanted = baseline.artifact.manifest.inputs.get("sae", "")
    if wanted != sae.fingerprint:
        raise IntegrityError(
            f"the baseline was made by the dictionary {wanted[:16]}, this is {sae.fingerprint[:16]}",
            where=baseline.artifact.path, fix="name the baseline's own dictionary, or index the baseline with this one",
        )  # fmt: skip


def require_alike(file: ActivationStore, baseline: ActivationStore) -> None:
    """IntegrityError unless both were read by the same model, at the same site, under the same policy."""
    made = file.artifact.manifest
    require_inputs(baseline, {name: made.inputs.get(name, "") for name in MADE_WITH}, file.artifact.path)
    theirs = baseline.artifact.manifest
    for name in RENDERING:
        if name != "too_long" and made.config.get(name) != theirs.config.get(name):
            raise IntegrityError(
                f"the baseline was read otherwise: {name} {theirs.config.get(name)}, these chats "
                f"{made.config.get(name)} (activations {baseline.fingerprint[:16]} and {file.fingerprint[:16]})",
                where=file.artifact.path, fix="audit into another --out, or harvest the baseline alike",
            )  # fmt: skip


def require_inputs(baseline: ActivationStore, found: dict[str, str], where: object) -> None:
    for name, value in found.items():
        wanted = baseline.artifact.manifest.inputs.get(name)
        if wanted and value and wanted != value:
            raise IntegrityError(
                f"the baseline was read with another {name}: {wanted[:16]}, this is {value[:16]}", where=where,
                fix="name the model whose activations the baseline holds",
            )  # fmt: skip


def require_asked(baseline: FeatureIndex, store: ActivationStore, config: AuditConfig, site: str) -> None:
    """IntegrityError when the caller asks for another site or pooling than the baseline's."""
    own = {"site": store.artifact.manifest.config.get("site"), "pool": baseline.facts.get("pool", "max")}
    for name, asked in (("site", site), ("pool", config.pool)):
        if asked and own[name] and asked != own[name] and (name != "pool" or baseline.unit == "token"):
            raise IntegrityError(
                f"the baseline was made with {name} {own[name]}, not {asked} "
                f"(index {baseline.artifact.fingerprint[:16]})",
                where=baseline.artifact.path, fix="leave it out, or index the baseline alike",
            )  # fmt: skip


def dictionary_of(baseline: FeatureIndex) -> Path:
    """The dictionary of an index, in its run folder."""
    wanted = baseline.artifact.manifest.inputs.get("sae", "")
    run = baseline.artifact.path.resolve().parents[1]
    for manifest in sorted((run / "saes").glob(f"*/{MANIFEST_NAME}")):
        if Artifact.open(manifest.parent, "sae").fingerprint == wanted:
            return manifest.parent
    raise ConfigError(
        f"the dictionary {wanted[:16]} of the baseline is not in its run folder", where=run, fix="name it with --sae"
    )
