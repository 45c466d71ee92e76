"""`turnscope persona`: which features rise when a model is asked to show a trait, on prompts and questions not used to
choose them.

Contrastive system prompts x questions -> rollouts of the subject -> judged -> turn means -> codes -> features ranked on
one half of prompts and questions, judged on the other -> beside the mean-difference persona vector and other readers.

Legend: N rollouts, F features, D model width, K features judged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from turnscope.artifacts import (
    Artifact,
    ConfigError,
    DataError,
    Draft,
    atomic_path,
    begin,
    fingerprint,
    sole_writer,
    write_json,
)
from turnscope.audit import persona_figures as figures
from turnscope.audit.baselines import fit_mean_difference, fit_ridge, fit_sparse_probe, fit_words
from turnscope.audit.config import PersonaConfig
from turnscope.audit.persona_figures import Part
from turnscope.audit.rollouts import BARE, Rollout, conversation, judged, keep, name_of, plan, write_rollouts
from turnscope.audit.trait import Trait, load_trait
from turnscope.stats import Estimate, Withheld
from turnscope.transcripts.templates import choose_template

if TYPE_CHECKING:
    from turnscope.features.encode import Dictionary
    from turnscope.harvest.store import ActivationStore
    from turnscope.transcripts.labeller import Labeller

KIND = "persona"
FILE, FEATURES, TRANSCRIPTS, TRAIT = "persona.json", "features.parquet", "transcripts", "trait.json"
_EXAMPLES = 3


@dataclass(frozen=True)
class Reading:
    """Means and codes of the same rollouts, with their system prompt in view or without it."""

    rows: dict[str, int]
    mean_ND: NDArray[np.float32]
    codes_NF: Any

    def part(self, rollouts: Sequence[Rollout], half: str, *, bare: bool = False) -> tuple[Part, NDArray[np.float32]]:
        """One half: codes, sides and questions, and the means."""
        own = [r for r in rollouts if r.half == half and r.id + BARE * bare in self.rows]
        at = np.array([self.rows[r.id + BARE * bare] for r in own], np.int64)
        positive = np.array([r.positive for r in own], np.bool_)
        questions = np.array([r.question for r in own], np.int64)
        return Part(self.codes_NF[at], positive, questions), self.mean_ND[at]


@dataclass(frozen=True)
class PersonaResult:
    """A finished run; `report` is the content of persona.json."""

    artifact: Artifact

    @cached_property
    def report(self) -> dict[str, Any]:
        """Counts, split, judge, features, the persona vector and the other readers."""
        return json.loads((self.artifact.path / FILE).read_text("utf-8"))

    @cached_property
    def features(self) -> pa.Table:
        """One row for each feature of the dictionary; see docs/personas.md for the columns."""
        return pq.ParquetFile(self.artifact.path / FEATURES).read()

    @property
    def transcripts(self) -> Path:
        """The rollouts, a transcripts artifact."""
        return self.artifact.path / TRANSCRIPTS


def run(
    config: PersonaConfig,
    judge: Labeller | None = None,
    *,
    trait: Trait | None = None,
    judge_label: tuple[str, str] | None = None,
) -> PersonaResult:
    """Run the pipeline; a run that was stopped goes on after the last saved group of rollouts.

    Args:
        config: settings.
        judge: tells whether a reply shows the trait; without one every reply counts as what its prompt asked for.
        trait: the trait itself, in place of the file that `config` names (one that a model has completed).
        judge_label: (trait, value) of the judge's labels that means the trait; its own name and "true" when not given.

    Raises:
        ConfigError: a trait with too few prompts or questions, a site that the model lacks.
        DataError: too few replies are left on a side to say anything.
        ModelError: the model cannot be used, or writes no text.
        IntegrityError: the dictionary belongs to another model or site; `out` holds another run.
    """
    from turnscope.features.encode import Dictionary
    from turnscope.models.generate import knows_system
    from turnscope.models.load import load_subject

    trait = trait or load_trait(config.trait)
    if lacking := trait.missing():
        raise ConfigError(
            f"the trait {trait.name} has {lacking}", where=config.trait,
            fix="write them into the file, or let a language model write them: --llm MODEL",
        )  # fmt: skip
    dictionary = Dictionary(config.sae)
    site = config.site or dictionary.config.site
    if not site:
        raise ConfigError("the dictionary does not say where it reads", where=config.sae, fix="name the place: --site")
    subject = load_subject(
        config.model, dtype=config.model_dtype, device=config.device, trust_remote_code=config.trust_remote_code
    )
    template = choose_template(subject.tokenizer, config.chat_template)
    inputs = {
        "trait": trait.fingerprint, "model": subject.fingerprint, "sae": dictionary.artifact.fingerprint,
        "template": template.fingerprint, "judge": judge.name if judge else "none",
    }  # fmt: skip
    with sole_writer(config.out):
        draft = begin(config.out, KIND, config.model_copy(update={"site": site}), inputs)
        if isinstance(draft, Artifact):
            return PersonaResult(draft)
        system = knows_system(subject.tokenizer, template.template)
        saved = rollouts_folder(config, inputs)
        written = write_rollouts(saved, trait, config, subject, template.template, system=system)
        del subject
        try:
            artifact = _judge_and_read(
                draft, config, trait, dictionary, site, written, judge, judge_label, system=system
            )
        except DataError as error:
            # Nothing but the rollouts is worth going on with; the plan would bar another try with another judge.
            shutil.rmtree(draft.path, ignore_errors=True)
            raise DataError(error.what, where=error.where or saved, fix=error.fix) from error
        shutil.rmtree(saved.parent, ignore_errors=True)
        return PersonaResult(artifact)


def rollouts_folder(config: PersonaConfig, inputs: Mapping[str, str]) -> Path:
    """Where rollouts wait until the run is finished: beside the result, under a name of all that decides them.

    Another judge or dictionary finds them there.
    """
    decides = {name: inputs[name] for name in ("trait", "model", "template")}
    names = "sampling rollouts questions held_pairs held_questions batch model_dtype seed"
    decides |= {name: value for name, value in config.recorded().items() if name in names.split()}
    return config.out.with_name(f"{config.out.name}.rollouts") / fingerprint(decides)[:16]


def _judge_and_read(
    draft: Draft, config: PersonaConfig, trait: Trait, dictionary: Dictionary, site: str, written: Sequence[Rollout],
    judge: Labeller | None, judge_label: tuple[str, str] | None, *, system: bool,
) -> Artifact:  # fmt: skip
    """Everything after the rollouts."""
    name, value = judge_label or (trait.name, "true")
    written = judged(written, trait, judge, system=system, name=name, value=value)
    kept, counts = keep(written, with_judge=judge is not None)
    _write_transcripts(draft, trait, written, system=system)
    reading = _read(draft, config, dictionary, site)
    missing = sum(r.id not in reading.rows for r in kept)
    counts["dropped.not_read"] += missing
    report, table = _report(config, trait, dictionary, reading, kept)
    pairs, questions = plan(trait, config)
    report |= {
        "trait": trait.name, "definition": trait.definition, "caveats": list(trait.caveats), "site": site,
        "counts": dict(counts), "judge": _judge_facts(judge, written), "system_role": system,
            "split": {
            "pairs": {"rank": list(pairs.rank), "judge": list(pairs.judge)},
            "questions": {"rank": list(questions.rank), "judge": list(questions.judge)},
        },
        "examples": _examples(kept),
    }  # fmt: skip
    write_json(draft.path / TRAIT, trait.model_dump(mode="json"))
    write_json(draft.path / FILE, report)
    with atomic_path(draft.path / FEATURES) as temp:
        pq.write_table(table, temp)
    return draft.commit(counts)


def _write_transcripts(draft: Draft, trait: Trait, rollouts: Sequence[Rollout], *, system: bool) -> None:
    """The rollouts as a transcripts artifact: as they were asked, and without the system prompt."""
    from turnscope.transcripts.config import ImportConfig
    from turnscope.transcripts.import_ import import_conversations

    said = [r for r in rollouts if r.text.strip()]
    if not said:
        raise DataError("the model wrote nothing but white space", where=draft.path, fix="check the chat template")
    out = draft.path / TRANSCRIPTS
    chats = (conversation(r, trait, system=system, bare=bare) for bare in (False, True) for r in said)
    config = ImportConfig(out=out, near_duplicates=None)
    import_conversations(chats, out, config, inputs={"rollouts": name_of(said)})


def _read(draft: Draft, config: PersonaConfig, dictionary: Dictionary, site: str) -> Reading:
    """Means and codes of every reply."""
    from turnscope.harvest.config import HarvestConfig
    from turnscope.harvest.harvest import run as harvest
    from turnscope.harvest.store import open_activations

    sae = dictionary.config
    told = {"token_set": sae.token_set, "span_policy": sae.span_policy, "roles": sae.roles}
    settings = HarvestConfig.model_validate(
        {
            "transcripts": draft.path / TRANSCRIPTS, "model": config.model, "sites": (site,),
            "out": draft.work / "activations", "chat_template": config.chat_template,
            "model_dtype": config.model_dtype, "device": config.device, "trust_remote_code": config.trust_remote_code,
            "tokens": "all" if dictionary.unit == "token" else "none",
            **{name: value for name, value in told.items() if value},
        }
    )  # fmt: skip
    if "assistant" not in settings.roles:
        raise ConfigError(
            f"the dictionary was trained on turns of {', '.join(settings.roles)} alone", where=config.sae,
            fix="use one that was trained on assistant turns",
        )  # fmt: skip
    store = open_activations(harvest(settings).activations[site].path)
    dictionary.require_same_reading(store)
    return _encode(store, dictionary)


def _encode(store: ActivationStore, dictionary: Dictionary) -> Reading:
    turns = store.table(["conversation_id", "role"])
    at = np.flatnonzero(np.array(turns["role"].to_pylist()) == "assistant")
    ids = np.array(turns["conversation_id"].to_pylist(), object)[at].tolist()
    mean_ND = store.mean_ND(at)
    if not np.isfinite(mean_ND).all():
        raise DataError("turn means of the replies are not finite", fix="use model_dtype float32 or bfloat16")
    block = dictionary.encode(mean_ND, *_tokens(store, dictionary, at))
    ptr = np.concatenate([[0], np.cumsum(block.turns.counts)])
    codes = sparse.csr_array(
        (block.turns.values_E, block.turns.features_E, ptr), shape=(len(at), dictionary.n_features)
    )
    return Reading({name: row for row, name in enumerate(ids)}, mean_ND, codes)


def _tokens(store: ActivationStore, dictionary: Dictionary, rows_N: NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """(tokens_TD, lengths_N, keep_T) for dictionaries that read tokens; the first token of a chat is a sink."""
    if dictionary.unit == "turn":
        return None, np.zeros(len(rows_N), np.int64), None
    from turnscope.harvest.turn_tokens import spread

    offsets = store.token_offsets
    lengths = offsets[rows_N + 1] - offsets[rows_N]
    places = spread(offsets[:-1], np.diff(offsets), rows_N)
    return store.tokens_TD(places), lengths, store.token_positions_T(places) > 0


def _report(
    config: PersonaConfig, trait: Trait, dictionary: Dictionary, reading: Reading, kept: Sequence[Rollout]
) -> tuple[dict[str, Any], pa.Table]:
    (ranking, rank_ND), (judge, judge_ND) = (reading.part(kept, half) for half in ("rank", "judge"))
    bare, bare_ND = reading.part(kept, "judge", bare=True)
    for name, part in (("ranking", ranking), ("held-out", judge)):
        if part.usable:
            raise DataError(
                f"the {name} half of {trait.name} has {part.usable}",
                fix="the model may not follow these prompts, or the judge not see it: read the rollouts; ask for more "
                "(--rollouts), or choose another judge; the rollouts are kept for it",
            )
    found = figures.rank(ranking)
    chosen = found.best(config.top)
    p_K, q_K = figures.held_tests(judge, chosen)
    vector = fit_mean_difference(rank_ND, ranking.positive_N, ranking.questions_N)
    decoder_FD = dictionary.decoder_FD()
    cosine_F = decoder_FD @ vector.weights_D.astype(np.float32)
    place_F = np.empty(len(cosine_F), np.int64)
    place_F[np.argsort(-cosine_F, kind="stable")] = np.arange(len(cosine_F))

    def told(part: Part, scores_N: NDArray[np.floating]) -> dict[str, Any]:
        return _told(figures.estimate(scores_N, part, config.n_boot, config.seed))

    rows: list[dict[str, Any]] = []
    for feature, p, q in zip(chosen.tolist(), p_K.tolist(), q_K.tolist(), strict=True):
        rows.append(
            {
                "feature": feature, "rank_auroc": float(found.auroc_F[feature]), "rank_q": float(found.q_F[feature]),
                "effect": float(found.effect_F[feature]), "share_positive": float(found.share_positive_F[feature]),
                "share_negative": float(found.share_negative_F[feature]),
                "held": told(judge, figures.column(judge, feature)) | {"p": p, "q": q},
                "bare": told(bare, figures.column(bare, feature)),
                "cosine": float(cosine_F[feature]), "cosine_place": int(place_F[feature]) + 1,
                **figures.recall_at(figures.column(judge, feature), judge),
            }
        )  # fmt: skip
    readers = _readers(config, kept, (ranking, rank_ND), (judge, judge_ND), (bare, bare_ND), told)
    report = {
        "features": rows, "discoveries": int((found.q_F <= 0.05).sum()), "readers": readers,
        "shuffled": figures.shuffled(ranking, judge, config.shuffles, config.seed),
        "n": {"rank": _sizes(ranking), "judge": _sizes(judge), "bare": _sizes(bare)},
    }  # fmt: skip
    return report, _table(found, cosine_F, rows)


def _readers(
    config: PersonaConfig, kept: Sequence[Rollout], ranking: tuple[Part, Any], judge: tuple[Part, Any],
    bare: tuple[Part, Any], told: Any,
) -> dict[str, Any]:  # fmt: skip
    """Mean-difference vector, ridge probe, five features and words: fitted on the ranking half, judged on the other."""
    texts = [[r.text for r in kept if r.half == half] for half in ("rank", "judge")]
    with_means = {"mean-difference vector": fit_mean_difference, "ridge probe": fit_ridge}
    made: dict[str, Any] = {
        name: (fit, [part[1] for part in (ranking, judge, bare)]) for name, fit in with_means.items()
    }
    made["5 features"] = (fit_sparse_probe, [part[0].codes_NF for part in (ranking, judge, bare)])
    if all(len(said) == len(part[0].positive_N) for said, part in zip(texts, (ranking, judge), strict=True)):
        made["words"] = (fit_words, texts)
    out: dict[str, Any] = {}
    for name, (fit, (fit_x, *others)) in made.items():
        try:
            scorer = fit(fit_x, ranking[0].positive_N, ranking[0].questions_N, seed=config.seed)
        except DataError as error:
            out[name] = {"held": {"withheld": error.what}}
            continue
        scores = [scorer.score(x) for x in others]
        out[name] = {"held": told(judge[0], scores[0])} | figures.recall_at(scores[0], judge[0])
        if len(scores) > 1:
            out[name]["bare"] = told(bare[0], scores[1])
    return out


def _told(found: Estimate | Withheld) -> dict[str, Any]:
    if isinstance(found, Withheld):
        return {"withheld": found.reason}
    return {"auroc": found.value, "low": found.low, "high": found.high}


def _sizes(part: Part) -> dict[str, int]:
    positive = int(part.positive_N.sum())
    return {"with": positive, "without": len(part.positive_N) - positive, "questions": len(np.unique(part.questions_N))}


def _table(found: figures.Ranking, cosine_F: NDArray[np.float32], rows: Sequence[dict[str, Any]]) -> pa.Table:
    by = {row["feature"]: row for row in rows}
    n = len(found.auroc_F)
    held = [by.get(feature, {}).get("held", {}) for feature in range(n)]
    return pa.table(
        {
            "feature": pa.array(np.arange(n, dtype=np.int32)), "rank_auroc": found.auroc_F, "effect": found.effect_F,
            "share_positive": found.share_positive_F, "share_negative": found.share_negative_F, "p": found.p_F,
            "q": found.q_F, "cosine": cosine_F,
            **{f"held_{name}": pa.array([row.get(name) for row in held], pa.float64())
               for name in ("auroc", "low", "high", "p", "q")},
        }
    )  # fmt: skip


def _judge_facts(judge: Labeller | None, written: Sequence[Rollout]) -> dict[str, Any]:
    """How often the trait showed where it was asked for, and where it was not."""
    if judge is None:
        return {"name": "none"}
    facts: dict[str, Any] = {"name": judge.name, "no_opinion": sum(r.shows is None for r in written)}
    for side in ("positive", "negative"):
        own = [r for r in written if r.side == side and r.shows is not None]
        facts[f"shown_{side}"] = sum(bool(r.shows) for r in own) / len(own) if own else None
    return facts


def _examples(kept: Sequence[Rollout]) -> list[dict[str, Any]]:
    """A few replies of each side of the held-out half."""
    out: list[dict[str, Any]] = []
    for side in ("positive", "negative"):
        own = [r for r in kept if r.side == side and r.half == "judge"][:_EXAMPLES]
        out += [{"id": r.id, "side": side, "text": r.text[:400]} for r in own]
    return out
