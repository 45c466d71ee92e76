"""The embedder of judges and baselines, from the room of models."""

from turnscope.models.sentences import MODEL as MODEL
from turnscope.models.sentences import MiniLM as MiniLM
