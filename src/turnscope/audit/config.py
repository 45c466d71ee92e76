"""Settings of the auditor's tools. Imports no heavy library."""

from __future__ import annotations
