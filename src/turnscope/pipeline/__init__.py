"""A whole run from one recipe: transcripts, activations, dictionaries, evaluation, report."""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.pipeline.config import Recipe as Recipe
    from turnscope.pipeline.config import SAERecipe as SAERecipe
    from turnscope.pipeline.pipeline import PipelineResult as PipelineResult
    from turnscope.pipeline.pipeline import run as run

__getattr__, __dir__, __all__ = lazy(
    __name__, {"PipelineResult": "pipeline", "Recipe": "config", "SAERecipe": "config", "run": "pipeline"}
)
