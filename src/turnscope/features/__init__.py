"""Features of a dictionary as a reader meets them: how often each fires, how strongly, and on which turns."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.features.summary import FeatureSummary as FeatureSummary
    from turnscope.features.summary import TopTurn as TopTurn
    from turnscope.features.summary import pick as pick
    from turnscope.features.summary import summarise as summarise

__getattr__, __dir__, __all__ = lazy(
    __name__, {"FeatureSummary": "summary", "TopTurn": "summary", "pick": "summary", "summarise": "summary"}
)
