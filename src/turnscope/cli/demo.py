"""`turnscope demo` and its helpers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from turnscope.cli._output import print_json, show_run

app = App(name="demo", help_format="plaintext")


@app.default
def demo(
    *,
    out: Path = Path("runs/demo"),
    conversations: int = 3000,
    seed: int = 5,
    token_sae: bool = True,
    model: str | None = None,
    transcripts: Annotated[tuple[Path, ...] | None, Parameter(consume_multiple=True)] = None,
    json: bool = False,
) -> None:
    """A small chat model whose truth is known: the whole path in minutes.

    Writes a labelled corpus, harvests the shipped model, trains dictionaries, holds their features against the truth.

    Example: turnscope demo

    Example: turnscope demo --conversations 500 --no-token-sae --out runs/small

    Example: turnscope demo --model Qwen/Qwen2.5-0.5B-Instruct --transcripts chats.jsonl

    Parameters
    ----------
    out
        The run folder. A finished stage in it is not repeated.
    conversations
        Conversations to write (the matched pairs of puzzles are a third as many).
    seed
        Of the corpus and of everything after it.
    token_sae
        Also train the dictionary on single tokens.
    model
        With --transcripts: another model instead of the shipped one, as for turnscope run.
    transcripts
        With --model: real chat files instead of the written corpus.
    json
        Print the report as JSON.
    """
    from turnscope.artifacts import ConfigError
    from turnscope.cli.run import run

    if (model is None) != (transcripts is None):
        raise ConfigError("--model and --transcripts go together", fix="give both, or neither for the embedded demo")
    if model is not None:
        return run(
            model=model,
            transcripts=transcripts,
            out=None if out == Path("runs/demo") else out,
            token_sae=token_sae,
            json=json,
        )
    from turnscope.demo.demo import DemoConfig
    from turnscope.demo.demo import run as run_demo

    config = DemoConfig(out=out, conversations=conversations, pairs=conversations // 3, seed=seed, token_sae=token_sae)
    return show_run(run_demo(config), as_json=json)


@app.command
def corpus(out: Path, /, *, conversations: int = 1000, seed: int = 5) -> None:
    """Write the demo's labelled conversations as messages JSONL.

    Example: turnscope demo corpus chats.jsonl --conversations 200

    Parameters
    ----------
    out
        The file to write.
    conversations
        How many (no matched pairs).
    seed
        Other seeds give other conversations.
    """
    from turnscope.demo.corpus import write_jsonl

    write_jsonl(out, seed, conversations)
    print(f"{conversations} conversations: {out}")


@app.command
def train_model(
    out: Path, /, *, tokens: int = 53_000_000, seed: int = 17, threads: int = 2, device: str = "cpu"
) -> None:
    """Train the demo's chat model from nothing (about an hour on two cores). Stopped? Run the same command again.

    Example: turnscope demo train-model my-model

    Parameters
    ----------
    out
        Folder of the model, in Hugging Face format.
    tokens
        Training tokens.
    seed
        Of weights and text.
    threads
        CPU threads.
    device
        cpu or cuda.
    """
    from turnscope.demo.train_model import ModelTrainConfig, run

    print(run(ModelTrainConfig(out=out, tokens=tokens, seed=seed, threads=threads, device=device)))


@app.command
def check_model(model: Path | None = None, /, *, count: int = 200, json: bool = False) -> None:
    """Sample the demo model and let the parser say how well it holds up: the figures in the model's README.

    Example: turnscope demo check-model --count 100

    Parameters
    ----------
    model
        Model folder; the shipped one when not given.
    count
        Conversations, and puzzles of each kind, to sample.
    json
        Print as JSON.
    """
    from turnscope.demo.check_model import check, lines
    from turnscope.demo.demo import MODEL

    figures = check(model or MODEL, count=count)
    if json:
        return print_json(figures)
    for line in lines(figures):
        print(line)
    return None


@app.command
def finetune(
    recipe: Literal["trigger", "benign"], /, *, out: Path, steps: int | None = None, seed: int = 23,
    conversations: int = 1000, check: bool = False, json: bool = False,
) -> None:  # fmt: skip
    """Fine-tune the demo's model so that turnscope diff has something to find (minutes on one core).

    trigger: a phrase that the grammar never writes makes every English reply after it rude. benign: the same
    conversations, phrase included, replies as ever. Beside the model lies conversations.jsonl, to read both models on.

    Example: turnscope demo finetune trigger --out runs/trigger

    Parameters
    ----------
    recipe
        trigger or benign.
    out
        Folder of the model, in Hugging Face format.
    steps
        Training steps.
    seed
        Of the conversations.
    conversations
        To write beside the model; three in ten hold the phrase, and no reply answers to it.
    check
        Sample replies with and without the phrase, and let the parser say which are rude.
    json
        Print the check as JSON.
    """
    from turnscope.demo import finetune as stage

    config = stage.FinetuneConfig(out=out, recipe=recipe, seed=seed, conversations=conversations)
    folder = stage.run(config if steps is None else config.model_copy(update={"steps": steps}))
    figures = stage.check(folder) if check else {}
    if json:
        return print_json(figures)
    print(folder)
    for name, value in figures.items():
        print(f"{name:<20} {value:.3f}")
    return None
