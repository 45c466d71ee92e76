"""Queries over turns: `F12 > 0.4 & !F77 & role = assistant & next(F9)`; docs/query.md defines the language.

text -> `parse` -> tree -> `bind` (names and types, against an index) -> `evaluate` (sets of rows) -> `QueryResult`.
Nothing of a query is ever run as code or as SQL, and no tensor library is needed.
"""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.features.query.errors import QueryError as QueryError
    from turnscope.features.query.explanations import ExplanationSearch as ExplanationSearch
    from turnscope.features.query.explanations import Found as Found
    from turnscope.features.query.grammar import Limits as Limits
    from turnscope.features.query.grammar import parse as parse
    from turnscope.features.query.result import Querier as Querier
    from turnscope.features.query.result import QueryResult as QueryResult
    from turnscope.features.query.tree import canonical as canonical

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "ExplanationSearch": "explanations",
        "Found": "explanations",
        "Limits": "grammar",
        "Querier": "result",
        "QueryError": "errors",
        "QueryResult": "result",
        "canonical": "tree",
        "parse": "grammar",
    },
)
