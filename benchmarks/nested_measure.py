"""What the comparison of nested dictionaries measures, on turns that no form was trained on.

Legend: N turns, T tokens of all, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from nested_forms import Dense, means, turn_of
from numpy.typing import NDArray
from torch import Tensor

from turnscope.demo.corpus import TRAITS, conversations
from turnscope.demo.demo import MODEL
from turnscope.evaluation.labels import read_turns, trait_labels
from turnscope.evaluation.ranking import auroc_matrix, midranks
from turnscope.harvest import harvest
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.harvest.turn_tokens import TurnTokens, spread
from turnscope.sae import SparseAutoencoder
from turnscope.sae.nested import NestedSAE
from turnscope.training.step import Tensors
from turnscope.transcripts import import_
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.store import open_transcripts

CORPUS_SEED = 9  # the demo reports 5, its settings were chosen on 8
FEWEST = 25
BLOCK, PUSHED_TURNS, PUSHED_FEATURES = 128, 48, 16
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """Harvested turns, and the demo's traits on two splits: features are chosen on one and judged on the other."""

    store: ActivationStore
    split_N: NDArray[np.str_]
    choose: TurnTokens
    judge: TurnTokens
    traits: list[tuple[str, tuple[Any, Any], tuple[Any, Any]]]

    @property
    def n_train(self) -> int:
        return int((self.split_N == "train").sum())

    def windows(self, split: str) -> Floats:
        """Means of runs of tokens as long as the mean turn, whatever turns they lie in."""
        turns = np.flatnonzero(self.split_N == split)
        tokens_TD = turns_of(self.store, turns).tokens_TD
        size = round(self.store.n_tokens_stored / len(self.store))
        whole = len(tokens_TD) // size
        return tokens_TD[: whole * size].reshape(whole, size, -1).mean(1)


class Reading(NamedTuple):
    """Codes and raw reconstructions of some turns; None where a form has none."""

    turn_NF: Tensor
    turn_hat_ND: Tensor
    token_hat_TD: Tensor | None
    own_TF: Tensor | None
    """Token codes, without the turn's."""


class Reader(Protocol):
    """A trained form."""

    def read(self, part: TurnTokens) -> Reading:
        """Codes and reconstructions."""
        ...

    def direction(self, feature: int) -> Tensor:
        """A turn feature's direction (D,) in raw units, for an activation of 1."""
        ...


class ReadNested:
    """A nested dictionary of the product."""

    def __init__(self, sae: NestedSAE) -> None:
        self.sae = sae

    def read(self, part: TurnTokens) -> Reading:
        codes = self.sae.encode(part.tokens_TD, part.lengths_B, part.mean_BD)
        hats = self.sae.decode_turns(codes), self.sae.decode_tokens(codes)
        return Reading(codes.turn.to_dense(), *hats, codes.token.to_dense())

    def direction(self, feature: int) -> Tensor:
        return self.sae.turn.w_dec_FD[feature] / self.sae.turn.scale


class ReadDense:
    """A form of `nested_forms`."""

    def __init__(self, form: Dense, weights: Tensors, scale: float) -> None:
        self.form, self.weights, self.scale = form, weights, scale

    @torch.no_grad()
    def read(self, part: TurnTokens) -> Reading:
        found = self.form.find(self.weights, self.form.scaled(part, self.scale))
        return Reading(found.turn_BM, found.turn_hat_BD / self.scale, found.token_hat_TD / self.scale, found.token_TP)

    def direction(self, feature: int) -> Tensor:
        return self.weights["turn.w_dec_FD"][feature] / self.scale


class ReadTurn:
    """A flat dictionary of turn means."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae

    def read(self, part: TurnTokens) -> Reading:
        codes = self.sae.encode(part.mean_BD)
        return Reading(codes.to_dense(), self.sae.decode(codes), None, None)

    def direction(self, feature: int) -> Tensor:
        return self.sae.w_dec_FD[feature] / self.sae.scale


class ReadToken:
    """A flat dictionary of tokens: a turn's code is the maximum of its tokens', its mean the mean of what they give."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae

    def read(self, part: TurnTokens) -> Reading:
        codes = self.sae.encode(part.tokens_TD)
        dense_TF, hat_TD = codes.to_dense(), self.sae.decode(codes)
        lengths_N = torch.from_numpy(part.lengths_B)
        turn_NF = torch.segment_reduce(dense_TF, "max", lengths=lengths_N, axis=0, unsafe=True)
        return Reading(turn_NF, means(hat_TD, lengths_N), hat_TD, dense_TF)

    def direction(self, feature: int) -> Tensor:
        return self.sae.w_dec_FD[feature] / self.sae.scale


def open_world(work: Path, count: int, site: str) -> World:
    """Conversations of the demo's grammar and all their tokens at a site of its model; made, or found in `work`."""
    transcripts = work / "transcripts"
    import_.import_conversations(
        conversations(CORPUS_SEED, count, 0), transcripts, ImportConfig(out=transcripts, near_duplicates=None)
    )
    made = harvest.run(
        HarvestConfig(transcripts=transcripts, model=str(MODEL), sites=(site,), out=work / "activations", tokens="all")
    )
    store = open_activations(made.activations[site].path)
    table = read_turns(open_transcripts(transcripts), store)
    choose, judge = table.rows("explain"), table.rows("eval")
    traits: list[tuple[str, tuple[Any, Any], tuple[Any, Any]]] = []
    for trait in TRAITS:
        eligible, positive = trait_labels(table, trait)
        sides = [(np.flatnonzero(eligible[rows]), positive[rows][eligible[rows]]) for rows in (choose, judge)]
        if min(min(labels.sum(), (~labels).sum()) for _, labels in sides) >= FEWEST:
            traits.append((trait.name, sides[0], sides[1]))
    return World(store, table.split, turns_of(store, choose), turns_of(store, judge), traits)


def turns_of(store: ActivationStore, turns: NDArray[np.int64]) -> TurnTokens:
    """These turns with all their tokens."""
    offsets = store.token_offsets
    lengths = np.diff(offsets)
    tokens_TD = store.tokens_TD(spread(offsets[:-1], lengths, turns))
    return TurnTokens(store.mean_ND(turns), tokens_TD, lengths[turns])


def measure(reader: Reader, world: World) -> dict[str, Any]:
    """The rule's four measures, the ceiling, and what else the table shows."""
    chosen_NF = torch.cat([reader.read(part).turn_NF for part in blocks(world.choose)])
    fit, judged_NF = reconstruction(reader, world.judge)
    recovered = planted(chosen_NF.numpy(), judged_NF.numpy(), world.traits)
    return {
        **fit,
        "half_nmse": half_nmse(reader, world.judge),
        "planted": float(np.mean(list(recovered.values()))),
        "traits": recovered,
        "response": response(reader, world.judge[:PUSHED_TURNS], chosen_NF),
        "turn_l0": float((judged_NF > 0).sum(1).float().mean()),
        "turn_silent": int((judged_NF > 0).sum(0).eq(0).sum()),
        "judged_turns": len(world.judge),
    }


def blocks(turns: TurnTokens) -> list[TurnTokens]:
    """The turns, some at a time."""
    return [turns[at : at + BLOCK] for at in range(0, len(turns), BLOCK)]


def reconstruction(reader: Reader, judge: TurnTokens) -> tuple[dict[str, float], Tensor]:
    """Centred nMSE of means and tokens; what turn codes alone explain of tokens, and its ceiling."""
    mean_D, token_mean_D = judge.mean_BD.mean(0, dtype=np.float64), judge.tokens_TD.mean(0, dtype=np.float64)
    turn_error = token_error = alone_error = entries = 0.0
    between = float((judge.lengths_B * ((judge.mean_BD - token_mean_D) ** 2).sum(1)).sum())
    codes: list[Tensor] = []
    has_tokens = True
    for part in blocks(judge):
        found = reader.read(part)
        turn_miss_ND = found.turn_hat_ND.numpy() - part.mean_BD
        turn_error += float((turn_miss_ND**2).sum())
        turn_T = turn_of(torch.from_numpy(part.lengths_B)).numpy()
        alone_error += float(((found.turn_hat_ND.numpy()[turn_T] - part.tokens_TD) ** 2).sum())
        if found.token_hat_TD is None or found.own_TF is None:
            has_tokens = False
        else:
            token_error += float(((found.token_hat_TD.numpy() - part.tokens_TD) ** 2).sum())
            entries += float((found.own_TF > 0).sum())
        codes.append(found.turn_NF)
    spread_of_tokens = float(((judge.tokens_TD - token_mean_D) ** 2).sum())
    nan, n_tokens = float("nan"), len(judge.tokens_TD)
    return {
        "turn_nmse": turn_error / float(((judge.mean_BD - mean_D) ** 2).sum()),
        "token_nmse": token_error / spread_of_tokens if has_tokens else nan,
        "token_l0": entries / n_tokens if has_tokens else nan,
        "turn_alone": 1 - alone_error / spread_of_tokens,
        "between_share": between / spread_of_tokens,
    }, torch.cat(codes)


def half_nmse(reader: Reader, judge: TurnTokens) -> float:
    """Centred nMSE of the means of the first halves of turns, as the turn block rebuilds them from those halves."""
    lengths = (judge.lengths_B + 1) // 2
    firsts = np.cumsum(judge.lengths_B) - judge.lengths_B
    tokens_TD = judge.tokens_TD[np.repeat(firsts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())]
    mean_ND = means(torch.from_numpy(tokens_TD), torch.from_numpy(lengths)).numpy()
    halves = TurnTokens(mean_ND, tokens_TD, lengths)
    error = sum(float(((reader.read(part).turn_hat_ND.numpy() - part.mean_BD) ** 2).sum()) for part in blocks(halves))
    return error / float(((mean_ND - mean_ND.mean(0, dtype=np.float64)) ** 2).sum())


def planted(choose_NF: Floats, judge_NF: Floats, traits: Any) -> dict[str, float]:
    """AUROC on `judge` of the feature that was best on `choose`, for each trait."""
    found: dict[str, float] = {}
    for name, (choose_at, choose_labels), (judge_at, judge_labels) in traits:
        best = int(auroc_matrix(midranks(choose_NF[choose_at]), choose_labels[:, None])[:, 0].argmax())
        ranks_N1 = midranks(judge_NF[judge_at, best][:, None])
        found[name] = float(auroc_matrix(ranks_N1, judge_labels[:, None])[0, 0])
    return found


def response(reader: Reader, turns: TurnTokens, codes_NF: Tensor) -> float:
    """1 - cosine of tokens' codes before and after a turn feature is added to every token of their turn."""
    before_TF = reader.read(turns).own_TF
    if before_TF is None:
        return float("nan")
    fired = (codes_NF > 0).sum(0)
    used = (fired >= FEWEST).nonzero().squeeze(1)
    picked = used[:: max(1, len(used) // PUSHED_FEATURES)][:PUSHED_FEATURES].tolist()
    changes: list[float] = []
    for feature in picked:
        typical = float(codes_NF[:, feature].sum() / fired[feature])
        push_D = (typical * reader.direction(feature)).numpy()
        pushed = TurnTokens(turns.mean_BD + push_D, turns.tokens_TD + push_D, turns.lengths_B)
        after_TF = reader.read(pushed).own_TF
        assert after_TF is not None
        cosine_T = torch.cosine_similarity(before_TF, after_TF, dim=1)
        silent_T = (before_TF == 0).all(1) & (after_TF == 0).all(1)
        changes.append(float((1 - cosine_T.masked_fill(silent_T, 1.0)).mean()))
    return float(np.mean(changes)) if changes else float("nan")
