"""The embedded default: a corpus of known truth, a model trained on it, the recipe that holds one against the other."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from turnscope.artifacts import Config, ModelError
from turnscope.demo.bank import GRAMMAR_VERSION
from turnscope.demo.corpus import TRAITS, conversations
from turnscope.pipeline import PipelineResult, Recipe, SAERecipe
from turnscope.pipeline import run as run_recipe

MODEL = Path(__file__).parent / "model"


class DemoConfig(Config):
    """How large the demo is. The default takes under four minutes on two cores."""

    out: Path = Path("runs/demo")
    conversations: int = Field(default=3000, ge=1)
    pairs: int = Field(default=1000, ge=0)
    seed: int = 5
    token_sae: bool = True
    model: Path = MODEL


def recipe(config: DemoConfig) -> Recipe:
    """The demo as a recipe of the pipeline."""
    # chosen on a corpus of another seed (docs/design/demo.md); the token dictionary takes what the data suggest
    turn = SAERecipe(unit="turn", n_features=384, k=24, lr=4e-3, n_samples=1_500_000, clip_norm=1.0)
    token = SAERecipe(unit="token", n_samples=1_500_000)
    units = (turn, token) if config.token_sae else (turn,)
    return Recipe(
        model=str(config.model),
        saes=units,
        tokens=24,
        controls=True,
        traits=TRAITS,
        choose_on=("explain",),
        seed=config.seed,
    )


def run(config: DemoConfig) -> PipelineResult:
    """Write the corpus, run the recipe. Raises ModelError when the shipped model belongs to another grammar."""
    made_for = model_facts(config.model)["grammar_version"]
    if made_for != GRAMMAR_VERSION:
        raise ModelError(
            f"the demo model was trained on grammar {made_for}, this is grammar {GRAMMAR_VERSION}",
            where=str(config.model), fix="turnscope demo train-model",
        )  # fmt: skip
    origin = {"grammar": f"{GRAMMAR_VERSION}/{config.seed}/{config.conversations}/{config.pairs}"}
    corpus = conversations(config.seed, config.conversations, config.pairs)
    return run_recipe(recipe(config), config.out, corpus, origin)


def model_facts(model: Path = MODEL) -> dict[str, object]:
    """What `demo.json` in the model's folder says: grammar version, corpus seed, training settings."""
    try:
        return json.loads((model / "demo.json").read_text("utf-8"))
    except OSError as error:
        raise ModelError("the demo model is missing", where=str(model), fix="turnscope demo train-model") from error
