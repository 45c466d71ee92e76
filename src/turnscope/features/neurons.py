"""Is a feature no more than a neuron? Each feature's largest correlation with a neuron of an earlier block.

Pearson's r over a sample of turns (*Scaling Monosemanticity*, features against neurons: 82 % of features have none
above .3), of a feature's value on a turn with the mean of a neuron over the turn's tokens; of a token feature, whose
value is its largest, with the neuron's largest. Beside it the same with the stream's own coordinates.

Legend: S sampled turns, M neurons of all earlier blocks, D width, F features, B features of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError, progress
from turnscope.features.again import Reading, Rereader
from turnscope.harvest.batches import batches
from turnscope.harvest.pool import Pool, pad, reduce_segments
from turnscope.models.subject import SubjectModel

if TYPE_CHECKING:
    from turnscope.features.relations import Codes

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
LEAST_TURNS = 10
"""A feature that fires on fewer of the sampled turns gets no correlation."""
_BLOCK = 4096


def neuron_table(
    rereader: Rereader, index: Codes, turns: pa.Table, rows: Ints, *, by_max: bool, scratch: Path
) -> pa.Table:
    """(feature, turns, r, block, neuron, r_residual, residual): the neuron, and the coordinate of the stream, with the
    largest absolute correlation, and r with its sign. Features that fire on too few turns have none.

    Neurons of a turn are kept in a file of its own in `scratch` (4 bytes each), never all in memory.
    """
    blocks = earlier_blocks(rereader)
    file = scratch / "neurons.f32"
    scratch.mkdir(parents=True, exist_ok=True)
    read, widths = _read_neurons(rereader, turns, rows, blocks, "max" if by_max else "mean", file)
    try:
        neurons_SM = np.memmap(file, np.float32, "r", shape=(len(read), sum(widths)))
        stream_SD = rereader.store.mean_ND(turns["activation_row"].to_numpy()[read])
        ptr, features_E, values_E = index.turn_codes(read)
        return _table(index.n_features, ptr, features_E, values_E, neurons_SM, stream_SD, blocks, widths)
    finally:
        file.unlink(missing_ok=True)


def earlier_blocks(rereader: Rereader) -> list[int]:
    """The blocks whose neurons can have made what the site holds. ConfigError where there are none."""
    site = rereader.site
    if not isinstance(rereader.subject, SubjectModel):
        raise ConfigError("neurons are read by transformers alone", fix="harvest with backend transformers")
    last = site.block if site.kind in ("resid", "mlp") else site.block - 1
    if last < 0:
        raise ConfigError(f"no neurons come before {site}", fix="leave out the correlation with neurons")
    return list(range(last + 1))


def _read_neurons(
    rereader: Rereader, turns: pa.Table, rows: Ints, blocks: Sequence[int], pool: Pool, file: Path
) -> tuple[Ints, list[int]]:
    """Write each turn's neurons; gives the rows read, in the order of the file, and the neurons of each block."""
    read, widths = list[Ints](), list[int]()
    with file.open("wb") as out, progress("neurons", len(rows), "turns") as bar:
        for reading in rereader.readings(turns, rows):
            made = _of_reading(rereader, reading, blocks, pool)
            order = np.concatenate([places for places, _ in made]) if made else np.zeros(0, np.int64)
            for _, values_SM in made:
                out.write(np.ascontiguousarray(values_SM).data)
                widths = widths or widths_of(rereader, blocks)
            read.append(reading.rows[order])
            bar.advance(len(reading.rows))
    return np.concatenate(read) if read else np.zeros(0, np.int64), widths or widths_of(rereader, blocks)


def widths_of(rereader: Rereader, blocks: Sequence[int]) -> list[int]:
    """Neurons of each block."""
    subject = rereader.subject
    assert isinstance(subject, SubjectModel)
    ids_BT = torch.full((1, 2), subject.pad_id)
    found = subject.capture_neurons(ids_BT, torch.ones_like(ids_BT), blocks)
    return [int(found[block].shape[-1]) for block in blocks]


def _of_reading(rereader: Rereader, reading: Reading, blocks: Sequence[int], pool: Pool) -> list[tuple[Ints, Floats]]:
    """(places in the reading, pooled neurons (S, M)) batch by batch."""
    subject, rows = rereader.subject, reading.shard.rows
    assert isinstance(subject, SubjectModel)
    made: list[tuple[Ints, Floats]] = []
    for batch in batches([len(row.ids) for row in rows], rereader.config.batch_tokens):
        ids_BT, mask_BT = pad([rows[i].ids for i in batch], subject.pad_id)
        with torch.inference_mode():
            found = subject.capture_neurons(ids_BT, mask_BT, blocks)
        places = [rows[i].places_P + number * ids_BT.shape[1] for number, i in enumerate(batch)]
        lengths = torch.from_numpy(np.concatenate([rows[i].lengths_S for i in batch]))
        flat_P, parts = torch.from_numpy(np.concatenate(places)), list[Floats]()
        for block in blocks:
            flat_LM = found[block].reshape(-1, found[block].shape[-1]).cpu()
            pooled = reduce_segments(flat_LM, flat_P, lengths, pool)
            parts.append((pooled if pool == "max" else pooled / lengths[:, None]).numpy())
        made.append((np.asarray(batch, np.int64), np.concatenate(parts, axis=1)))
    return made


def _table(
    n_features: int, ptr: Ints, features_E: Ints, values_E: Floats, neurons_SM: Any, stream_SD: Floats,
    blocks: Sequence[int], widths: Sequence[int],
) -> pa.Table:  # fmt: skip
    rows_E = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    fired_F = np.bincount(features_E, minlength=n_features)
    chosen = np.flatnonzero(fired_F >= LEAST_TURNS)
    out: dict[str, NDArray[Any]] = {
        **{name: np.full(n_features, np.nan) for name in ("r", "r_residual")},
        **{name: np.full(n_features, -1) for name in ("neuron", "residual")},
    }
    place_F = np.full(n_features, -1)
    for start in range(0, len(chosen), _BLOCK):
        part = chosen[start : start + _BLOCK]
        place_F[:] = -1
        place_F[part] = np.arange(len(part))
        mine = place_F[features_E] >= 0
        codes_SB = np.zeros((len(ptr) - 1, len(part)), np.float32)
        codes_SB[rows_E[mine], place_F[features_E[mine]]] = values_E[mine]
        for matrix, r, which in ((neurons_SM, "r", "neuron"), (stream_SD, "r_residual", "residual")):
            out[r][part], out[which][part] = strongest_correlation(codes_SB, matrix)
    ends = np.cumsum(widths)
    block_F = np.searchsorted(ends, out["neuron"], side="right")
    within_F = out["neuron"] - np.concatenate([[0], ends])[block_F]
    none = ~np.isfinite(out["r"]) | (out["neuron"] < 0)  # it fires on too few turns, or is the same on all of them
    return pa.table(
        {
            "feature": pa.array(np.arange(n_features), pa.int32()),
            "turns": pa.array(fired_F),
            "r": pa.array(out["r"], pa.float32(), mask=none),
            "block": pa.array(np.asarray([*blocks, -1])[np.minimum(block_F, len(blocks))], pa.int32(), mask=none),
            "neuron": pa.array(within_F, pa.int64(), mask=none),
            "r_residual": pa.array(out["r_residual"], pa.float32(), mask=none),
            "residual": pa.array(out["residual"].astype(np.int64), pa.int32(), mask=none),
        }
    )


def strongest_correlation(codes_SB: Floats, others_SM: Any) -> tuple[NDArray[np.float64], Ints]:
    """Pearson's r of each column of `codes` with the column of `others` nearest to it, either way, and which.

    A column of `others` that does not vary is left out. A block of `others` in memory at a time.
    """
    z_SB = _standardised(codes_SB)
    best, which = np.zeros(codes_SB.shape[1]), np.full(codes_SB.shape[1], -1)
    for start in range(0, others_SM.shape[1], _BLOCK):
        z_SM = _standardised(np.asarray(others_SM[:, start : start + _BLOCK], np.float32))
        r_BM = z_SB.T @ z_SM / len(z_SB)
        top = np.abs(r_BM).argmax(1)
        r = r_BM[np.arange(len(top)), top]
        better = np.abs(r) > np.abs(best)
        best[better], which[better] = r[better], (top + start)[better]
    return best, which


def _standardised(values: Floats) -> Floats:
    centred = values - values.mean(0, dtype=np.float64).astype(np.float32)
    spread = np.sqrt((centred.astype(np.float64) ** 2).mean(0)).astype(np.float32)
    return centred / np.where(spread > 0, spread, np.inf)


def sample_rows(usable_N: NDArray[np.bool_], most: int, seed: int) -> Ints:
    """At most so many usable turns drawn at random, ascending."""
    rows = np.flatnonzero(usable_N)
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
