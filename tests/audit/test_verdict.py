"""What a contrast says in words, for each of its outcomes."""

from __future__ import annotations

from typing import Any

import pytest

from turnscope.audit.verdict import verdict


def row(auroc: float, **changes: Any) -> dict[str, Any]:
    return {
        "feature": 7, "up_in": "a", "auroc": auroc, "chosen_auroc": auroc, "ci": [auroc - 0.05, auroc + 0.05],
        "separates": auroc >= 0.7, "differs": True, "confounded_by": [], "within": [], **changes,
    }  # fmt: skip


def report(rows: list[dict[str, Any]], confounds: list[tuple[str, float]] = [], **changes: Any) -> dict[str, Any]:  # noqa: B006
    return {
        "features": rows, "confounds": [{"name": name, "auroc": value} for name, value in confounds],
        "together": None, "least": 0.7, "differ": 1, **changes,
    }  # fmt: skip


LENGTH = {"confounded_by": ["turn length"], "within": [{"name": "turn length", "auroc": 0.55, "explains": True}]}
TOGETHER = {"features": 20, "auroc": 0.85, "ci": [0.8, 0.9], "separates": True, "confounded_by": []}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (report([row(0.9)]), "One feature separates A from B on turns it was not chosen on; first F7 (up in A), AUROC "
         "held out .90 [.85, .95]."),
        (report([row(0.6)]), "No feature separates A from B: best F7 (up in A), AUROC held out .60 [.55, .65], .70 "
         "asked for. 1 of the 1 tried fire more on one side, too little to tell one turn from another."),
        (report([row(0.52, differs=False)], differ=0), "No feature separates A from B: best F7 (up in A), AUROC held "
         "out .52 [.47, .57], .70 asked for. Nothing differs more than two random halves would."),
        (report([row(0.8, **LENGTH)], [("turn length", 0.78)]), "No feature separates A from B by more than turn "
         "length: the first, F7 (up in A), AUROC held out .80 [.75, .85], reaches .55 among turns that are alike in "
         "this. A and B differ in other things: turn length alone reaches .78, too."),
        (report([row(0.8, **LENGTH)], [("turn length", 0.93)]), "No feature separates A from B better than turn length "
         "does alone (.93): first F7 (up in A), AUROC held out .80 [.75, .85]."),
        (report([row(0.6)], together=TOGETHER), "The 20 tried do separate them together: AUROC .85 [.80, .90]."),
        (report([row(0.6)], together={**TOGETHER, "separates": False, "auroc": 0.6, "ci": [0.5, 0.7]}),
         "Nor do the 20 tried together: AUROC .60 [.50, .70]."),
        (report([row(0.6)], together={**TOGETHER, "confounded_by": ["position"]}),
         "The 20 tried reach AUROC .85 [.80, .90] together, no more than position can explain."),
        (report([row(1.0, ci=None)]), "AUROC held out 1."),
        (report([row(0.9996, ci=[0.999, 1.0])]), "AUROC held out .99 [.99, 1]."),
        (report([]), "No feature separates A from B: none fires in enough conversations to be tried."),
        ({"withheld": "set A has only 3 conversations"}, "No figures: set A has only 3 conversations."),
    ],
)  # fmt: skip
def test_every_outcome_is_said_in_plain_words(given: dict[str, Any], said: str) -> None:
    assert said in verdict(given)


def test_what_outdoes_every_feature_is_told_once() -> None:
    assert verdict(report([row(0.8, **LENGTH)], [("turn length", 0.93)])).count("turn length") == 1
