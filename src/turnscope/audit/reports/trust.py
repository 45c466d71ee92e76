"""How well the dictionary rebuilds the turns of the file, turn by turn, beside the baseline's. Needs torch to decode.

nMSE of a turn = |x - x_hat|^2 / |x - m|^2 with x its mean activation and m the mean of the baseline's turns; of a token
dictionary both are summed over the turn's stored tokens, with m the mean token. 1 is as bad as m itself. What is not
rebuilt is what no feature can tell of.

Legend: N turns, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import progress
from turnscope.audit.monitors.figures import rate
from turnscope.harvest.store import ActivationStore
from turnscope.stats import Withheld

if TYPE_CHECKING:
    from turnscope.features.encode import Dictionary
    from turnscope.sae import SparseAutoencoder

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_ROWS = 4096  # turns or tokens at a time
_SAMPLE = 4096


class Errors(NamedTuple):
    """Squared error of each turn, and its squared distance from the mean (N,)."""

    off_N: Floats
    all_N: Floats

    @property
    def nmse_N(self) -> Floats:
        """NaN for a turn without a token that counts."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.all_N > 0, self.off_N / self.all_N, np.nan)

    @property
    def explained(self) -> float:
        """Share of the variance of all turns together that is explained."""
        return float(1 - np.nansum(self.off_N) / max(float(np.nansum(self.all_N)), 1e-300))


class Rebuilder:
    """The dictionary's block that is judged: the turn block, or for a token dictionary its tokens."""

    def __init__(self, dictionary: Dictionary, outlier_norm: float) -> None:
        self.unit = "turn" if "turn" in dictionary.blocks else "token"
        self._sae: SparseAutoencoder = dictionary.blocks[self.unit]
        self._outlier_norm = outlier_norm

    def centre(self, store: ActivationStore, rows: Ints) -> Floats:
        """Mean of the turns, or of their tokens that count."""
        total_D, n = np.zeros(store.d_model), 0
        for _, x_ND, _ in self._blocks(store, rows):
            total_D += x_ND.sum(axis=0, dtype=np.float64)
            n += len(x_ND)
        return total_D / max(n, 1)

    def errors(self, store: ActivationStore, rows: Ints, centre_D: Floats) -> Errors:
        """Of some turns, rows of the store."""
        off_N, all_N = np.zeros(len(rows)), np.zeros(len(rows))
        with progress("rebuilding", len(rows), "turns") as bar:
            for n_turns, x_ND, turn_of in self._blocks(store, rows):
                rebuilt_ND = self._sae.decode(self._sae.encode(x_ND)).numpy()
                off = ((x_ND - rebuilt_ND).astype(np.float64) ** 2).sum(axis=1)
                off_N += np.bincount(turn_of, off, len(rows))
                all_N += np.bincount(turn_of, ((x_ND - centre_D) ** 2).sum(axis=1), len(rows))
                bar.advance(n_turns)
        return Errors(off_N, all_N)

    def _blocks(self, store: ActivationStore, rows: Ints) -> Iterator[tuple[int, NDArray[np.float32], Ints]]:
        """(turns, activations, the place in `rows` that each belongs to)."""
        if self.unit == "turn":
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                yield len(part), store.mean_ND(part), np.arange(start, start + len(part))
            return
        from turnscope.harvest.turn_tokens import spread

        offsets = store.token_offsets
        sizes = np.diff(offsets)
        most = self._most_norm(store)
        first = 0
        while first < len(rows):
            fit = int(np.searchsorted(np.cumsum(sizes[rows[first:]]), _ROWS, side="right"))
            last = first + max(1, fit)
            places = spread(offsets[:-1], sizes, rows[first:last])
            x_TD = store.tokens_TD(places)
            keep_T = (store.token_positions_T(places) > 0) & (np.linalg.norm(x_TD, axis=1) <= most)
            turn_of = np.repeat(np.arange(first, last)[: len(rows) - first], sizes[rows[first:last]])
            yield len(rows[first:last]), x_TD[keep_T], turn_of[keep_T]
            first = last

    def _most_norm(self, store: ActivationStore) -> float:
        """The norm above which a token is a sink, as an index has it: so many times the median."""
        n = store.n_tokens_stored
        places = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)) if n else np.zeros(0, np.int64)
        return self._outlier_norm * float(np.median(np.linalg.norm(store.tokens_TD(places), axis=1))) if n else 0.0


def trust(file: Errors, baseline: Errors, cluster_N: Ints) -> dict[str, Any]:
    """Both distributions, and how many turns of the file are rebuilt worse than 95% of the baseline's."""
    usual = np.sort(baseline.nmse_N[np.isfinite(baseline.nmse_N)])
    mine_N = file.nmse_N
    told_N = np.isfinite(mine_N)
    if not len(usual) or not told_N.any():
        return {"withheld": "no turn has an activation to rebuild"}
    limit = float(np.quantile(usual, 0.95, method="higher"))
    worse_N = told_N & (mine_N > limit)
    share = rate(worse_N[told_N], cluster_N[told_N])
    return {
        "withheld": "", "explained_file": file.explained, "explained_baseline": baseline.explained,
        "quantiles_file": _quantiles(mine_N[told_N]), "quantiles_baseline": _quantiles(usual),
        "limit": limit, "worse": int(worse_N.sum()), "of": int(told_N.sum()), "of_baseline": len(usual),
        "share_worse": float(worse_N.sum() / told_N.sum()),
        "ci": None if isinstance(share, Withheld) else [share.low, share.high],
        "ci_withheld": share.reason if isinstance(share, Withheld) else "",
        "worst": np.argsort(np.where(worse_N, -mine_N, np.inf), kind="stable")[: int(worse_N.sum())].tolist(),
    }  # fmt: skip


def _quantiles(values: Floats) -> list[float]:
    return [float(each) for each in np.quantile(values, (0.05, 0.5, 0.95))]
