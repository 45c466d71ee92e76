"""New conversations under the dictionary of an index: read as the index's own were, by the same model, and encoded.

Nothing is stored. Model and dictionary are found in the run folder by their fingerprints, or named. Imports torch.

Legend: N turns read, D width, T their tokens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import Artifact, ConfigError, DataError, IntegrityError, TurnscopeError
from turnscope.features.again import encode_shard
from turnscope.features.encode import Csr, Dictionary, Pool
from turnscope.features.find import Codes
from turnscope.features.postings import sink_norm
from turnscope.features.store import FeatureIndex
from turnscope.harvest.again import require_inputs, settings_again
from turnscope.harvest.harvest import open_subject, record
from turnscope.harvest.prepare import TurnRow, prepare
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.harvest.write import compute, stored_values
from turnscope.models.site import Site
from turnscope.transcripts.conversation import Conversation


class Fresh(NamedTuple):
    """Codes of the turns that were read: turn i is turn `turns[i].turn` of conversation `conversation_N[i]`."""

    codes: Codes
    turns: list[TurnRow]
    conversation_N: NDArray[np.int64]


class FreshReader:
    """Reads conversations as those of an index were read.

    Args:
        index: whose dictionary, and whose way of reading.
        activations: those that it was made of; found in its run folder when not given.
        sae: its dictionary; likewise.
        model: the model that was harvested; when not given, as its activations or the run folder name it.
        device: of the model.

    Raises ConfigError when one of them is not found, IntegrityError when one is another, ModelError.
    """

    def __init__(
        self, index: FeatureIndex, *, activations: Path | None = None, sae: Path | None = None,
        model: str | None = None, device: str = "cpu", trust_remote_code: bool = False,
    ) -> None:  # fmt: skip
        self.index = index
        self.store = open_activations(activations or _beside(index, "activations", "--activations"))
        _require(index, "activations", self.store.artifact)
        self.dictionary = Dictionary(sae or _beside(index, "sae", "--sae"))
        _require(index, "sae", self.dictionary.artifact)
        model = model or _model_of(index, self.store)
        config = settings_again(
            self.store.artifact, self.store.artifact.path, model, device=device, trust_remote_code=trust_remote_code
        )
        of_turns = self.dictionary.unit == "turn"
        self.config = config.model_copy(update={"tokens": "none"}) if of_turns else config
        self.subject, self._renderer = open_subject(self.config)
        self.site = Site.parse(config.sites[0])
        _, inputs = record(config, self.site, self.subject, self._renderer.choice, "")
        require_inputs(self.store.artifact, {name: inputs[name] for name in ("model", "tokenizer", "template")})
        self._most_norm = 0.0 if of_turns else self._norm_of_sinks()

    def read(self, conversations: Sequence[Conversation]) -> Fresh:
        """Codes of their turns, of the roles that the index has. Raises DataError when no turn can be read."""
        numbers = {f"{i}": i for i in range(len(conversations))}
        named = [_renamed(conversation, str(i)) for i, conversation in enumerate(conversations)]
        shard = prepare(0, named, self._renderer, self.subject, self.config)
        if not shard.turns:
            dropped = ", ".join(f"{name} {n}" for name, n in sorted(shard.counts.items()) if name.startswith("dropped"))
            raise DataError(
                f"no turn can be read: {dropped or 'there are none'}" + (f": {shard.refusal}" * bool(shard.refusal)),
                fix=f"give turns of the roles {', '.join(self.config.roles)}, with words in them",
            )
        made = compute(shard, self.subject, self.config, [self.site])[self.site]
        mean_ND = stored_values(shard, made, self.config.dtype)
        if not np.isfinite(mean_ND).all():
            raise DataError("the model gives values that are not finite", fix="use float32 (model_dtype)")
        pool = cast("Pool", self.index.facts.get("pool", "max"))
        block = encode_shard(self.dictionary, shard, made, mean_ND, self._most_norm, pool)
        where = np.asarray([numbers[turn.conversation_id] for turn in shard.turns], np.int64)
        return Fresh(_codes(block.turns), shard.turns, where)

    def _norm_of_sinks(self) -> float:
        """As the index has it."""
        rows_N, offsets = self.index.turns["activation_row"].to_numpy(), self.store.token_offsets
        times = float(cast(Any, self.index.artifact.manifest.config)["outlier_norm"])
        return sink_norm(self.store, offsets[rows_N], offsets[rows_N + 1] - offsets[rows_N], times)


def _renamed(conversation: Conversation, name: str) -> Conversation:
    from dataclasses import replace

    return replace(conversation, id=name)


def _codes(rows: Csr) -> Codes:
    ptr = np.concatenate([[0], np.cumsum(rows.counts)]).astype(np.int64)
    return Codes(ptr, rows.features_E.astype(np.int64), rows.values_E.astype(np.float32))


def _beside(index: FeatureIndex, kind: str, flag: str) -> Path:
    """The artifact of the run folder that the index was made of."""
    wanted = index.artifact.manifest.inputs.get(kind, "")
    folder = index.artifact.path.resolve().parents[1] / {"sae": "saes", "activations": "activations"}[kind]
    for manifest in sorted(folder.glob("*/manifest.json")):
        try:
            found = Artifact.open(manifest.parent, kind)
        except TurnscopeError:
            continue
        if found.fingerprint == wanted:
            return manifest.parent
    raise ConfigError(
        f"the {kind} that the index was made of is not in {folder}", where=str(index.artifact.path),
        fix=f"name it with {flag}",
    )  # fmt: skip


def _require(index: FeatureIndex, kind: str, found: Artifact) -> None:
    wanted = index.artifact.manifest.inputs.get(kind, "")
    if found.fingerprint != wanted:
        raise IntegrityError(
            f"the index was made of another {kind}: {wanted}, this is {found.fingerprint}", where=str(found.path),
            fix="name the one that it was made of",
        )  # fmt: skip


def _model_of(index: FeatureIndex, store: ActivationStore) -> str:
    """The model's name, where it still says where the model is."""
    name = str(cast(Any, store.artifact.manifest.config)["model"])
    if name == "minilm" or "/" in name:
        return name
    recipe = index.artifact.path.resolve().parents[1] / "run.toml"
    try:
        found = str(tomllib.loads(recipe.read_text("utf-8")).get("model", ""))
    except (OSError, ValueError):
        found = ""
    if not found:
        raise ConfigError(
            f"where the model {name!r} is, nothing says", where=str(index.artifact.path), fix="name it with --model"
        )
    return found
