"""`turnscope`: the commands, and how a user's mistake is told. Stages are imported by the command that needs them."""

from __future__ import annotations

import os
import sys

from cyclopts import App

from turnscope import __version__
from turnscope.artifacts import TurnscopeError
from turnscope.artifacts.errors import ConfigError

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
app.command(
    "turnscope.cli.demo:app", name="demo", help="A small chat model whose truth is known: the whole path in minutes."
)
app.command("turnscope.cli.run:run", name="run", help="Transcripts and a model in, features and a report out.")
app.command("turnscope.cli.stages:import_", name="import", help="Chat files in, a transcripts artifact out.")
app.command("turnscope.cli.stages:harvest", name="harvest", help="Transcripts and a model in, turn activations out.")
app.command("turnscope.cli.stages:train", name="train", help="Activations in, a sparse autoencoder out.")
app.command("turnscope.cli.stages:evaluate", name="evaluate", help="Hold a dictionary's features against known labels.")
app.command("turnscope.cli.stages:verify", name="verify", help="Name every torn or altered file of a run.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit code 0, 2 to 7 by class of error, 130 when interrupted."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except TurnscopeError as error:
        print(f"turnscope: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("turnscope: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # cyclopts has told of a wrong argument itself; anything else is a bug and keeps its traceback
        if type(error).__module__.split(".")[0] != "cyclopts":
            raise
        sys.exit(ConfigError.exit_code)
