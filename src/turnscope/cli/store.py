"""What is stored: `turnscope verify`, `repair`, `merge`, `split`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from turnscope.artifacts.errors import ConfigError, IntegrityError, StorageError
from turnscope.cli._output import print_json, show_counts

if TYPE_CHECKING:
    from turnscope.artifacts import Artifact


def verify(run: Path, /, *, json: bool = False) -> None:
    """Read every file of every finished artifact under a folder; name those that are missing, torn or altered.

    Example: turnscope verify runs/demo

    Parameters
    ----------
    run
        A run folder, or one artifact.
    json
        Print as JSON.
    """
    found = {artifact.path: artifact.verify() for artifact in _artifacts(run)}
    bad = [f"{folder / name}" for folder, names in found.items() for name in names]
    if json:
        print_json({"artifacts": len(found), "bad": bad})
    else:
        print(f"{len(found)} artifacts read, {len(bad)} bad files")
    if bad:
        raise IntegrityError(
            "\n    ".join(["files are missing, torn or altered:", *bad]), where=run,
            fix=f"turnscope repair {run} mends activations; delete any other artifact and run its stage again",
        )  # fmt: skip


def repair(
    run: Path, /, *, model: str | None = None, transcripts: Path | None = None, device: str | None = None,
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None,
    trust_remote_code: bool = False, json: bool = False,
) -> None:  # fmt: skip
    """Harvest damaged shards of activations again, and no others, to the bytes that they had.

    Example: turnscope repair runs/demo

    Example: turnscope repair runs/mine --model Qwen/Qwen2.5-0.5B-Instruct

    Parameters
    ----------
    run
        A run folder, or the activations of one site.
    model
        The model that they were harvested from; the one in run.toml when not given.
    transcripts
        The transcripts that they were harvested from; looked for in the run folder when not given.
    device
        The device that they were harvested on; the one in run.toml, or cpu, when not given.
    device_map
        Spread a model that is too large for one GPU over all of them, in place of device.
    trust_remote_code
        Run code that ships with the model.
    json
        Print as JSON.
    """
    from turnscope.harvest.repair import RepairConfig
    from turnscope.harvest.repair import run as repair_activations

    artifacts = list(_artifacts(run))
    recipe = _recipe(run)
    places = {artifact.fingerprint: artifact.path for artifact in artifacts if artifact.manifest.kind == "transcripts"}
    repaired: list[str] = []
    left: list[str] = []
    for artifact in artifacts:
        if artifact.manifest.kind != "activations":
            left += [str(artifact.path / name) for name in artifact.verify()]
            continue
        result = repair_activations(
            RepairConfig(
                activations=artifact.path,
                transcripts=transcripts or places.get(artifact.manifest.inputs.get("transcripts", "")),
                model=model or recipe.get("model"),
                device=device or recipe.get("device", "cpu"),
                device_map=device_map,
                trust_remote_code=trust_remote_code,
            )
        )
        repaired += [str(artifact.path / name) for name in result.repaired]
    if json:
        print_json({"artifacts": len(artifacts), "repaired": repaired, "bad": left})
    else:
        print("\n".join([f"{len(artifacts)} artifacts read, {len(repaired)} files repaired", *repaired]))
    if left:
        raise IntegrityError(
            "\n    ".join(["files that no harvest makes are missing, torn or altered:", *left]), where=run,
            fix="delete the artifact's folder and run its stage again",
        )  # fmt: skip


def merge(*sources: Path, out: Path, json: bool = False) -> None:
    """Put activations of one site, harvested alike from different transcripts, into one.

    Shards are linked, so nothing is copied or computed. Splits stay as they were drawn; artifacts that share a
    conversation, or hold a group of duplicates on two sides of a split, are refused.

    Example: turnscope merge runs/may/activations/resid.15 runs/june/activations/resid.15 --out runs/both/resid.15

    Parameters
    ----------
    sources
        Activations of one site each.
    out
        Folder of the merged ones.
    json
        Print the counts as JSON.
    """
    from turnscope.harvest.merge import merge as merge_activations

    if len(sources) < 2:
        raise ConfigError("nothing to merge", fix="name at least two folders of activations")
    made = merge_activations(sources, out)
    show_counts("activations", made.path, made.manifest.counts, as_json=json)


def split(
    activations: Path, /, *, out: Path, keep: Literal["train", "explain", "eval", "locked"] | None = None,
    conversations: Path | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Copy the turns of one split, or of listed conversations, into activations of their own.

    Example: turnscope split runs/mine/activations/resid.15 --keep eval --out runs/eval/resid.15

    Parameters
    ----------
    activations
        Activations of one site.
    out
        Folder of the chosen ones.
    keep
        The split whose turns are copied.
    conversations
        A file of conversation ids, one a line; this or --keep.
    json
        Print the counts as JSON.
    """
    from turnscope.harvest.select import select

    made = select(activations, out, split=keep, conversations=None if conversations is None else _lines(conversations))
    show_counts("activations", made.path, made.manifest.counts, as_json=json)


def _artifacts(run: Path) -> Iterator[Artifact]:
    """Every finished artifact under a folder, in order of their paths."""
    from turnscope.artifacts import Artifact
    from turnscope.artifacts.manifest import read_manifest

    if not run.is_dir():
        raise StorageError("no such folder", where=run, fix="name a run folder, such as runs/demo")
    folders = [path.parent for path in sorted(run.rglob("manifest.json"))]
    if not folders:
        raise IntegrityError("no finished artifact here", where=run, fix="run a stage first")
    for folder in folders:
        yield Artifact.open(folder, read_manifest(folder)[0].kind)


def _recipe(run: Path) -> dict[str, str]:
    """What run.toml says of the model; it may come from anywhere, so no more than that is taken from it."""
    try:
        said = tomllib.loads((run / "run.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: str(said[name]) for name in ("model", "device") if name in said}


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read: {error}", where=path, fix="give a text file of one id a line") from error
