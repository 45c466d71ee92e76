"""Calls to language model endpoints: one table is cache, ledger and resume.

Knows no transcripts, models or dictionaries.
"""

from typing import TYPE_CHECKING

from turnscope.artifacts._lazy import lazy

if TYPE_CHECKING:
    from turnscope.llm.client import Client as Client
    from turnscope.llm.client import open_client as open_client
    from turnscope.llm.config import LLMConfig as LLMConfig
    from turnscope.llm.errors import CeilingReached as CeilingReached
    from turnscope.llm.errors import PendingAnswers as PendingAnswers
    from turnscope.llm.request import Failed as Failed
    from turnscope.llm.request import Message as Message
    from turnscope.llm.request import Reply as Reply
    from turnscope.llm.request import Request as Request
    from turnscope.llm.table import CallTable as CallTable
    from turnscope.llm.table import Ledger as Ledger
    from turnscope.llm.transport import Transport as Transport

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "CallTable": "table",
        "CeilingReached": "errors",
        "Client": "client",
        "Failed": "request",
        "LLMConfig": "config",
        "Ledger": "table",
        "Message": "request",
        "PendingAnswers": "errors",
        "Reply": "request",
        "Request": "request",
        "Transport": "transport",
        "open_client": "client",
    },
)
