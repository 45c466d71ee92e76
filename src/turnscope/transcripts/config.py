"""Settings of the import."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from turnscope.artifacts.config import Config


class ImportConfig(Config):
    """Settings of `import_.run`. The paths are not recorded in the artifact; the sha256 of each source is."""

    sources: tuple[Path, ...] = ()
    """Chat files, read in this order."""
    out: Path
    """Folder of the transcripts artifact."""
    format: str | None = None
    """Name of the chat format; None: told from the keys of the first record of each file."""
    seed: int = 0
    """Draws the splits."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many conversations, over all sources."""
    allow_bad_lines: bool = False
    """Go on when more than 1% of a file's lines cannot be read."""
    group_by: str | None = None
    """Conversations with the same value of this label stand on the same side of every split."""
