"""`turnscope`: the commands, and how a user's mistake is told. Stages are imported when called."""

from __future__ import annotations

import os
import sys

from cyclopts import App

from turnscope import __version__
from turnscope.artifacts import TurnscopeError
from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible
from turnscope.cli import (
    audit,
    contrast,
    convert,
    demo,
    diff,
    find,
    index,
    label,
    monitor,
    persona,
    query,
    run,
    spans,
    stages,
    store,
    sweep,
    train,
    transcripts,
)

INTERRUPTED = 130

app = App(
    name="turnscope",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    help="""Read chat transcripts turn by turn: which turn-level features a model has, and what each responds to.

Start with:  turnscope demo
Your own:    turnscope run --model Qwen/Qwen2.5-0.5B-Instruct --transcripts chats.jsonl --out runs/mine""",
)
app.command(demo.app)
app.command(run.run, name="run")
app.command(transcripts.import_, name="import")
app.command(transcripts.export, name="export")
app.command(spans.spans, name="spans")
app.command(stages.harvest, name="harvest")
app.command(train.train, name="train")
app.command(sweep.sweep, name="sweep")
app.command(index.index, name="index")
app.command(index.features)
app.command(label.label, name="label")
app.command(query.query, name="query")
app.command(query.search, name="search")
app.command(find.find, name="find")
app.command(contrast.contrast, name="contrast")
app.command(persona.persona, name="persona")
app.command(diff.diff, name="diff")
app.command(monitor.monitor)
app.command(audit.audit, name="audit")
app.command(stages.evaluate, name="evaluate")
app.command(convert.convert, name="convert")
app.command(store.verify, name="verify")
app.command(store.repair, name="repair")
app.command(store.merge, name="merge")
app.command(store.split, name="split")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit code 0, 2 to 9 by class of error, 130 when interrupted."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except TurnscopeError as error:
        # An error may quote a file, and a file may hold anything.
        print("turnscope: " + visible(str(error), line_break="\n"), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("turnscope: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # cyclopts has told of a wrong argument itself; anything else is a bug and keeps its traceback
        if type(error).__module__.split(".")[0] != "cyclopts":
            raise
        sys.exit(ConfigError.exit_code)
