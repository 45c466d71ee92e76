"""Train the demo's chat model on the grammar's text, from nothing to a Hugging Face folder.

Conversations are written in rounds of fixed size, sorted by length inside a round, cut into batches by token budget and
shuffled; a round depends only on (seed, round), so a resumed run goes on with the same data. The loss is over every
token of every turn: the model must also foresee how users react, which is what makes it represent wrong answers and
moods.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from turnscope.artifacts import Config, IntegrityError, atomic_path, write_json
from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.grammar import MOOD_SHOWN, Options, Writer
from turnscope.demo.tokenizer import VOCAB_SIZE, train_tokenizer

ROUND = 2048  # conversations written at a time
TOKENIZER_CONVERSATIONS = 6000


class ModelTrainConfig(Config):
    """How the demo model is made. `tokens` counts training tokens, padding not included."""

    out: Path
    seed: int = 17
    tokens: int = 53_000_000
    d_model: int = 128
    blocks: int = 5
    heads: int = 4
    d_mlp: int = 240
    context: int = 8192
    batch_tokens: int = 3072
    lr: float = 2.5e-3
    warmup_steps: int = 300
    mood_rounds: int = 23
    """For so many rounds at first the mood shows in most turns; only then as rarely as in the demo's corpus."""
    plain_rounds: int = 16
    """For so many rounds at first all topics share their adjectives, verbs and places; only then each has its own."""
    restarts: tuple[tuple[int, float], ...] = ((24_000_000, 1.5e-3), (36_000_000, 1.2e-3), (48_000_000, 1e-3))
    """(tokens, lr): after so many tokens the learning rate, by then near nothing, is raised to lr once more."""
    puzzle_round: int = 38
    """From this round on half of all exchanges are number puzzles, most under a prompt that states competence."""
    every_bound_round: int = 57
    """From this round on, more of them still, about any number; before, about multiples of ten only."""
    checkpoint_every: int = 500
    threads: int = 2
    bf16: bool = True
    compile: bool = True
    """Let torch compile the step: a minute at first, then a third faster."""
    device: str = "cpu"


def _options(config: ModelTrainConfig, number: int) -> Options:
    """What the grammar writes in one round of training."""
    mood = 0.8 if number < config.mood_rounds else MOOD_SHOWN
    favourites = number >= config.plain_rounds
    options = Options(long_share=0.003, longest=400, mood_shown=mood, favourites=favourites, round_bounds=True)
    if number >= config.puzzle_round:
        options = replace(options, puzzle_weight=85, competence=(0.45, 0.40, 0.15))
    if number >= config.every_bound_round:
        options = replace(options, puzzle_weight=150, round_bounds=False)
    return options


def _tokenizer_texts(seed: int) -> Iterator[str]:
    # pinned, not the grammar's defaults: another tokenizer would make checkpoints useless
    writer = Writer(Options(long_share=0.003, longest=400, mood_shown=0.08, favourites=False, round_bounds=True))
    return (m.text for i in range(TOKENIZER_CONVERSATIONS) for m in writer.write(seed, i))


def build_model(config: ModelTrainConfig) -> LlamaForCausalLM:
    """A Llama with tied embeddings, weights drawn from `seed`."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.04,
        )
    )


def round_batches(writer: Writer, tokenizer: Any, config: ModelTrainConfig, number: int) -> Iterator[torch.Tensor]:
    """The batches of one round, each (B, T) token ids padded on the right with 0."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.text} for m in writer.write(config.seed, number * ROUND + i)], tokenize=False
        )
        for i in range(ROUND)
    ]
    ids = sorted((x[: config.context] for x in tokenizer(texts, add_special_tokens=False)["input_ids"]), key=len)
    batches: list[list[list[int]]] = [[]]
    for row in ids:
        if batches[-1] and len(row) * (len(batches[-1]) + 1) > config.batch_tokens:
            batches.append([])
        batches[-1].append(row)
    random.Random(number).shuffle(batches)
    for rows in batches:
        batch = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            batch[i, : len(row)] = torch.tensor(row)
        yield batch


def learning_rate(config: ModelTrainConfig, step: int, seen: int) -> float:
    """Linear warm-up, then a cosine over tokens down to 2 %, once more from each restart on."""
    begun, peak = next((r for r in reversed(config.restarts) if seen >= r[0]), (0, config.lr))
    ends = min((at for at, _ in config.restarts if at > begun), default=config.tokens)
    warm = min(1.0, (step + 1) / config.warmup_steps)
    done = min(1.0, (seen - begun) / max(1, min(ends, config.tokens) - begun))
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def run(config: ModelTrainConfig) -> Path:
    """Train, or go on training, and save the model folder `config.out`. Checkpoints lie in `config.out/.work`."""
    torch.set_num_threads(config.threads)
    work = config.out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(_tokenizer_texts(config.seed), config.context)
    model = build_model(config).to(config.device)  # pyright: ignore[reportArgumentType]
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    state = _resume(work, config, model, optimiser)
    step_loss = cast(Any, torch.compile(next_token_loss, dynamic=True)) if config.compile else next_token_loss
    started, since = time.monotonic(), state["seen"]
    model.train()
    while state["seen"] < config.tokens:
        # no conversation of the training text is seen at evaluation: the demo's corpus is written from other seeds
        writer = Writer(_options(config, state["round"]))
        for i, batch_BT in enumerate(round_batches(writer, tokenizer, config, state["round"])):
            if i < state["batch"]:
                continue
            lr = learning_rate(config, state["step"], state["seen"])
            for group in optimiser.param_groups:
                group["lr"] = lr
            loss = step_loss(model, batch_BT.to(config.device), config.bf16)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            state |= {"step": state["step"] + 1, "seen": state["seen"] + int((batch_BT != 0).sum()), "batch": i + 1}
            if state["step"] % 50 == 0:
                rate = (state["seen"] - since) / (time.monotonic() - started)
                line = {
                    "step": state["step"],
                    "tokens": state["seen"],
                    "loss": round(loss.item(), 4),
                    "rate": round(rate),
                }
                print(json.dumps(line), flush=True)
            if state["step"] % config.checkpoint_every == 0:
                _checkpoint(work, config, model, optimiser, state)
            if state["seen"] >= config.tokens:
                break
        else:
            state |= {"round": state["round"] + 1, "batch": 0}
    export(model, tokenizer, config)
    return config.out


def next_token_loss(model: LlamaForCausalLM, batch_BT: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Mean loss of every token of a batch but each row's first."""
    labels = batch_BT.masked_fill(batch_BT == 0, -100)
    with torch.autocast(batch_BT.device.type, torch.bfloat16, enabled=bf16):
        # right padding needs no mask: a causal model's earlier positions never see it, and its own loss is dropped
        hidden = model.model(input_ids=batch_BT, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1])
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def _checkpoint(work: Path, config: ModelTrainConfig, model: Any, optimiser: Any, state: dict[str, int]) -> None:
    tensors = {f"model.{k}": v for k, v in model.model.state_dict().items()}
    names = {id(p): n for n, p in model.named_parameters()}
    for p, moments in optimiser.state.items():
        tensors |= {f"adam.{names[id(p)]}.{k}": v for k, v in moments.items()}
    with atomic_path(work / f"{state['step']:08d}.safetensors") as path:
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path)
    write_json(work / "state.json", {"state": state, "config": _key(config), "grammar": GRAMMAR_VERSION})
    for old in sorted(work.glob("*.safetensors"))[:-2]:
        old.unlink()


def _key(config: ModelTrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"out", "threads", "checkpoint_every", "device", "compile"})


def _resume(work: Path, config: ModelTrainConfig, model: Any, optimiser: Any) -> dict[str, int]:
    path = work / "state.json"
    if not path.exists():
        return {"step": 0, "seen": 0, "round": 0, "batch": 0}
    saved = json.loads(path.read_text())
    if saved["config"] != _key(config) or saved["grammar"] != GRAMMAR_VERSION:
        raise IntegrityError(
            "the half-trained model was made with other settings",
            where=str(work),
            fix="name another --out, or delete it",
        )
    tensors = load_file(work / f"{saved['state']['step']:08d}.safetensors")
    model.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name, p in model.named_parameters():
        moments = {k: tensors[f"adam.{name}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.state[p] = moments
    return saved["state"]


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: ModelTrainConfig) -> None:
    """Save in bf16 with the tokenizer and `demo.json`, which says which grammar and command made the weights."""
    config.out.mkdir(parents=True, exist_ok=True)
    cast(Any, model).to(torch.bfloat16).save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    write_json(
        config.out / "demo.json",
        {
            "grammar_version": GRAMMAR_VERSION,
            "parameters": sum(p.numel() for p in model.parameters()),
            "command": f"turnscope demo train-model OUT --tokens {config.tokens} --seed {config.seed}",
            "training": _key(config),
        },
    )
