"""The harvest stage: transcripts and a model in, activations out, one artifact per site from one forward pass.

The transcripts are cut into shards of consecutive conversations. A shard is rendered while the one before it runs,
computed for all sites at once and written piece by piece while the next one runs; a harvest that was killed finds the
finished pieces and goes on after them, to the same bytes as an unbroken run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from turnscope.artifacts import Artifact, DataError, Draft, RunFolder, begin, progress
from turnscope.harvest.ahead import ahead
from turnscope.harvest.behind import behind
from turnscope.harvest.config import ActivationsConfig, HarvestConfig
from turnscope.harvest.pieces import write_stats
from turnscope.harvest.prepare import Shard, cut, prepare
from turnscope.harvest.reuse import EarlierShards, fingerprint_conversations
from turnscope.harvest.write import compute, is_finished, write_shard
from turnscope.models.load import load_subject
from turnscope.models.site import Site
from turnscope.models.subject import Subject, SubjectModel
from turnscope.transcripts.conversation import Conversation
from turnscope.transcripts.spans import TurnRenderer
from turnscope.transcripts.store import TranscriptStore, open_transcripts
from turnscope.transcripts.templates import TemplateChoice


@dataclass(frozen=True)
class HarvestResult:
    """A finished harvest.

    Attributes:
        activations: the artifact of each site, by the site's string form.
        shards_computed, shards_found: shards run now, and shards left by an earlier run or taken from another harvest.
        tokens: tokens run now, without padding.
        padding: share of the computed places that was padding.
        seconds: time spent on shards.
        notices: what the user should be told, such as that the plain chat template was used.
    """

    activations: Mapping[str, Artifact]
    shards_computed: int
    shards_found: int
    tokens: int
    padding: float
    seconds: float
    notices: tuple[str, ...]

    @property
    def tokens_per_second(self) -> float:
        """Rate of this run, writing included; 0 when everything was there already."""
        return self.tokens / self.seconds if self.seconds else 0.0


def run(config: HarvestConfig) -> HarvestResult:
    """Harvest activations of every site asked for, or open those that are finished.

    Writes ``out/SITE/`` for each site. Running again with the same settings resumes a harvest that was stopped, and
    opens one that is finished.

    Raises:
        ConfigError: a site that the model lacks.
        DataError: transcripts that are no use; no turn could be stored.
        IntegrityError: ``out`` holds activations made with other settings, transcripts or model; or another process
        writes there.
        ModelError: the model cannot be loaded.
        StorageError: the disk is full or read-only.
    """
    sites = [Site.parse(text) for text in config.sites]
    store = open_transcripts(config.transcripts)
    folder = RunFolder(config.out)
    with folder.lock():
        # A cluster's workers hold the devices; what is recorded of the model does not depend on them.
        subject, renderer = open_subject(
            config if config.engine == "local" else config.model_copy(update={"device": "cpu"})
        )
        subject.check_sites(sites)
        notices = tuple(_notices(config, subject, renderer.choice))
        for notice in notices:
            folder.log(notice)
        begun = {
            site: begin(
                folder.artifact(str(site)),
                "activations",
                *record(config, site, subject, renderer.choice, store.fingerprint),
            )
            for site in sites
        }
        drafts = {site: draft for site, draft in begun.items() if isinstance(draft, Draft)}
        finished = {site: artifact for site, artifact in begun.items() if isinstance(artifact, Artifact)}
        done = Done()
        if drafts:
            if config.engine == "ray":
                from turnscope.harvest import cluster

                cluster.harvest(store, subject.fingerprint, config, drafts, folder.log, done)
            else:
                _harvest(store, subject, renderer, config, drafts, folder.log, done)
            n_shards = done.computed + done.found
            counted = {site: write_stats(draft.path, n_shards, subject.d_model) for site, draft in drafts.items()}
            for site, counts in counted.items():
                if not counts["turns.kept"]:
                    # Nothing here is worth going on with, and the plans would bar the next try with other settings.
                    for draft in drafts.values():
                        shutil.rmtree(draft.path, ignore_errors=True)
                    raise DataError(
                        f"no turn could be harvested at {site}: {_reasons(counts)}{done.refusal}",
                        where=str(config.transcripts),
                        fix="check the chat template, roles and too_long, or import other transcripts",
                    )
            for site, draft in drafts.items():
                finished[site] = draft.commit(counted[site])
    return HarvestResult(
        activations={str(site): finished[site] for site in sites},
        shards_computed=done.computed,
        shards_found=done.found,
        tokens=done.tokens,
        padding=1 - done.tokens / done.places if done.places else 0.0,
        seconds=done.seconds,
        notices=notices,
    )


def _notices(config: HarvestConfig, subject: Subject, template: TemplateChoice) -> Iterator[str]:
    if template.notice:
        yield template.notice
    if isinstance(subject, SubjectModel) and isinstance(config.device_map, str) and subject.device.type == "cpu":
        yield f"device_map {config.device_map} found no GPU: the model is read on the CPU"


def open_subject(config: HarvestConfig) -> tuple[Subject, TurnRenderer]:
    """The model of a harvest, and what renders conversations for it. Raises ModelError."""
    subject = _load(config)
    renderer = TurnRenderer(
        subject.tokenizer,
        policy=config.span_policy,
        chat_template=config.chat_template,
        control_tokens=config.control_tokens,
        causal=not subject.is_encoder,
    )
    return subject, renderer


def _load(config: HarvestConfig) -> Subject:
    if config.backend == "vllm":
        from turnscope.models.vllm import load_vllm

        return load_vllm(
            config.model,
            [Site.parse(text) for text in config.sites],
            dtype=config.model_dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
    return load_subject(
        config.model,
        dtype=config.model_dtype,
        device=config.device,
        device_map=config.device_map,
        quantization=config.quantization,
        attn_implementation=config.attention,
        trust_remote_code=config.trust_remote_code,
        random_weights=config.random_weights,
    )


def record(
    config: HarvestConfig, site: Site, subject: Subject, template: TemplateChoice, transcripts: str
) -> tuple[ActivationsConfig, dict[str, str]]:
    """What the manifest of one site says: settings, and the fingerprints of what it is made from."""
    inputs = {
        "transcripts": transcripts,
        "model": subject.fingerprint,
        "tokenizer": subject.tokenizer_fingerprint,
        "template": template.fingerprint,
    }
    return ActivationsConfig.of(config, model=subject.name, site=str(site), template=template.name), inputs


class Done:
    """What one call of :func:`run` did."""

    def __init__(self) -> None:
        self.computed, self.found = 0, 0
        self.tokens, self.places, self.seconds = 0, 0, 0.0
        self.refusal = ""  # why the chat template refused a conversation, the first time it did

    def refuse(self, reason: str, log: Callable[[str], None]) -> None:
        """Keep and log the first refusal of all."""
        if reason and not self.refusal:
            self.refusal = f"; the chat template says: {reason}"
            log(f"conversations are refused{self.refusal}")


def _harvest(
    store: TranscriptStore,
    subject: Subject,
    renderer: TurnRenderer,
    config: HarvestConfig,
    drafts: Mapping[Site, Draft],
    log: Callable[[str], None],
    done: Done,
) -> None:
    """Compute every shard that some site still lacks."""
    start = time.monotonic()
    earlier = {
        site: EarlierShards([folder / str(site) for folder in config.reuse], draft) for site, draft in drafts.items()
    }

    def plan() -> Iterator[Callable[[], tuple[Shard | None, int]]]:
        for index, conversations in enumerate(cut(store, config.shard_turns)):
            name = fingerprint_conversations(conversations)
            lacking = [site for site, draft in drafts.items() if not is_finished(draft, index)]
            missing = [site for site in lacking if not earlier[site].take(name, index)]
            yield _preparation(
                index,
                name,
                conversations if missing else None,
                len(conversations),
                subject,
                renderer,
                config,
            )

    with progress("harvest", len(store), "conversations") as bar, behind() as later:

        def on_batch(tokens: int, places: int) -> None:
            done.tokens += tokens
            done.places += places
            bar.advance(0, tokens_per_s=round(done.tokens / _since(start)))

        for shard, n_conversations in ahead(plan()):
            if shard is None:
                done.found += 1
            else:
                done.refuse(shard.refusal, log)
                lacking = {site: draft for site, draft in drafts.items() if not is_finished(draft, shard.index)}
                computed = compute(shard, subject, config, list(lacking), on_batch=on_batch, log=log)
                later(partial(write_shard, shard, computed, subject, config, lacking))
                done.computed += 1
            bar.advance(n_conversations)
    done.seconds = _since(start)
    if done.found:
        log(f"{done.found} shards were finished already; {done.computed} computed")


def _preparation(
    index: int,
    name: str,
    conversations: list[Conversation] | None,
    n_conversations: int,
    subject: Subject,
    renderer: TurnRenderer,
    config: HarvestConfig,
) -> Callable[[], tuple[Shard | None, int]]:
    def work() -> tuple[Shard | None, int]:
        if conversations is None:
            return None, n_conversations
        shard = prepare(index, conversations, renderer, subject, config)
        shard.conversations = name
        return shard, n_conversations

    return work


def _since(start: float) -> float:
    return max(time.monotonic() - start, 1e-9)


def _reasons(counts: Mapping[str, int]) -> str:
    left_out = [f"{name.removeprefix('dropped.')} {n}" for name, n in counts.items() if name.startswith("dropped.")]
    return ", ".join(left_out) or "the transcripts hold no turns"
