"""The stages by themselves: `turnscope harvest`, `evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from turnscope.artifacts.errors import ConfigError
from turnscope.cli._output import print_json, show_counts

FloatType = Literal["float32", "bfloat16", "float16"]


def harvest(
    transcripts: Path, /, *, model: str, out: Path,
    site: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    roles: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("user", "assistant"),
    token_set: Literal["content", "with_header", "all"] = "content",
    pool: Literal["mean", "max", "last"] = "mean", tokens: str = "none", seed: int = 0,
    span_policy: Literal["full_render", "as_of_turn"] = "full_render",
    control_tokens: Literal["neutralise", "keep"] = "neutralise", chat_template: str = "auto",
    too_long: Literal["skip", "window", "truncate-left"] = "skip",
    store_dtype: FloatType = "float32", token_dtype: FloatType = "float16", shard_turns: int = 4096,
    batch_tokens: int = 4096, packing: bool = True, device: str = "cpu", dtype: FloatType = "float32",
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None,
    quantization: Literal["bnb-8bit", "bnb-4bit", "torchao-int8"] | None = None,
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = None,
    backend: Literal["transformers", "vllm"] = "transformers",
    random_weights: bool = False, trust_remote_code: bool = False,
    reuse: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    engine: Literal["local", "ray"] = "local", workers: int | None = None, ray_address: str | None = None,
    json: bool = False,
) -> None:  # fmt: skip
    """Transcripts and a model in, turn activations out: one artifact per site, from one forward pass.

    Example: turnscope harvest runs/mine/transcripts --model minilm --site resid.3 --out runs/mine/activations

    Example: turnscope harvest runs/mine/transcripts --model Qwen/Qwen2.5-7B-Instruct --site resid.18 --device cuda
    --dtype bfloat16 --store-dtype bfloat16 --batch-tokens 32768 --out runs/mine/activations

    Stopped? Run the same command again: it goes on after the last finished shard. The settings that decide which
    numbers are stored are kept with them, and a command that changes one of them is refused.

    Parameters
    ----------
    transcripts
        A transcripts artifact (turnscope import).
    model
        Hub name, local folder, or minilm.
    out
        Folder that receives one artifact per site.
    site
        Where to read; resid.3 is the output of 0-based block 3. Default: two thirds of the depth.
    roles
        Roles whose turns are stored.
    token_set
        Which tokens of a turn are averaged: its text, with the header that names the role, or the end mark too.
    pool
        What stands for a turn: the mean of its tokens; for comparison their maxima, or the last one.
    tokens
        Single tokens stored beside the means: none, all, or so many of each turn, drawn at random.
    seed
        Of that draw.
    span_policy
        Render each chat once, or read every turn as the model had it when it came up, with reasoning that later renders
        strip (slower).
    control_tokens
        What becomes of control tokens that a text spells: said as plain text, or kept as the tokens they forge.
    chat_template
        auto: the model's own, or the plain one where it has none; plain; or a file that holds a template.
    too_long
        Conversations longer than the context: skip (and count), read in windows, or keep the last tokens.
    store_dtype
        Type in which turns are stored; bfloat16 takes half the disk.
    token_dtype
        Type in which single tokens are stored.
    shard_turns
        Turns after which a shard is closed: the unit of writing, of going on and of memory.
    batch_tokens
        Most tokens in a batch, padding included. A GPU wants more than a CPU; a batch without room is halved.
    packing
        Lay the chats of a batch end to end, none seeing another, where the model supports it; else pad them.
    device
        As torch names it: cpu, cuda, cuda:1.
    dtype
        Type of the model's weights and of what it computes; turns are always summed in float32.
    device_map
        Spread a model that is too large for one GPU over all of them, in place of device (extra accelerate).
    quantization
        Load the weights in 8 or 4 bits (extra bitsandbytes or torchao). Other numbers than the model's own.
    attention
        As transformers names it; sdpa where the model has it. Each rounds otherwise.
    backend
        What runs the model: transformers, or vLLM on one GPU for resid.L (extra vllm, with --device cuda and larger
        --batch-tokens; untried, see docs/models.md).
    random_weights
        Draw the weights at random (a control).
    trust_remote_code
        Run code that ships with the model.
    reuse
        Folders of earlier harvests, made alike: shards of the same conversations are linked from there, so that
        transcripts that grew are read for what is new alone.
    engine
        Run here, or on a Ray cluster, to the same bytes (extra cluster; docs/cluster.md).
    workers
        Workers of the cluster; default: as many as there is room for, one to a GPU.
    ray_address
        The cluster's address, or auto. Default: start one on this machine.
    json
        Print the counts as JSON.
    """
    from turnscope.harvest.config import HarvestConfig
    from turnscope.harvest.harvest import run
    from turnscope.pipeline.pipeline import default_site

    sites = site or (default_site(model, trust_remote_code=trust_remote_code),)
    result = run(
        HarvestConfig(
            transcripts=transcripts, model=model, out=out, sites=sites, roles=roles, token_set=token_set, pool=pool,
            tokens=int(tokens) if tokens.isdigit() else tokens,  # pyright: ignore[reportArgumentType]
            seed=seed, span_policy=span_policy, control_tokens=control_tokens, chat_template=_template(chat_template),
            too_long=too_long, dtype=store_dtype, token_dtype=token_dtype, shard_turns=shard_turns,
            batch_tokens=batch_tokens, packing=packing, device=device, model_dtype=dtype, device_map=device_map,
            quantization=quantization, attention=attention, backend=backend, random_weights=random_weights,
            trust_remote_code=trust_remote_code, reuse=reuse, engine=engine, workers=workers, ray_address=ray_address,
        )
    )  # fmt: skip
    for notice in result.notices:
        print(f"note: {notice}", file=sys.stderr)
    made = [(artifact.path, artifact.manifest.counts) for artifact in result.activations.values()]
    if json:
        print_json({"artifacts": [{"path": str(path), "counts": dict(counts)} for path, counts in made]})
    else:
        for path, counts in made:
            show_counts("activations", path, counts, as_json=False)
    if result.tokens:
        print(f"{result.tokens_per_second:,.0f} tokens/s, {result.padding:.1%} padding", file=sys.stderr)


def _template(name: str) -> str:
    """A template by name, or the text of its file."""
    if name in ("auto", "plain"):
        return name
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"no chat template in {name}: {error}", fix="write auto or plain, or name a file that holds a template"
        ) from error


def evaluate(
    *, transcripts: Path, activations: Path, sae: Path, model: str, out: Path, min_positives: int = 25,
    block: Literal["turn", "token"] | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Hold a dictionary's features against the labels that the turns carry: best feature, controls, baselines.

    Example: turnscope evaluate --transcripts runs/m/transcripts --activations runs/m/activations/resid.3
    --sae runs/m/saes/turn --model minilm --out runs/m/evals/planted

    Parameters
    ----------
    transcripts
        The transcripts that were harvested; their turns carry labels (labels.turn_labels in the chat file).
    activations
        The activations that the dictionary reads.
    sae
        The dictionary.
    model
        Whose tokenizer counts words for the baselines.
    out
        Folder of the evaluation.
    min_positives
        Fewest turns with, and without, a label in each split.
    block
        Of a nested dictionary: the turn block (default), or the token block, its codes pooled by maximum.
    json
        Print as JSON.
    """
    from turnscope.evaluation.config import PlantedConfig
    from turnscope.evaluation.planted import run

    config = PlantedConfig(
        transcripts=transcripts, activations=activations, sae=sae, model=model, out=out, min_positives=min_positives,
        block=block,
    )  # fmt: skip
    report = run(config).report
    if "doubt" in report:
        print(f"note: {report['doubt']}", file=sys.stderr)
    if json:
        return print_json(report)
    for row in report["traits"]:
        says = (
            f"F{row['feature']}  AUROC {row['auroc']:.3f}  shuffled {row['shuffled_auroc']:.2f}"
            if "auroc" in row
            else row["withheld"]
        )
        print(f"{row['name']:<30} {says}")
    return None
