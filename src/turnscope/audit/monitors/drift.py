"""`turnscope monitor drift`: do turns of today look as those did that a monitor was calibrated on? No torch.

Held against the reference in the monitor's file: the share of alerts, how often each feature fires, and the scores as a
whole by the population stability index (PSI) over bins that hold a tenth of the reference each, and by the largest gap
between the two cumulative shares (Kolmogorov and Smirnov's D). Intervals and tests count what the conversations are
worth, not the turns. A shift that is too small to matter is told from one that is too small to be sure of.

Legend: R turns looked at, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from turnscope.artifacts import ConfigError, DataError, write_json
from turnscope.audit.config import MonitorDriftConfig
from turnscope.audit.monitors.figures import effective_number, short, wilson
from turnscope.audit.monitors.file import Monitor, read_monitor
from turnscope.audit.monitors.reference import capped, everyday_rows
from turnscope.audit.readings import Readings
from turnscope.features.store import open_index
from turnscope.stats import benjamini_hochberg

Floats = NDArray[np.float64]
Word = Literal["drifted", "some drift", "no drift", "too few to tell"]
SMALL, LARGE = 0.1, 0.25
"""PSI up to which a shift is small, and from which it is large: the rule of thumb of credit scoring."""
_BINS = 10
_FLOOR = 1e-4
_TIMES = 1.5  # a density so many times another is a shift that matters
_FDR = 0.05
_MIN_CONVERSATIONS = 20


@dataclass(frozen=True)
class Share:
    """How often something happens now and in the reference; `q` is its p value, adjusted over all shares."""

    name: str
    now: float
    low: float
    high: float
    reference: float
    p: float
    q: float
    word: Word


@dataclass(frozen=True)
class DriftResult:
    """A drift report.

    Attributes:
        psi, psi_low, psi_high: of the scores, less what chance alone would give; interval by conversation.
        psi_chance: PSI that no drift at all exceeds one time in twenty.
        ks, ks_low, ks_high: largest gap between the cumulative shares of scores.
        shares: the share of alerts first, then every feature.
    """

    monitor: str
    n_turns: int
    n_conversations: int
    reference_turns: int
    psi: float
    psi_low: float
    psi_high: float
    psi_chance: float
    ks: float
    ks_low: float
    ks_high: float
    word: Word
    shares: tuple[Share, ...]
    words: str


def run(config: MonitorDriftConfig) -> DriftResult:
    """Hold an index against a monitor's reference.

    Raises ConfigError for a monitor without a reference, DataError for no turns, IntegrityError for another dictionary.
    """
    monitor = read_monitor(config.monitor)
    reference = monitor.reference
    if reference is None:
        raise ConfigError("this monitor has no reference", where=config.monitor, fix="fit it: turnscope monitor fit")
    index = open_index(config.index, config.transcripts)
    monitor.require_dictionary(index.artifact.manifest.inputs.get("sae", ""), config.index)
    rows = everyday_rows(index, monitor.roles, config.splits)
    notices: Sequence[str] = ()
    if config.where:
        found = index.query(config.where)
        rows, notices = np.intersect1d(rows, found.rows), found.notices
    if not len(rows):
        why = f" ({'; '.join(notices)})" if notices else f" of the role {' or '.join(monitor.roles)}"
        raise DataError(f"no turn to look at{why}", where=config.index, fix="widen --where or --splits")
    clusters_R = Readings(index).clusters(rows)
    names, cluster_R = np.unique(clusters_R, return_inverse=True)
    scores_R = monitor.scorer.scores(index)[rows]
    hits = {f"F{each.feature}": index.matrix([each.feature], rows)[:, 0] > 0 for each in reference.features}
    if monitor.threshold is not None:  # of the scores as they are: rounded, one that equals the threshold may exceed it
        hits["alerts"] = scores_R > monitor.threshold
    result = _compare(monitor, capped(scores_R), hits, cluster_R, len(names), config)
    if config.out is not None:
        write_json(config.out, asdict(result))
    return result


def _compare(
    monitor: Monitor, scores_R: Floats, hits: dict[str, NDArray[np.bool_]], cluster_R: NDArray[np.intp],
    n_conversations: int, config: MonitorDriftConfig,
) -> DriftResult:  # fmt: skip
    reference = monitor.reference
    assert reference is not None
    points = capped(reference.scores)
    edges = bin_edges(points)
    usual_B = binned(points, edges) / len(points)
    bin_R = np.searchsorted(edges, scores_R, side="left")
    now_B = np.bincount(bin_R, minlength=len(edges) + 1) / len(scores_R)
    # chance alone gives a PSI of the sum over bins of (1 - share) / number, so numbers are averaged as their inverses
    worth = 1 / float(np.mean([1 / effective_number(bin_R == b, cluster_R) for b in np.unique(bin_R)]))
    usual_worth = min(reference.n_alerts_worth or reference.n_turns, reference.n_turns)
    usual_worth = max(usual_worth, reference.n_conversations)
    noise = 1 / worth + 1 / usual_worth
    bias = len(edges) * noise
    value = psi(now_B, usual_B)
    gap = largest_gap(scores_R, points)
    psis, gaps = _bootstrap(bin_R, scores_R, cluster_R, n_conversations, usual_B, points, config)
    chance = float(chi2.ppf(0.95, max(1, len(edges))) * noise)
    low, high = (float(max(0.0, x)) for x in np.quantile(psis, (0.025, 0.975)) - bias - len(edges) / worth)
    corrected = max(0.0, value - bias)
    word = _word(corrected, value > chance, n_conversations)
    shares = _shares(monitor, hits, cluster_R, n_conversations)
    gap_low, gap_high = (float(x) for x in np.quantile(gaps, (0.025, 0.975)))
    return DriftResult(
        monitor.name, len(scores_R), n_conversations, reference.n_turns, short(corrected), short(min(low, corrected)),
        short(max(high, corrected)), short(chance), short(gap), short(min(gap_low, gap)),
        short(max(gap_high, gap)), word, shares, _in_words(monitor, word, corrected, shares, n_conversations),
    )  # fmt: skip


def bin_edges(points: Floats) -> Floats:
    """Upper edges of the bins but the last, each about a tenth of the reference; many equal scores share one bin.

    Where all are equal, that value has a bin between those below and above it.
    """
    inner = np.quantile(points, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    edges = np.unique(inner)
    edges = edges[edges < points[-1]]
    return edges if len(edges) else np.array([np.nextafter(points[-1], -np.inf), points[-1]])


def binned(values: Floats, edges: Floats) -> Floats:
    """How many values lie in each bin; a value on an edge belongs below it."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).astype(np.float64)


def psi(now_B: Floats, usual_B: Floats) -> float:
    """Sum of (now - usual) ln(now / usual); an empty bin counts as one in ten thousand.

    >>> round(psi(np.array([.5, .5]), np.array([.25, .75])), 4)
    0.2747
    """
    now, usual = np.maximum(now_B, _FLOOR), np.maximum(usual_B, _FLOOR)
    return float(((now - usual) * np.log(now / usual)).sum())


def largest_gap(values: Floats, points: Floats) -> float:
    """Kolmogorov and Smirnov's D between values and evenly spaced percentiles of another set."""
    at = np.unique(points)
    mine = np.searchsorted(np.sort(values), at, side="right") / len(values)
    theirs = np.searchsorted(points, at, side="right") / len(points)
    return float(np.abs(mine - theirs).max())


def _bootstrap(
    bin_R: NDArray[np.intp], scores_R: Floats, cluster_R: NDArray[np.intp], n_clusters: int, usual_B: Floats,
    points: Floats, config: MonitorDriftConfig,
) -> tuple[Floats, Floats]:  # fmt: skip
    """PSI and gap of resampled conversations, by weights."""
    at = np.unique(points)
    place_R = np.searchsorted(at, scores_R, side="left")
    theirs = np.searchsorted(points, at, side="right") / len(points)
    rng = np.random.default_rng(config.seed)
    psis, gaps = np.zeros(config.n_boot), np.zeros(config.n_boot)
    for draw in range(config.n_boot):
        weight_R = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters))[cluster_R].astype(np.float64)
        total = weight_R.sum()
        if not total:
            continue
        psis[draw] = psi(np.bincount(bin_R, weight_R, len(usual_B)) / total, usual_B)
        mine = np.cumsum(np.bincount(place_R, weight_R, len(at) + 1))[:-1] / total
        gaps[draw] = np.abs(mine - theirs).max()
    return psis, gaps


def _shares(
    monitor: Monitor, hits: dict[str, NDArray[np.bool_]], cluster_R: NDArray[np.intp], n_conversations: int
) -> tuple[Share, ...]:
    reference = monitor.reference
    assert reference is not None
    usual = {f"F{each.feature}": each.n_active for each in reference.features}
    if "alerts" in hits and reference.n_alerts is not None:
        usual = {"alerts": reference.n_alerts, **usual}
    measured = [(name, *_share(hits[name], cluster_R, n, reference.n_turns, reference.n_conversations))
                for name, n in usual.items()]  # fmt: skip
    adjusted = benjamini_hochberg([row[-1] for row in measured])
    return tuple(
        Share(name, short(now), short(low), short(high), short(usual), short(p), short(float(q)),
              _share_word(now, usual, float(q), n_conversations))
        for (name, now, low, high, usual, p), q in zip(measured, adjusted, strict=True)
    )  # fmt: skip


def _share(
    hits_R: NDArray[np.bool_], cluster_R: NDArray[np.intp], n_usual: int, n_turns: int, n_conversations: int
) -> tuple[float, float, float, float, float]:
    """(share now, its interval, share before, p): a two-proportion z test on effective numbers."""
    now, usual = float(hits_R.mean()), n_usual / n_turns
    worth = effective_number(hits_R, cluster_R)
    low, high = wilson(now, worth)
    # of the reference only counts are known: its turns are taken to be alike as these are
    usual_worth = max(min(n_conversations, n_turns), n_turns * worth / len(hits_R))
    pooled = (now * worth + usual * usual_worth) / (worth + usual_worth)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / worth + 1 / usual_worth))
    p = 1.0 if spread == 0 else float(2 * norm.sf(abs(now - usual) / spread))
    return now, low, high, usual, min(1.0, p)


def _share_word(now: float, usual: float, q: float, n_conversations: int) -> Word:
    if n_conversations < _MIN_CONVERSATIONS:
        return "too few to tell"
    if q > _FDR:
        return "no drift"
    high, low = max(now, usual), max(min(now, usual), 1e-9)
    return "drifted" if high / low >= _TIMES else "some drift"


def _word(corrected: float, is_told_from_chance: bool, n_conversations: int) -> Word:
    if n_conversations < _MIN_CONVERSATIONS:
        return "too few to tell"
    if not is_told_from_chance or corrected < SMALL:
        return "no drift"
    return "drifted" if corrected >= LARGE else "some drift"


def _in_words(monitor: Monitor, word: Word, value: float, shares: tuple[Share, ...], n_conversations: int) -> str:
    if word == "too few to tell":
        only = "Only one conversation" if n_conversations == 1 else f"Only {n_conversations} conversations"
        return f"{only}: {_MIN_CONVERSATIONS} are needed to tell drift from chance."
    moved = [each for each in shares if each.word == "drifted"]
    what = {
        "drifted": f"The scores have drifted (PSI {value:.2f}): what was measured of this monitor may hold no longer.",
        "some drift": f"The scores have moved somewhat (PSI {value:.2f}).",
        "no drift": f"The scores lie as they did (PSI {value:.2f}).",
    }[word]
    if moved:
        named = ", ".join(f"{each.name} {each.now:.3g} instead of {each.reference:.3g}" for each in moved[:8])
        what += f" {named}."
    if word == "drifted" or any(each.name == "alerts" for each in moved):
        what += f" Fit {monitor.name} again on turns like these before trusting its rates."
    return what


def as_plain(result: DriftResult) -> dict[str, Any]:
    """For JSON."""
    return asdict(result)
