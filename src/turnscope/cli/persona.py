"""`turnscope persona`: features that rise when a model is asked to show a trait."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.text import visible
from turnscope.cli._output import print_json

if TYPE_CHECKING:
    from turnscope.audit.trait import Trait
    from turnscope.llm import Client
    from turnscope.transcripts.labeller import Labeller

DEMO = "demo:"
_SHOWN = 10


def persona(
    trait: str, /, *,
    model: str, sae: Path, out: Path,
    judge: str | None = None,
    llm: str | None = None,
    backend: Literal["endpoint", "files"] = "endpoint", base_url: str | None = None, llm_folder: Path | None = None,
    max_usd: float | None = None, max_calls: int | None = None,
    site: str = "", rollouts: int = 1, questions: int | None = None,
    max_new_tokens: int = 200, temperature: float = 1.0, top_p: float = 1.0,
    batch: int = 32, top: int = 20, chat_template: str = "auto",
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32", device: str = "cpu",
    trust_remote_code: bool = False, seed: int = 0,
    json: bool = False,
) -> None:  # fmt: skip
    """Which features rise when a model is asked to show a trait (docs/personas.md).

    Pairs of system prompts, one that asks for the trait and one for its opposite, are put before questions; the model
    answers; features are ranked on some prompts and questions and judged on the others.

    Example: turnscope persona sycophancy --model Qwen/Qwen2.5-0.5B-Instruct --sae runs/mine/saes/turn
    --out runs/mine/personas/sycophancy --judge lexical

    Example: turnscope persona demo:pirate --model src/turnscope/demo/model --sae runs/demo/saes/turn
    --out runs/demo/personas/pirate --judge parser

    Stopped? Run the same command again: it goes on after the last saved rollouts.

    Parameters
    ----------
    trait
        A trait file (.toml), the name of a shipped one (sycophancy, refusal, ...), or demo:NAME.
    model
        The chat model: a folder or hub name. It must be the one whose activations the dictionary was trained on.
    sae
        The dictionary.
    out
        Folder of the result.
    judge
        Who tells whether a reply shows the trait: parser (the demo's), lexical (the file's phrases), embed (the file's
        examples, by MiniLM) or llm:MODEL. Replies that are not what their prompt asked for are then left out. Without
        a judge prompts are taken at their word.
    llm
        Let this model write the prompts, questions or rubric that the file lacks.
    backend
        For --llm and --judge llm:MODEL: call an endpoint, or write requests to a folder and read answers from it.
    base_url
        The endpoint.
    llm_folder
        Of the files backend; OUT.llm when not given.
    max_usd
        Ceiling of what all calls may cost.
    max_calls
        Ceiling of the number of calls.
    site
        Where to read, as resid.3; the dictionary's own when not given.
    rollouts
        Replies to each question under each prompt.
    questions
        Ask only so many of the file's questions.
    max_new_tokens
        A reply is cut here.
    temperature
        0 always takes the likeliest token.
    top_p
        Draw from the likeliest tokens that together have this share.
    batch
        Prompts that run at once.
    top
        Features whose held-out figures get an interval.
    chat_template
        auto, plain, or the text of a template.
    model_dtype
        Type of the weights.
    device
        cpu or cuda.
    trust_remote_code
        Run code that ships with the model.
    seed
        Of the split, of what is drawn, and of the intervals.
    json
        Print the report as JSON.
    """
    from turnscope.audit.config import PersonaConfig
    from turnscope.audit.persona import run
    from turnscope.audit.trait import load_trait
    from turnscope.models.sampling import Sampling

    path = _demo_trait(trait.removeprefix(DEMO)) if trait.startswith(DEMO) else Path(trait)
    loaded = load_trait(path)
    config = PersonaConfig(
        trait=path, model=model, sae=sae, out=out, site=site, rollouts=rollouts, questions=questions, batch=batch,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed),
        top=top, chat_template=chat_template, model_dtype=model_dtype, device=device,
        trust_remote_code=trust_remote_code, seed=seed,
    )  # fmt: skip
    asked = {"backend": backend, "base_url": base_url, "max_usd": max_usd, "max_calls": max_calls}
    with ExitStack() as stack:

        def client(name: str) -> Client:
            return stack.enter_context(_client(name, out, llm_folder, asked))

        if llm:
            from turnscope.audit.write_trait import complete

            loaded = complete(loaded, client(llm), llm)
        found, label = _judge(judge, loaded, client)
        result = run(config, found, trait=loaded, judge_label=label)
    if json:
        return print_json(result.report)
    _show(result.report, out)
    return None


@contextmanager
def _client(name: str, out: Path, folder: Path | None, asked: dict[str, Any]) -> Generator[Client]:
    from turnscope.llm import LLMConfig, open_client

    beside = out.with_name(f"{out.name}.llm")
    given = {key: value for key, value in asked.items() if value is not None}
    if given["backend"] == "files":
        given["folder"] = folder or beside
    with open_client(LLMConfig(model=name, table=beside / "llm.sqlite", **given)) as client:
        yield client


def _judge(judge: str | None, trait: Trait, client: Any) -> tuple[Labeller | None, tuple[str, str] | None]:
    """The labeller that a word of the command line means, and which of its labels is the trait."""
    from turnscope.transcripts.labeller import value_text

    if judge is None:
        return None, None
    if judge == "parser":
        if trait.judge.parser is None:
            raise ConfigError(
                f"the demo's parser does not know {trait.name}", fix="use --judge lexical, embed or llm:MODEL"
            )
        from turnscope.demo.labeller import ParserLabeller

        return ParserLabeller(), (trait.judge.parser.trait, value_text(trait.judge.parser.value))
    from turnscope.audit import judges

    if judge == "lexical":
        return judges.LexicalJudge(trait), None
    if judge == "embed":
        from turnscope.audit.embed import MODEL, MiniLM

        return judges.EmbedJudge(trait, MiniLM(), MODEL), None
    if judge.startswith("llm:") and len(judge) > 4:
        name = judge.removeprefix("llm:")
        return judges.LLMJudge(trait, client(name), name), None
    raise ConfigError(f"no such judge: {judge}", fix="one of parser, lexical, embed, llm:MODEL")


def _demo_trait(name: str) -> Path:
    from difflib import get_close_matches
    from importlib import resources

    folder = Path(str(resources.files("turnscope.demo"))) / "traits"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        near = get_close_matches(name, known, n=2)
        said = f"did you mean {' or '.join(DEMO + each for each in near)}? " if near else ""
        raise ConfigError(f"the demo plants no {name!r}", fix=f"{said}it has {', '.join(known)}")
    return folder / f"{name}.toml"


def _show(report: dict[str, Any], out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from turnscope.cli._spans_view import console

    screen = console()
    n, judge = report["n"]["judge"], report["judge"]
    print(
        f"{report['trait']} at {report['site']}: judged on {n['with']} replies with it, {n['without']} without, "
        f"{n['questions']} questions; {report['discoveries']:,} features differ on the ranking half (q <= .05)"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("", "ranked", "held out", "95% interval", "q", "reply alone", "cosine", "its place"):
        table.add_column(Text(name), justify="left" if name == "" else "right")
    for row in report["features"][:_SHOWN]:
        held = row["held"]
        cells = (f"F{row['feature']}", f"{row['rank_auroc']:.3f}", _auroc(held), _interval(held), f"{held['q']:.2g}",
                 _auroc(row["bare"]), f"{row['cosine']:+.2f}", str(row["cosine_place"]))  # fmt: skip
        table.add_row(*map(Text, cells))
    for name, row in report["readers"].items():
        held = row["held"]
        table.add_row(*map(Text, (name, "", _auroc(held), _interval(held), "", _auroc(row.get("bare", {})), "", "")))
    chance = report["shuffled"]
    if "auroc" in chance:
        table.add_row(*map(Text, ("sides swapped", "", f"{chance['auroc']:.3f}",
                                  f"{chance['low']:.3f} to {chance['high']:.3f}", "", "", "", "")))  # fmt: skip
    screen.print(table)
    if judge["name"] == "none":
        print("note: nobody judged the replies: prompts are taken at their word (--judge)", file=sys.stderr)
    else:
        print(f"judge {visible(judge['name'])}: the trait showed in {_share(judge['shown_positive'])} of the replies "
              f"that were asked for it, {_share(judge['shown_negative'])} of the others", file=sys.stderr)  # fmt: skip
    for name, count in sorted(report["counts"].items()):
        if name.startswith("dropped.") and count:
            print(f"  {name}: {count:,}", file=sys.stderr)
    print(f"result: {visible(str(out))}; not verified by steering", file=sys.stderr)


def _auroc(row: dict[str, Any]) -> str:
    return f"{row['auroc']:.3f}" if "auroc" in row else "withheld" if "withheld" in row else ""


def _interval(row: dict[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}" if "low" in row else visible(row.get("withheld", ""))


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"
