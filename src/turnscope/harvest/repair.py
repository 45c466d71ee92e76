"""Making damaged files of finished activations again, and no others.

A shard is harvested anew beside the artifact, and takes the damaged file's place only if it has the bytes that the
manifest names. So a repaired artifact is the one that was harvested, and whatever was made from it still fits.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from turnscope.artifacts import (
    Artifact,
    Config,
    Draft,
    IntegrityError,
    RunFolder,
    file_sha256,
    link_file,
)
from turnscope.harvest.again import require_inputs, settings_again
from turnscope.harvest.harvest import open_subject, record
from turnscope.harvest.pieces import write_stats
from turnscope.harvest.prepare import cut, prepare
from turnscope.harvest.reuse import fingerprint_conversations
from turnscope.harvest.shards import STATS, count_shards, shard_name, turns_name
from turnscope.harvest.store import ActivationStore
from turnscope.harvest.write import compute_shard
from turnscope.models.options import DeviceMap
from turnscope.models.site import Site
from turnscope.transcripts.store import open_transcripts

_SCRATCH = ".repair"


class RepairConfig(Config):
    """What a repair needs beside the manifest, which holds no paths."""

    activations: Path
    """The damaged activations of one site."""
    transcripts: Path | None = None
    """The transcripts that they were harvested from; needed for a shard."""
    model: str | None = None
    """The model that they were harvested from: folder in Hugging Face format, hub name, or ``minilm``; likewise."""
    device: str = "cpu"
    """The device that they were harvested on; another one may give other bytes, which are refused."""
    device_map: DeviceMap | None = None
    """Spread the model over several devices, in place of ``device``."""
    trust_remote_code: bool = False
    """Run code that ships with the model."""


@dataclass(frozen=True)
class RepairResult:
    """What was done: names of the files that were made again, sorted, and how many shards that took."""

    artifact: Artifact
    repaired: tuple[str, ...]
    shards_computed: int


def run(config: RepairConfig) -> RepairResult:
    """Find the missing, torn and altered files of one site's activations and make them again.

    Raises:
        ConfigError: a shard is damaged, and model or transcripts are not given.
        StorageError: no such folder; the disk is full or read-only.
        IntegrityError: not finished activations; transcripts or model are not those of the harvest (each difference is
            named); the harvest gives other bytes than it did, and nothing is replaced; another process writes there.
        ModelError: the model cannot be loaded.
    """
    artifact = Artifact.open(config.activations, "activations")
    bad = artifact.verify()
    if not bad:
        return RepairResult(artifact, (), 0)
    n_shards = count_shards(artifact.manifest.files)
    shards = [index for index in range(n_shards) if shard_name(index) in bad or turns_name(index) in bad]
    with RunFolder(artifact.path.parent).lock():
        if shards:
            _repair_shards(artifact, shards, bad, config)
        if STATS in bad:
            _repair_stats(artifact)
    return RepairResult(artifact, tuple(bad), len(shards))


def _repair_shards(artifact: Artifact, wanted: list[int], bad: list[str], config: RepairConfig) -> None:
    harvest = settings_again(
        artifact,
        config.transcripts,
        config.model,
        device=config.device,
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
    )
    transcripts = open_transcripts(harvest.transcripts)
    require_inputs(artifact, {"transcripts": transcripts.fingerprint})
    subject, renderer = open_subject(harvest)
    site = Site.parse(harvest.sites[0])
    meaning, inputs = record(harvest, site, subject, renderer.choice, transcripts.fingerprint)
    require_inputs(artifact, inputs)
    scratch = Draft(artifact.path / _SCRATCH, "activations", meaning.recorded(), inputs)
    shutil.rmtree(scratch.path, ignore_errors=True)
    log = RunFolder(artifact.path.parent).log
    try:
        for index, conversations in enumerate(islice(cut(transcripts, harvest.shard_turns), wanted[-1] + 1)):
            if index in wanted:
                shard = prepare(index, conversations, renderer, subject, harvest)
                shard.conversations = fingerprint_conversations(conversations)
                compute_shard(shard, subject, harvest, {site: scratch}, on_batch=lambda _tokens, _places: None, log=log)
                for name in {shard_name(index), turns_name(index)}.intersection(bad):
                    _replace(artifact, scratch.path, name)
    finally:
        shutil.rmtree(scratch.path, ignore_errors=True)


def _repair_stats(artifact: Artifact) -> None:
    scratch = artifact.path / _SCRATCH
    try:
        n_shards = count_shards(artifact.manifest.files)
        for index in range(n_shards):
            link_file(artifact.path / turns_name(index), scratch / turns_name(index))
        write_stats(scratch, n_shards, ActivationStore(artifact).d_model)
        _replace(artifact, scratch, STATS)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(artifact: Artifact, made: Path, name: str) -> None:
    record = artifact.manifest.files[name]
    if file_sha256(made / name) != record.sha256:
        raise IntegrityError(
            f"{name} comes out with other bytes than it had, so nothing was replaced",
            where=artifact.path,
            fix="repair with the library versions, device and number of threads of the harvest, or harvest again",
        )
    link_file(made / name, artifact.path / name)
