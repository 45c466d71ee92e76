"""`turnscope audit`: one page on a set of chats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from turnscope.artifacts.text import visible
from turnscope.cli._output import print_json


def audit(
    *files: Path, out: Path, baseline: Path | None = None,
    monitors: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    sae: Path | None = None, model: str = "", site: str = "", pool: Literal["max", "mean", "sum"] | None = None,
    name: str = "audit", baseline_where: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    baseline_activations: Path | None = None, baseline_transcripts: Path | None = None,
    chat_format: str | None = None, allow_bad_lines: bool = False,
    too_long: Literal["skip", "window", "truncate-left"] | None = None, fdr: float = 0.05, shown: int = 6,
    most: int = 20_000, n_boot: int = 500, seed: int = 0, device: str = "cpu", trust_remote_code: bool = False,
    json: bool = False,
) -> None:  # fmt: skip
    """One page on a set of chats: what is unusual, how far to trust that, and what this audit could not see.

    Example: turnscope audit new.jsonl --baseline runs/usual --monitors refusal.toml --out runs/audit-new

    Example, with a dictionary of another library: turnscope audit new.jsonl --sae layer_12/width_16k --model
    google/gemma-2-2b --site resid.12 --baseline usual.jsonl --out runs/audit-new

    Stopped? Run the same command again. The folder is a run folder: query, search, contrast and monitor work on it.

    Parameters
    ----------
    files
        Chat files or folders in any known format.
    out
        Run folder of the audit; the page is reports/NAME/audit.html, with audit.md and all figures beside it.
    baseline
        What is usual: a feature index, a run folder that holds one, or, with --sae and --model, chat files.
    monitors
        Monitor files (turnscope monitor fit) to run over the chats.
    sae
        The dictionary, ours or another library's; the one in the baseline's run folder when not given.
    model
        The model whose activations it reads: folder, hub name, or minilm; that of the baseline's run.toml when not
        given.
    site
        Where it reads (resid.12), for a dictionary that does not say so.
    pool
        A turn's value of a token feature: max, mean or sum of its tokens; as in the baseline when not given.
    name
        Name of the report.
    baseline_where
        Query of the baseline's turns that count (docs/query.md).
    baseline_activations
        Those of the baseline's index, where they do not lie in its run folder.
    baseline_transcripts
        Those of the baseline's index, where they do not lie in its run folder.
    chat_format
        Format of the chats; told from the first record when not given.
    allow_bad_lines
        Skip and count lines that cannot be read, however many.
    too_long
        Conversations longer than the model's context; as in the baseline when not given.
    fdr
        Expected share of false ones among what is said to be unusual.
    shown
        Features on the page.
    most
        About so many turns of the baseline are read.
    n_boot
        Resamples behind each interval.
    seed
        Of what is drawn at random.
    device
        Device of the model.
    trust_remote_code
        Run code that ships with the model.
    json
        Print the report as JSON.
    """
    from turnscope.artifacts.errors import ConfigError
    from turnscope.audit.config import AuditConfig
    from turnscope.audit.report import HTML, run

    if not files:
        raise ConfigError("no chats named", fix="turnscope audit FILE ... --baseline INDEX --out DIR")
    result = run(
        AuditConfig(
            files=files, baseline=baseline, out=out, name=name, monitors=monitors, sae=sae, model=model, site=site,
            pool=pool, baseline_where=baseline_where, baseline_activations=baseline_activations,
            baseline_transcripts=baseline_transcripts, chat_format=chat_format, allow_bad_lines=allow_bad_lines,
            too_long=too_long, fdr=fdr, shown=shown, most=most, n_boot=n_boot, seed=seed, device=device,
            trust_remote_code=trust_remote_code,
        )
    )  # fmt: skip
    if json:
        return print_json(result.report)
    for note in result.notices:
        print(f"note: {visible(note)}", file=sys.stderr)
    for line in result.verdict:
        print(visible(line))
    print(result.path / HTML)
    return None
