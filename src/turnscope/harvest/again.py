"""Reading harvested turns once more, with the settings, model and transcripts of their harvest and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from turnscope.artifacts import Artifact, ConfigError, IntegrityError, require_same
from turnscope.harvest.config import ActivationsConfig, HarvestConfig
from turnscope.models.options import DeviceMap


def settings_again(
    artifact: Artifact,
    transcripts: Path | None,
    model: str | None,
    *,
    device: str = "cpu",
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
) -> HarvestConfig:
    """The settings of the harvest that made these activations, from their manifest, with the paths of today.

    Raises:
        IntegrityError: they were put together from others, so that no single harvest made them.
        ConfigError: model or transcripts are not given; a manifest holds no paths.
    """
    recorded = artifact.manifest.config
    if "transcripts" not in artifact.manifest.inputs:
        raise IntegrityError(
            "these activations were put together from others, not harvested",
            where=artifact.path,
            fix="name the ones that they were made from",
        )
    if transcripts is None or model is None:
        raise ConfigError(
            f"what they were harvested from is not known: name the model ({recorded['model']}) and the transcripts",
            where=artifact.path,
            fix="give both",
        )
    shared = (ActivationsConfig.model_fields.keys() & HarvestConfig.model_fields.keys()) - {"model"}
    return HarvestConfig(
        **{name: recorded[name] for name in shared if name in recorded},
        transcripts=transcripts,
        model=model,
        sites=(recorded["site"],),
        out=artifact.path.parent,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )


def require_inputs(artifact: Artifact, inputs: Mapping[str, str]) -> None:
    """IntegrityError, with each difference named, when these are not what the activations were harvested from."""
    require_same(
        {name: artifact.manifest.inputs[name] for name in inputs},
        inputs,
        "these activations were harvested from something else:",
        where=artifact.path,
        fix="name the transcripts and the model that they were harvested from",
    )
