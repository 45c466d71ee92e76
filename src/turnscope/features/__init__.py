"""Features of a dictionary as a reader meets them: how often each fires, how strongly, and on which turns."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.features.config import IndexConfig as IndexConfig
    from turnscope.features.examples import Example as Example
    from turnscope.features.index import IndexResult as IndexResult
    from turnscope.features.index import run as run
    from turnscope.features.store import FeatureIndex as FeatureIndex
    from turnscope.features.store import open_index as open_index
    from turnscope.features.summary import FeatureSummary as FeatureSummary
    from turnscope.features.summary import TopTurn as TopTurn
    from turnscope.features.summary import pick as pick
    from turnscope.features.summary import summarise as summarise

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Example": "examples",
        "FeatureIndex": "store",
        "FeatureSummary": "summary",
        "IndexConfig": "config",
        "IndexResult": "index",
        "TopTurn": "summary",
        "open_index": "store",
        "pick": "summary",
        "run": "index",
        "summarise": "summary",
    },
)
