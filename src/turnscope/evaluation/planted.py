"""Features against planted truth: for every known trait the best single feature, beside everything simpler.

The feature is chosen on one split and judged on another. Beside it stand: the same choice under shuffled labels (whole
conversations at a time), a logistic probe on raw turn means, the best single token, a bag-of-words probe, and the same
pipeline on the embedding layer and on a random-weight model. Reads labels only; no judge.

N rows (turns), F features, P permutations.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from turnscope.artifacts import Artifact, DataError, begin, fingerprint, progress, sole_writer, write_json
from turnscope.evaluation.baselines import BestToken, bag_of_words_scores, probe_scores, token_counts
from turnscope.evaluation.codes import DictionaryReader
from turnscope.evaluation.config import PlantedConfig, Trait
from turnscope.evaluation.labels import TurnTable, find_traits, pair_numbers, read_turns, trait_labels
from turnscope.evaluation.ranking import auroc_matrix, midranks, paired_wins
from turnscope.models import load_tokenizer
from turnscope.stats import Estimate, Withheld, auroc, auroc_ci, equivalence_90, permute_labels
from turnscope.transcripts.store import open_transcripts

FILE = "planted.json"
_MOST_ROWS = 20_000  # turns of `eval` judged, tokens of `eval` measured

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


class NothingToJudgeError(DataError):
    """No trait has enough labelled turns in both splits."""


@dataclass(frozen=True)
class PlantedResult:
    """A finished evaluation; `report` is the content of planted.json."""

    artifact: Artifact

    @cached_property
    def report(self) -> dict[str, Any]:
        return json.loads((self.artifact.path / FILE).read_text("utf-8"))


def run(config: PlantedConfig) -> PlantedResult:
    """Evaluate one dictionary against the labels in its transcripts.

    Raises:
        NothingToJudgeError: no trait has enough positives.
        DataError: stored turns that are not in the transcripts.
        IntegrityError: activations of another site or model than the dictionary's; `out` holds another evaluation, or
            another process writes there.
    """
    transcripts = open_transcripts(config.transcripts)
    main = DictionaryReader(config.activations, config.sae, config.pool, config.block)
    others = {
        name: DictionaryReader(*paths, config.pool, config.block)
        for name, paths in (("embedding", config.embedding), ("random_model", config.random_model))
        if paths
    }
    tokenizer = load_tokenizer(config.model)
    words = fingerprint(sorted(tokenizer.get_vocab().items()))
    inputs = {"transcripts": transcripts.fingerprint, "words": words, **main.inputs}
    for name, reader in others.items():
        inputs |= {f"{name}_{key}": value for key, value in reader.inputs.items()}
    with sole_writer(config.out):
        draft = begin(config.out, "evaluation", config, inputs)
        if isinstance(draft, Artifact):
            return PlantedResult(draft)
        turns = read_turns(transcripts, main.store)
        traits = config.traits or find_traits(turns, config.min_positives)
        evaluation = _Evaluation(config, turns, main, others, tokenizer)
        rows: list[dict[str, Any]] = []
        with progress(f"evaluating the {main.unit} SAE", len(traits), "traits") as bar:
            for trait in traits:
                rows.append(evaluation.trait(trait))
                bar.advance()
        judged = [row for row in rows if "auroc" in row]
        if not judged:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise NothingToJudgeError(
                "no trait has enough labelled turns", where=str(config.transcripts), fix="lower min_positives"
            )
        write_json(draft.path / FILE, {**main.fit(evaluation.judge, _MOST_ROWS, config.seed), "traits": rows})
        return PlantedResult(draft.commit({"traits": len(judged), "withheld": len(rows) - len(judged)}))


@dataclass(frozen=True)
class _Side:
    """One split's view of a trait: its eligible rows (as positions in the split's row list), labels and clusters."""

    at: Ints
    positive: Bools
    clusters: Ints
    pairs: Ints | None

    def value(self, scores_N: Floats) -> float:
        """AUROC of scores given for `at`; within pairs where there are pairs."""
        if self.pairs is None:
            return auroc(scores_N, self.positive)
        return float(paired_wins(scores_N[:, None], self.positive, self.pairs).mean())

    def estimate(self, scores_N: Floats, n_boot: int, seed: int) -> Estimate | Withheld:
        if self.pairs is None:
            return auroc_ci(scores_N, self.positive, self.clusters, n_boot=n_boot, seed=seed)
        wins = paired_wins(scores_N[:, None], self.positive, self.pairs)[:, 0]
        if len(wins) < 5:
            return Withheld(f"{len(wins)} whole pairs")
        if wins.std() == 0:  # every pair tied, as words do that are the same on both sides, or every pair won
            value = float(wins[0])
            return Estimate(value, value, value, len(wins), len(wins), len(wins))
        ci = bootstrap((wins,), np.mean, n_resamples=n_boot, method="percentile", rng=seed).confidence_interval
        return Estimate(float(wins.mean()), float(ci.low), float(ci.high), len(wins), len(wins), len(wins))


class _Evaluation:
    def __init__(
        self,
        config: PlantedConfig,
        turns: TurnTable,
        main: DictionaryReader,
        others: dict[str, DictionaryReader],
        tokenizer: Any,
    ) -> None:
        self.config, self.turns, self.main, self.tokenizer = config, turns, main, tokenizer
        self.choose = turns.rows(*config.choose_on)[:_MOST_ROWS]
        self.judge = turns.rows("eval")[:_MOST_ROWS]
        train = turns.rows("train")
        keep = min(len(train), config.probe_rows)
        self.fit_rows = np.sort(np.random.default_rng(config.seed).choice(train, keep, replace=False))
        self.readers = {"": main, **others}
        self.codes = {name: (r.codes_NF(self.choose), r.codes_NF(self.judge)) for name, r in self.readers.items()}
        self._ranks: dict[tuple[str, bytes], Any] = {}

    def trait(self, trait: Trait) -> dict[str, Any]:
        """One row of the report, or the reason why there is none."""
        head = {"name": trait.name, "family": trait.family}
        eligible, positive = trait_labels(self.turns, trait)
        pairs = pair_numbers(self.turns, trait)
        sides = [self._side(rows, eligible, positive, pairs) for rows in (self.fit_rows, self.choose, self.judge)]
        fit, choose, judge = sides
        fewest = min(int(s.positive.sum()) for s in (choose, judge))
        fewest = min(fewest, *(int((~s.positive).sum()) for s in (choose, judge)))
        if fewest < self.config.min_positives or len(np.unique(fit.positive)) < 2:
            return head | {
                "withheld": f"{fewest} positive or negative turns in a split, {self.config.min_positives} needed"
            }
        row: dict[str, Any] = head
        for name, (choose_NF, judge_NF) in self.codes.items():
            feature = self._best(choose, choose_NF)
            scores = judge_NF[judge.at, feature]
            if name:
                row[f"{name}_auroc"] = judge.value(scores)
            else:
                row |= {"feature": feature, **self._estimate("", judge, scores)}
                row |= self._shuffled(choose, judge, trait)
                row["examples"] = self._examples(judge_NF[:, feature], eligible, positive)
        row |= self._baselines(fit, judge)
        return row | {"positives": int(judge.positive.sum()), "eligible": len(judge.at)}

    def _side(self, rows_N: Ints, eligible: Bools, positive: Bools, pairs: Ints | None) -> _Side:
        at = np.flatnonzero(eligible[rows_N])
        rows = rows_N[at]
        return _Side(at, positive[rows], self.turns.clusters[rows], None if pairs is None else pairs[rows])

    def _best(self, side: _Side, codes_NF: Floats) -> int:
        """The feature whose firing goes best with the trait."""
        if side.pairs is not None:
            return int(paired_wins(codes_NF[side.at], side.positive, side.pairs).mean(0).argmax())
        return int(auroc_matrix(self._ranked(side, codes_NF), side.positive[:, None])[:, 0].argmax())

    def _ranked(self, side: _Side, codes_NF: Floats) -> Floats:
        """Midranks among the eligible rows; traits with the same eligible rows share them."""
        key = (str(id(codes_NF)), side.at.tobytes())
        if key not in self._ranks:
            self._ranks[key] = midranks(codes_NF[side.at])
        return self._ranks[key]

    def _estimate(self, prefix: str, judge: _Side, scores_N: Floats) -> dict[str, Any]:
        found = judge.estimate(scores_N, self.config.n_boot, self.config.seed)
        if isinstance(found, Withheld):
            return {f"{prefix}auroc": judge.value(scores_N), f"{prefix}ci": None, f"{prefix}ci_withheld": found.reason}
        return {f"{prefix}auroc": found.value, f"{prefix}ci": list(found.ci)}

    def _shuffled(self, choose: _Side, judge: _Side, trait: Trait) -> dict[str, Any]:
        """Choosing and judging once more under labels of other conversations (or of the pair's other side)."""
        rng = np.random.default_rng([self.config.seed, *trait.name.encode()])
        choose_NF, judge_NF = self.codes[""]
        if choose.pairs is not None and judge.pairs is not None:
            choose_PF = paired_wins(choose_NF[choose.at], choose.positive, choose.pairs)
            judge_PF = paired_wins(judge_NF[judge.at], judge.positive, judge.pairs)
            values = [self._flipped(choose_PF, judge_PF, rng) for _ in range(self.config.permutations)]
        else:
            shuffled = [
                np.stack([_permute(s, rng) for _ in range(self.config.permutations)], axis=1) for s in (choose, judge)
            ]
            best_P = auroc_matrix(self._ranked(choose, choose_NF), shuffled[0]).argmax(0)
            ranks_NP = self._ranked(judge, judge_NF)[:, best_P]
            values = auroc_matrix(ranks_NP, shuffled[1]).diagonal().tolist()
        pooled = equivalence_90(values)
        return {
            "shuffled_auroc": pooled.value, "shuffled_ci": [pooled.low, pooled.high], "shuffled_holds": pooled.holds,
            "shuffled_values": [round(float(v), 4) for v in values],
        }  # fmt: skip

    @staticmethod
    def _flipped(choose_PF: Floats, judge_PF: Floats, rng: np.random.Generator) -> float:
        flip = [rng.integers(0, 2, (len(wins), 1)) for wins in (choose_PF, judge_PF)]
        best = np.abs(flip[0] - choose_PF).mean(0).argmax()
        return float(np.abs(flip[1] - judge_PF)[:, best].mean())

    @cached_property
    def _words(self) -> tuple[Any, Any]:
        fit, judge = ([self.turns.texts[r] for r in rows] for rows in (self.fit_rows, self.judge))
        return token_counts(self.tokenizer, fit), token_counts(self.tokenizer, judge)

    @cached_property
    def _means(self) -> tuple[Floats, Floats]:
        return self.main.store.mean_ND(self.fit_rows), self.main.store.mean_ND(self.judge)

    def _baselines(self, fit: _Side, judge: _Side) -> dict[str, Any]:
        fit_V, judge_V = self._words
        fit_D, judge_D = self._means
        key = ("words", fit.at.tobytes())
        if key not in self._ranks:
            self._ranks[key] = BestToken(fit_V[fit.at], judge_V[judge.at])
        unigram, token = self._ranks[key].scores(fit.positive)
        words = bag_of_words_scores(fit_V[fit.at], fit.positive, judge_V[judge.at])
        probe = probe_scores(fit_D[fit.at], fit.positive, judge_D[judge.at])
        return {
            **self._estimate("probe_", judge, probe),
            **self._estimate("bow_", judge, words),
            "unigram_auroc": judge.value(unigram),
            "unigram_token": token,
        }

    def _examples(self, scores_N: Floats, eligible: Bools, positive: Bools) -> list[dict[str, Any]]:
        """The turns of `eval` on which the feature is strongest, no text twice, eligible for the trait or not."""
        columns = self.main.store.turns.select(["conversation_id", "turn", "role"])
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        for at in np.argsort(-scores_N, kind="stable")[:500].tolist():
            row = int(self.judge[at])
            text = self.turns.texts[row]
            if len(found) == self.config.examples or scores_N[at] <= 0:
                break
            if text in seen:
                continue
            seen.add(text)
            where = {name: columns.column(name)[row].as_py() for name in columns.column_names}
            has = bool(positive[row]) if eligible[row] else None
            found.append({**where, "activation": float(scores_N[at]), "has_trait": has, "text": text[:400]})
        return found


def _permute(side: _Side, rng: np.random.Generator) -> Bools:
    for _ in range(100):
        labels = permute_labels(side.positive, side.clusters, rng)
        if labels.any() and not labels.all():
            return labels
    raise DataError("labels cannot be permuted: too few conversations have the trait")


def families_reached(traits: Sequence[dict[str, Any]], least: float = 0.9) -> dict[str, tuple[int, int]]:
    """For each family: (traits whose AUROC is at least `least`, traits)."""
    families: dict[str, tuple[int, int]] = {}
    for row in traits:
        reached, n = families.get(row["family"], (0, 0))
        families[row["family"]] = (reached + (row.get("auroc", 0.0) >= least), n + 1)
    return families


def load_report(path: Path) -> dict[str, Any]:
    """planted.json of a finished evaluation."""
    return PlantedResult(Artifact.open(path, "evaluation")).report
