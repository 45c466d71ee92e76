"""Evaluation: is any of it true? Features are held against labels that were known before there were features."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.evaluation.config import PlantedConfig as PlantedConfig
    from turnscope.evaluation.config import Trait as Trait
    from turnscope.evaluation.planted import PlantedResult as PlantedResult
    from turnscope.evaluation.planted import run as run

__getattr__, __dir__, __all__ = lazy(
    __name__, {"PlantedConfig": "config", "PlantedResult": "planted", "Trait": "config", "run": "planted"}
)
