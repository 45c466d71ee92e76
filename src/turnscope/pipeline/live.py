"""Training on activations as they are harvested: the one place that wires a model to a trainer.

Nothing is stored between the two, so every epoch is a harvest: for one pass over data that the disk could not hold.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from turnscope.artifacts import ConfigError, DataError
from turnscope.harvest.config import HarvestConfig
from turnscope.harvest.stream import LiveHarvest
from turnscope.training.config import TrainConfig
from turnscope.training.defaults import resolve_defaults
from turnscope.training.several import Rows, TrainResult, run_several
from turnscope.training.sources import Origin


def train_live(
    harvest: HarvestConfig, dictionaries: Sequence[tuple[str, TrainConfig]], *, buffer_rows: int = 1 << 16
) -> list[TrainResult]:
    """Train a dictionary for each (site, config) while the model reads; those that draw alike share its passes.

    Args:
        harvest: model, transcripts, sites and what a row is; its `out` is not used.
        dictionaries: sites, of those of `harvest`, and settings without a source. Units must be alike, and rows.
        buffer_rows: rows mixed at a time.

    Raises as `harvest.run` and `training.run` do. Stopped, the same call goes on to the same bytes (same machine,
    same number of threads).
    """
    units: set[Any] = {config.unit for _, config in dictionaries}
    seeds = {config.seed if config.shuffle_seed is None else config.shuffle_seed for _, config in dictionaries}
    if len(units) != 1 or len(seeds) != 1 or "nested" in units:
        raise ConfigError(
            "dictionaries of one live harvest need one unit, turn or token, and one shuffle_seed",
            fix="harvest to a store for nested dictionaries",
        )
    (unit,), (seed,) = units, seeds

    if missing := sorted({site for site, _ in dictionaries} - set(harvest.sites)):
        raise ConfigError(f"sites {', '.join(missing)} are not among those harvested", where=", ".join(harvest.sites))
    with _one_number_of_threads([config for _, config in dictionaries]) as configs:
        live = LiveHarvest(harvest, unit, "train", seed, buffer_rows)
        try:
            held = LiveHarvest(harvest, unit, "explain", seed, buffer_rows, like=live)
        except DataError:
            held = None
        rows: dict[tuple[str, int], Rows] = {}
        asked = list[Rows]()
        for (site, _), config in zip(dictionaries, configs, strict=True):
            size = resolve_defaults(config, live.n_rows, live.d_model).batch_size
            if (site, size) not in rows:
                held_source = held.source(site, 4096) if held else None
                rows[site, size] = Rows(live.source(site, size), held_source, _origin(live, site))
            asked.append(rows[site, size])
        return run_several(configs, asked)


def _origin(live: LiveHarvest, site: str) -> Origin:
    settings, inputs = live.recorded(site)
    return Origin(
        site=settings["site"], roles=tuple(settings["roles"]), span_policy=settings["span_policy"],
        token_set=settings["token_set"], subject=settings["model"], subject_fingerprint=inputs["model"],
    )  # fmt: skip


@contextmanager
def _one_number_of_threads(configs: Sequence[TrainConfig]) -> Generator[list[TrainConfig]]:
    """The configs with one number of threads for all, model included. A model that reads in a thread while trainers
    change the number would round by chance.
    """
    before = torch.get_num_threads()
    wanted = {config.threads for config in configs if config.threads}
    if len(wanted) > 1:
        raise ConfigError("dictionaries of one live harvest need one number of threads", where="threads")
    number = wanted.pop() if wanted else before
    torch.set_num_threads(number)
    try:
        yield [config.model_copy(update={"threads": number}) for config in configs]
    finally:
        torch.set_num_threads(before)
