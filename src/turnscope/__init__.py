"""Turnscope reads chat transcripts turn by turn; docs/architecture.md names its rooms."""

__version__ = "0.1.0"
