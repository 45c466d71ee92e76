"""Harvest: activations of every turn, read from a model in one pass and kept in a store."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.harvest.config import ActivationsConfig as ActivationsConfig
    from turnscope.harvest.config import HarvestConfig as HarvestConfig
    from turnscope.harvest.harvest import HarvestResult as HarvestResult
    from turnscope.harvest.harvest import run as run
    from turnscope.harvest.source import ActivationSource as ActivationSource
    from turnscope.harvest.source import StoreSource as StoreSource
    from turnscope.harvest.store import ActivationStore as ActivationStore
    from turnscope.harvest.store import open_activations as open_activations

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "ActivationSource": "source",
        "ActivationStore": "store",
        "ActivationsConfig": "config",
        "HarvestConfig": "config",
        "HarvestResult": "harvest",
        "StoreSource": "source",
        "open_activations": "store",
        "run": "harvest",
    },
)
