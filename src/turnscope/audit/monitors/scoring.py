"""How strongly a turn answers to a monitor: a rule of the query language, or a weighted sum of a few features.

A rule is either true or not. So that it can be set to a false-positive rate, its score is by how much all its feature
thresholds could be raised, in proportion, with the rule still true: of `F1 > 0.5` the value over 0.5; of `A & B` the
smaller score, of `A | B` the larger. What has no feature threshold above zero to raise (`role = assistant`, `F3`,
`!F7`, `next(F9 > 2)`) is a gate: without end where it holds, 0 where it does not. A turn raises an alert when its score
exceeds the threshold; at 1 that is the rule as written.

Legend: N turns of an index, K features of a probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from turnscope.artifacts import ConfigError
from turnscope.features.query.bind import Index, Names, leaves
from turnscope.features.query.errors import QueryError
from turnscope.features.query.evaluate import Evaluation, number_of
from turnscope.features.query.grammar import parse
from turnscope.features.query.tree import And, Count, FeatureTest, FieldTest, Near, Node, Not, Or, Threshold, canonical

Floats = NDArray[np.float64]
FIELDS = ("role", "turn", "n_tokens")
"""What a rule may test of a turn beside features: known of any turn that comes along."""


@dataclass(frozen=True)
class Rule:
    """A query with feature numbers and raw thresholds; it needs no index to be understood."""

    query: str

    @property
    def features(self) -> tuple[int, ...]:
        """Features that it names, in order."""
        found = (int(test.feature) for test in leaves(parse(self.query)) if isinstance(test, FeatureTest))
        return tuple(dict.fromkeys(found))

    @property
    def can_be_raised(self) -> bool:
        """Whether there is a feature threshold that a calibration can move."""
        return any(_graded(parse(self.query)))

    def scores(self, index: Index) -> Floats:
        """(N,) of all turns of an index."""
        names = Names(index)
        node = names.bind(parse(self.query), self.query)
        return _scores(node, Evaluation(index, names), index.n_turns)


@dataclass(frozen=True)
class Probe:
    """A weighted sum of features."""

    features: tuple[int, ...]
    weights: tuple[float, ...]
    bias: float

    def scores(self, index: Index) -> Floats:
        """(N,) of all turns of an index."""
        total_N = np.full(index.n_turns, self.bias)
        for feature, weight in zip(self.features, self.weights, strict=True):
            rows, values = index.feature_turns(feature)
            total_N[rows] += weight * np.asarray(values, np.float64)
        return total_N


def settle(text: str, index: Index) -> Rule:
    """A rule as the index understands it: explanations become feature numbers, percentiles and maxima numbers.

    Raises QueryError for a mistake, an unknown feature, and for labels and fields that a turn of tomorrow has not.
    """
    names = Names(index)
    node = names.bind(parse(text), text)
    for test in leaves(node):
        if isinstance(test, FieldTest) and (test.is_label or test.name not in FIELDS):
            what = f"a monitor cannot test {'the label ' if test.is_label else ''}{test.name}: new turns do not have it"
            fix = f"test {', '.join(FIELDS)} and features; choose by labels in --positive and --negative"
            raise QueryError(what, text, test.place.start, test.place.end, fix=fix)
    if not any(isinstance(test, FeatureTest) for test in leaves(node)):
        raise ConfigError(
            f"the rule names no feature: {text}", fix='name one: F12 > 0.4, or "words of its explanation"'
        )
    evaluation = Evaluation(index, names)
    return Rule(canonical(_settled(node, evaluation, text)))


def _settled(node: Node, evaluation: Evaluation, text: str) -> Node:
    match node:
        case And(items):
            return And(tuple(_settled(item, evaluation, text) for item in items))
        case Or(items):
            return Or(tuple(_settled(item, evaluation, text) for item in items))
        case Not(item) | Near(item=item) | Count(item=item):
            return replace(node, item=_settled(item, evaluation, text))
        case FeatureTest(threshold=Threshold() as threshold) if threshold.kind != "raw":
            assert isinstance(node.feature, int)
            number = number_of(threshold, evaluation.postings(node.feature)[1])
            if number is None:
                raise QueryError(
                    f"F{node.feature} is active on no turn of the index: it has no percentiles and no maximum",
                    text, node.place.start, node.place.end, fix="give a number: F12 > 0.4",
                )  # fmt: skip
            return replace(node, threshold=Threshold("raw", number, threshold.place))
        case _:
            return node


def _graded(node: Node) -> Iterator[bool]:
    match node:
        case And(items) | Or(items):
            for item in items:
                yield from _graded(item)
        case FeatureTest():
            yield _is_graded(node)
        case _:
            yield False


def _is_graded(test: FeatureTest) -> bool:
    return test.threshold is not None and test.operator in (">", ">=") and test.threshold.value > 0


def _scores(node: Node, evaluation: Evaluation, n: int) -> Floats:
    match node:
        case And(items):
            return np.minimum.reduce([_scores(item, evaluation, n) for item in items])
        case Or(items):
            return np.maximum.reduce([_scores(item, evaluation, n) for item in items])
        case FeatureTest(threshold=Threshold() as threshold) if _is_graded(node):
            assert isinstance(node.feature, int)
            rows, values = evaluation.postings(node.feature)
            score_N = np.zeros(n)
            score_N[rows] = values / threshold.value
            # "at least" holds at the threshold itself, where "more than" does not
            return np.where(score_N > 0, np.nextafter(score_N, np.inf), 0) if node.operator == ">=" else score_N
        case _:
            score_N = np.zeros(n)
            score_N[evaluation.rows(node).ascending()] = np.inf
            return score_N
