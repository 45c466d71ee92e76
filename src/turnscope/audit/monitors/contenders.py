"""A monitor and the four baselines on the same turns, with thresholds set in the same way.

Each is fitted on the fitting turns. Its threshold is set on scores that those turns get from fits that have not seen
their conversations (five folds), so that a score which learns its fitting turns by heart gains nothing.

Legend: M labelled turns, K features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import DataError
from turnscope.audit.baselines import BASELINES, Scorer, SparseScorer, fit_sparse_probe, grouped_folds
from turnscope.audit.monitors.figures import Point, conformal_threshold, judge, ranked
from turnscope.audit.monitors.labelled import Labelled
from turnscope.audit.monitors.scoring import Rule
from turnscope.audit.readings import Readings
from turnscope.stats import Estimate, Withheld, auroc

Floats = NDArray[np.float64]
Fit = Callable[..., Scorer]
_DRAWS = 300


@dataclass
class Contender:
    """One way to score turns.

    Attributes:
        name: in tables.
        score: of labelled turns of any index, (M,); or why it cannot.
        threshold: at the chosen false-positive rate, or why there is none.
        chosen: what its fit chose.
        held_auroc: AUROC within the fitting turns, on folds that the fit did not see; None of a rule, which has no fit.
        points: what it does, by the name of the set of turns.
    """

    name: str
    score: Callable[[Labelled], Floats | Withheld]
    threshold: float | Withheld
    chosen: str = ""
    held_auroc: float | None = None
    points: dict[str, Point | Withheld] = field(default_factory=dict[str, "Point | Withheld"])

    def judge(self, name: str, turns: Labelled, fpr: float, *, seed: int, n_boot: int) -> None:
        """Judge it on a set of labelled turns."""
        if not len(turns):
            self.points[name] = Withheld("no labelled turns")
            return
        scores = self.score(turns)
        if isinstance(scores, Withheld):
            self.points[name] = scores
            return
        at = None if isinstance(self.threshold, Withheld) else self.threshold
        self.points[name] = judge(scores, turns.labels, turns.clusters, at, fpr, seed=seed, n_boot=n_boot)


def of_rule(rule: Rule, fitting: Labelled, fpr: float) -> Contender:
    """A rule has nothing to fit; its threshold is set on its own scores. One without thresholds stays as written."""

    def score(turns: Labelled) -> Floats:
        return rule.scores(turns.readings.index)[turns.rows]

    scores = score(fitting)
    threshold = conformal_threshold(scores[~fitting.labels], fpr) if rule.can_be_raised else 1.0
    if not isinstance(threshold, Withheld) and np.isinf(threshold):
        threshold = Withheld("the part of the rule that has no threshold holds on more negatives than the rate allows")
    return Contender("this monitor", score, threshold, f"rule {rule.query}")


def of_probe(fitting: Labelled, fpr: float, *, k: int, features: tuple[int, ...] | None, seed: int) -> Contender:
    """A sparse probe over features, chosen or given."""

    def fit(x: Any, labels: Any, clusters: Any, *, seed: int) -> SparseScorer:
        return fit_sparse_probe(x, labels, clusters, k=k, features=features, seed=seed)

    return _fitted("this monitor", "codes", fit, fitting, fpr, seed)


def baselines(fitting: Labelled, fpr: float, seed: int, *, mine: Contender | None = None) -> list[Contender]:
    """The four baselines; one that has nothing to read says why.

    `mine` is given where the monitor is the very sparse probe that stands among them, which is not fitted twice then.
    """
    return [
        replace(mine, name=each.name, points={})
        if mine is not None and each.fit is fit_sparse_probe
        else _fitted(each.name, each.reads, each.fit, fitting, fpr, seed)
        for each in BASELINES
    ]


def scorer_of(contender: Contender) -> SparseScorer:
    """The probe behind a contender made by `of_probe`."""
    found = getattr(contender.score, "scorer", None)
    assert isinstance(found, SparseScorer)
    return found


def _fitted(name: str, reads: str, fit: Fit, fitting: Labelled, fpr: float, seed: int) -> Contender:
    x = read(fitting, reads)
    if isinstance(x, Withheld):
        return Contender(name, lambda turns: x, x)
    try:
        scorer = fit(x, fitting.labels, fitting.clusters, seed=seed)
        threshold, held_auroc = _set_threshold(fit, scorer, x, fitting, fpr, seed)
    except DataError as error:
        withheld = Withheld(error.what)
        return Contender(name, lambda turns: withheld, withheld)
    return Contender(name, _Score(scorer, reads), threshold, getattr(scorer, "chosen", ""), held_auroc)


@dataclass(frozen=True)
class _Score:
    scorer: Scorer
    reads: str

    def __call__(self, turns: Labelled) -> Floats | Withheld:
        x = read(turns, self.reads)
        return x if isinstance(x, Withheld) else self.scorer.score(x)


def read(turns: Labelled, what: str) -> Any:
    """What a fit reads of some turns: codes, means or texts; or why they are not there."""
    if what not in turns.read:
        readings: Readings = turns.readings
        read_of = {"codes": readings.codes_MF, "means": readings.means_MD, "texts": readings.texts}
        turns.read[what] = read_of[what](turns.rows)
    return turns.read[what]


def _set_threshold(
    fit: Fit, scorer: Scorer, x: Any, turns: Labelled, fpr: float, seed: int
) -> tuple[float | Withheld, float | None]:  # fmt: skip
    """The conformal threshold of scores out of fold, put on the scale of the whole fit, and their AUROC, fold by fold.

    A fold's scores are counted from the mean, and in deviations, of the negatives that it was fitted on, since fits
    need not agree on a scale. The threshold is no lower than the one of the whole fit's own scores: where most
    negatives score alike, to the last digit, a threshold a hair below them would raise an alert on all of them.
    """
    negative_M = ~turns.labels
    own = conformal_threshold(scorer.score(x)[negative_M], fpr)
    if isinstance(own, Withheld):
        return own, None
    out_of_fold, aurocs = list[Floats](), list[float]()
    for inside, outside in grouped_folds(turns.labels, turns.clusters, seed + 1):
        part = fit(_rows(x, inside), turns.labels[inside], turns.clusters[inside], seed=seed)
        middle, spread = _scale(part.score(_rows(x, inside[negative_M[inside]])))
        scores = part.score(_rows(x, outside))
        out_of_fold.append((scores[negative_M[outside]] - middle) / spread)
        if turns.labels[outside].any() and negative_M[outside].any():
            aurocs.append(auroc(ranked(scores), turns.labels[outside]))
    held_auroc = float(np.mean(aurocs)) if aurocs else None
    if not out_of_fold:
        return Withheld("too few conversations to keep some from the fit, and a threshold needs scores of such"), None
    held = conformal_threshold(np.concatenate(out_of_fold), fpr)
    if isinstance(held, Withheld):
        return held, held_auroc
    middle, spread = _scale(scorer.score(x)[negative_M])
    return max(own, middle + spread * held), held_auroc


def _scale(scores: Floats) -> tuple[float, float]:
    return float(scores.mean()), float(scores.std()) or 1.0


def _rows(x: Any, rows: Any) -> Any:
    return [x[i] for i in rows] if isinstance(x, list) else x[rows]


@dataclass(frozen=True)
class Difference:
    """A monitor's AUROC minus another contender's on the same turns, with its interval."""

    name: str
    value: Estimate


def best_other(mine: Contender, others: list[Contender], turns: Labelled, seed: int) -> Difference | None:
    """How far the monitor is from the best contender on some turns, by paired bootstrap.

    The best is the one of the highest AUROC within the fitting turns: chosen on the turns that judge it, the best of
    four would flatter itself. None where none could be fitted.
    """
    scores = mine.score(turns)
    known = [(each, each.score(turns)) for each in others if each.held_auroc is not None]
    known = [(each, theirs) for each, theirs in known if not isinstance(theirs, Withheld)]
    if isinstance(scores, Withheld) or not known or turns.labels.all() or not turns.labels.any():
        return None
    best, theirs = max(known, key=lambda pair: pair[0].held_auroc or 0.0)
    return Difference(best.name, _paired(ranked(scores), ranked(theirs), turns, seed))


def _paired(mine: Floats, theirs: Floats, turns: Labelled, seed: int) -> Estimate:
    names, number_M = np.unique(turns.clusters, return_inverse=True)
    order = np.argsort(number_M, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(number_M))[:-1])
    rng, draws = np.random.default_rng(seed), list[float]()
    for _ in range(_DRAWS):
        drawn = np.concatenate([parts[i] for i in rng.integers(0, len(names), len(names))])
        labels = turns.labels[drawn]
        if labels.any() and not labels.all():
            draws.append(auroc(mine[drawn], labels) - auroc(theirs[drawn], labels))
    low, high = np.quantile(draws, (0.025, 0.975)) if draws else (-1.0, 1.0)
    value = auroc(mine, turns.labels) - auroc(theirs, turns.labels)
    positives = int(turns.labels.sum())
    return Estimate(value, float(low), float(high), positives, len(turns) - positives, len(names))
