"""Conversations through the model and the dictionary: their turns, and the codes of these. The only part with torch.

Legend: N turns of a block, E entries, D model width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from turnscope.artifacts import ConfigError, IntegrityError
from turnscope.audit.config import MonitorRunConfig
from turnscope.audit.monitors.block import Block
from turnscope.audit.monitors.file import Monitor
from turnscope.features.encode import Dictionary
from turnscope.harvest.config import ActivationsConfig, HarvestConfig
from turnscope.harvest.harvest import open_subject
from turnscope.harvest.prepare import prepare
from turnscope.harvest.write import compute, stored_values
from turnscope.models.site import Site
from turnscope.transcripts.conversation import Conversation


class Live:
    """One model and one dictionary, reading turns as those of the monitor's calibration were read.

    Raises:
        ConfigError: a monitor that does not say how turns are read, or one of token features.
        IntegrityError: another dictionary, model, tokenizer or template than the monitor's.
        ModelError, StorageError: the model or the dictionary cannot be loaded.
    """

    def __init__(self, monitor: Monitor, config: MonitorRunConfig) -> None:
        assert config.sae is not None
        self._dictionary = Dictionary(config.sae)
        monitor.require_dictionary(self._dictionary.artifact.fingerprint, config.sae)
        if self._dictionary.unit != "turn":
            raise ConfigError(
                "a monitor of token features is run over an index",
                where=config.sae,
                fix="harvest with tokens and index the conversations, then: turnscope monitor run M.toml --index INDEX",
            )
        self._site = Site.parse(str(monitor.reading.settings.get("site") or self._dictionary.config.site))
        self._config = _reading(monitor, config, self._site)
        self._subject, self._renderer = open_subject(self._config)
        self._subject.check_sites([self._site])
        found = {
            "model": self._subject.fingerprint,
            "tokenizer": self._subject.tokenizer_fingerprint,
            "template": self._renderer.choice.fingerprint,
        }
        for name, value in found.items():
            wanted = getattr(monitor.reading, f"{name}_fingerprint")
            if wanted and wanted != value:
                raise IntegrityError(
                    f"the monitor was fitted on another {name}: {wanted[:16]}, this is {value[:16]}",
                    where=config.model,
                    fix="name the model whose activations the dictionary was trained on",
                )

    def block(self, conversations: Sequence[Conversation]) -> Block:
        """The turns that were read of some conversations, with their codes."""
        shard = prepare(0, conversations, self._renderer, self._subject, self._config)
        made = compute(shard, self._subject, self._config, [self._site])
        mean_ND = stored_values(shard, made[self._site], self._config.dtype)
        finite_N = np.asarray(np.isfinite(mean_ND).all(axis=1), np.bool_)
        counts = Counter({name: n for name, n in shard.counts.items() if n and not name.startswith("render.")})
        if not finite_N.all():
            counts["dropped.not_finite"] += int((~finite_N).sum())
        turns = [turn for turn, is_finite in zip(shard.turns, finite_N.tolist(), strict=True) if is_finite]
        codes = self._dictionary.encode(mean_ND[finite_N], None, np.ones(len(turns), np.int64), None).turns
        table = pa.table(
            {
                "conversation_id": pa.array([turn.conversation_id for turn in turns], pa.string()),
                "turn": pa.array([turn.turn for turn in turns], pa.int32()),
                "role": pa.array([turn.role for turn in turns], pa.string()),
                "n_tokens": pa.array([turn.n_tokens for turn in turns], pa.int64()),
            }
        )
        ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(codes.counts)])
        texts = {(each.id, turn.index): turn.text for each in conversations for turn in each.turns}
        return Block(table, ptr, codes.features_E, codes.values_E, self._dictionary.n_features, texts, counts)


def _reading(monitor: Monitor, config: MonitorRunConfig, site: Site) -> HarvestConfig:
    if not monitor.reading.settings:
        raise ConfigError(
            "the monitor does not say how turns are read: its activations were not at hand when it was made",
            where=config.monitor,
            fix="fit it again with --activations, or run it over an index (--index)",
        )
    try:
        recorded = ActivationsConfig.model_validate(monitor.reading.settings)
    except ConfigError as error:
        raise ConfigError(f"reading.settings: {error.what}", where=config.monitor, fix=error.fix) from None
    settings = recorded.model_dump()
    for name in ("model", "site", "template", "tokens"):
        settings.pop(name)
    if config.too_long is not None:
        settings["too_long"] = config.too_long
    if config.batch_tokens is not None:
        settings["batch_tokens"] = config.batch_tokens
    return HarvestConfig(
        **settings, transcripts=Path("-"), out=Path("-"), model=config.model, sites=(str(site),), device=config.device,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip
