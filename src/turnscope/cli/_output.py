"""What commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnscope.pipeline import PipelineResult


def show_run(result: PipelineResult, *, as_json: bool) -> None:
    """The report on standard output; where it lies and what to know on standard error."""
    if as_json:
        print_json(result.report)
    else:
        from rich.console import Console

        from turnscope.pipeline.report import print_report

        print_report(result.report, Console(width=None if sys.stdout.isatty() else 140))
    for notice in result.notices:
        print(f"note: {notice}", file=sys.stderr)
    report = result.report
    cost = f"{report['seconds']} s, {report['peak_rss_mb']} MiB"
    print(f"{cost}; run folder {result.path}, report {result.path / 'report.md'}", file=sys.stderr)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True))


def show_counts(title: str, path: Path, counts: Mapping[str, int], *, as_json: bool) -> None:
    """A stage's closing count: what went in, and what was dropped or changed, by reason."""
    if as_json:
        return print_json({"path": str(path), "counts": dict(counts)})
    print(f"{title}: {path}")
    width = max(map(len, counts), default=0)
    for name, count in sorted(counts.items()):
        print(f"  {name:<{width}}  {count:>10,}")
    return None
