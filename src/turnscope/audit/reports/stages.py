"""What an audit is made from: dictionary, baseline, and the files imported, harvested and indexed as the baseline was.

Each stage is an artifact below the audit's folder, so that a stopped audit goes on, and search, query, contrast and
monitors work on it. Imports torch only when a stage runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnscope.artifacts import ConfigError
from turnscope.artifacts.manifest import MANIFEST_NAME
from turnscope.audit.config import AuditConfig
from turnscope.audit.readings import Readings
from turnscope.audit.reports.baseline import (
    ADVICE,
    dictionary_of,
    index_folder,
    require_alike,
    require_asked,
    require_dictionary,
    require_inputs,
)
from turnscope.features.config import IndexConfig, Split
from turnscope.features.store import FeatureIndex, open_index
from turnscope.harvest.config import ActivationsConfig, HarvestConfig
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.store import open_transcripts

if TYPE_CHECKING:
    from turnscope.features.encode import Dictionary

_ALL: tuple[Split, ...] = ("train", "explain", "eval", "locked")


@dataclass(frozen=True)
class Ready:
    """Everything that the figures are read from."""

    file: FeatureIndex
    file_store: ActivationStore
    baseline: FeatureIndex
    baseline_store: ActivationStore
    dictionary: Dictionary
    notices: tuple[str, ...] = ()


@dataclass
class _Work:
    """The stages of one audit."""

    config: AuditConfig
    notices: list[str] = field(default_factory=list[str])

    def ready(self) -> Ready:
        """All stages. Raises as `report.run` says."""
        config = self.config
        if config.baseline is None:
            raise ConfigError("nothing to hold these chats against", where="--baseline", fix=ADVICE)
        folder = index_folder(config.baseline, config.sae)
        self._import(config.files, config.out)  # a wrong file is told before a model is loaded
        baseline = None if folder is None else open_index(folder, config.baseline_transcripts)
        dictionary = self._dictionary(baseline)
        site = self._site(dictionary)
        if baseline is None:
            baseline, store = self._index_baseline(config.baseline, dictionary, site)
            model = self._model(None)
        else:
            require_dictionary(baseline, dictionary.artifact)
            found = Readings(baseline, config.baseline_activations).store
            if found is None:
                raise ConfigError(
                    "the activations of the baseline are not beside it: how its turns were read is told there",
                    where=baseline.artifact.path, fix="name them with --baseline-activations",
                )  # fmt: skip
            store, model = found, self._model(baseline)
            require_asked(baseline, store, config, site)
        site = site or str(store.artifact.manifest.config["site"])
        file, file_store = self._index_file(store, baseline, dictionary, model, site)
        require_alike(file_store, store)
        if baseline.explanations().num_rows and not file.explanations().num_rows:
            file.set_explanations(baseline.explanations())
        return Ready(file, file_store, baseline, store, dictionary, tuple(self.notices))

    def _dictionary(self, baseline: FeatureIndex | None) -> Dictionary:
        from turnscope.features.encode import Dictionary

        path = self.config.sae
        if path is None:
            if baseline is None:
                raise ConfigError(
                    "chat files as a baseline need a dictionary",
                    where=self.config.baseline,
                    fix="give --sae and --model",
                )
            return Dictionary(dictionary_of(baseline))
        if (path / MANIFEST_NAME).is_file():
            return Dictionary(path)
        from turnscope.sae.formats.config import ConvertConfig
        from turnscope.sae.formats.convert import run

        made = run(ConvertConfig(source=path, out=self.config.out / "saes" / _plain(path.stem)))
        self.notices += [f"dictionary read as {made.format}", *made.notes]
        return Dictionary(made.path)

    def _site(self, dictionary: Dictionary) -> str:
        """Where to read; empty where only the baseline can say."""
        own, named = dictionary.config.site, self.config.site
        if own and named and own != named:
            raise ConfigError(f"the dictionary reads {own}, not {named}", where="--site", fix="leave out --site")
        if not dictionary.config.subject_fingerprint:
            self.notices.append(
                "the dictionary does not name its model by fingerprint: that it belongs to this one is taken on trust"
            )
        if not own and named:
            self.notices.append(f"the dictionary does not say where it reads: {named} was named by the caller")
        return own or named

    def _model(self, baseline: FeatureIndex | None) -> str:
        if self.config.model:
            return self.config.model
        if baseline is not None:
            recipe = baseline.artifact.path.resolve().parents[1] / "run.toml"
            try:
                named = tomllib.loads(recipe.read_text("utf-8")).get("model")
            except (OSError, ValueError):
                named = None
            if isinstance(named, str) and named:
                return named
        raise ConfigError(
            "which model reads these chats is not known", where="--model",
            fix="name the model whose activations the dictionary reads: folder, hub name, or minilm",
        )  # fmt: skip

    def _index_baseline(self, path: Path, dictionary: Dictionary, site: str) -> tuple[FeatureIndex, ActivationStore]:
        """Chat files as a baseline, read as the dictionary asks."""
        if not site:
            raise ConfigError(
                "the dictionary does not say where it reads", where=self.config.sae, fix="name it: --site"
            )
        sae = dictionary.config
        told = {"token_set": sae.token_set, "span_policy": sae.span_policy, "roles": sae.roles}
        out = self.config.out / "baseline"
        settings: dict[str, Any] = {
            "tokens": "all" if dictionary.unit == "token" else "none",
            "too_long": self.config.too_long or "window",
            **{name: value for name, value in told.items() if value},
        }
        index_settings = {"pool": self.config.pool or "max"}
        return self._stages((path,), out, settings, index_settings, dictionary, self._model(None), site, _ALL[:3])

    def _index_file(
        self, store: ActivationStore, baseline: FeatureIndex, dictionary: Dictionary, model: str, site: str
    ) -> tuple[FeatureIndex, ActivationStore]:
        recorded = store.artifact.manifest.config
        shared = (ActivationsConfig.model_fields.keys() & HarvestConfig.model_fields.keys()) - {"model"}
        settings = {name: recorded[name] for name in shared if name in recorded}
        settings["tokens"] = recorded["tokens"] if dictionary.unit == "token" else "none"
        if self.config.too_long is not None:
            settings["too_long"] = self.config.too_long
        made = baseline.artifact.manifest.config
        index_settings = {name: made[name] for name in ("pool", "outlier_norm", "dense") if name in made}
        if not (self.config.out / "activations" / site / MANIFEST_NAME).is_file():
            self._require_model(settings, store, model, site)
        return self._stages(self.config.files, self.config.out, settings, index_settings, dictionary, model, site, _ALL)

    def _require_model(self, settings: dict[str, Any], store: ActivationStore, model: str, site: str) -> None:
        """Refuse another model before its hours of work, not after."""
        from turnscope.harvest.harvest import open_subject
        from turnscope.models.site import Site

        asked = self._harvest_config(settings, self.config.out, model, site)
        subject, renderer = open_subject(asked)
        subject.check_sites([Site.parse(site)])
        found = {
            "model": subject.fingerprint, "tokenizer": subject.tokenizer_fingerprint,
            "template": renderer.choice.fingerprint,
        }  # fmt: skip
        require_inputs(store, found, model)

    def _harvest_config(self, settings: dict[str, Any], out: Path, model: str, site: str) -> HarvestConfig:
        return HarvestConfig(
            **settings, transcripts=out / "transcripts", model=model, sites=(site,), out=out / "activations",
            device=self.config.device, trust_remote_code=self.config.trust_remote_code,
        )  # fmt: skip

    def _import(self, files: Sequence[Path], out: Path) -> None:
        from turnscope.transcripts.import_ import run

        imported = run(
            ImportConfig(
                sources=tuple(files), out=out / "transcripts", format=self.config.chat_format,
                allow_bad_lines=self.config.allow_bad_lines,
            )
        )  # fmt: skip
        self._note(imported.notices)

    def _note(self, notes: Sequence[str]) -> None:
        self.notices += [note for note in notes if note not in self.notices]

    def _stages(
        self, files: Sequence[Path], out: Path, settings: dict[str, Any], index_settings: dict[str, Any],
        dictionary: Dictionary, model: str, site: str, splits: tuple[Split, ...],
    ) -> tuple[FeatureIndex, ActivationStore]:  # fmt: skip
        from turnscope.features.index import run as index
        from turnscope.harvest.harvest import run as harvest

        self._import(files, out)
        harvested = harvest(self._harvest_config(settings, out, model, site))
        self._note(harvested.notices)
        activations = harvested.activations[site].path
        made = index(
            IndexConfig(
                **index_settings, activations=activations, sae=dictionary.artifact.path,
                transcripts=out / "transcripts", out=out / "features" / _plain(dictionary.artifact.path.name),
                splits=splits, neuron_turns=0, scramble_turns=0,
            )
        )  # fmt: skip
        return FeatureIndex(made.artifact, open_transcripts(out / "transcripts")), open_activations(activations)


def prepare(config: AuditConfig) -> Ready:
    """Run or find all stages."""
    return _Work(config).ready()


def _plain(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".-")
    return kept or "dictionary"
