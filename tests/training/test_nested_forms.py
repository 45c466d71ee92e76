"""The comparison of nested forms: forms held against the product's where they must agree, and the rule."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from turnscope.training.architectures.nested import Nested
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import resolve_defaults

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from nested_forms import FORMS, Joint
from nested_rule import Row, verdict

D, F, K = 6, 20, 2
LENGTHS = torch.tensor([1, 4, 2, 3])


def settings() -> ResolvedConfig:
    config = TrainConfig(out=Path("unused"), unit="nested", n_features=F, k=K, turn_k=K, turn_weight=0.3)
    return resolve_defaults(config, 1000, D)


def made(kind: type[Nested]) -> tuple[Any, dict[str, Tensor]]:
    form, generator = kind(settings(), 5.0, 7.0), torch.Generator().manual_seed(1)
    return form, {n: torch.randn(*shape, generator=generator) for n, shape in form.shapes(D).items()}


def batch(lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tokens_TD = torch.randn(int(lengths_B.sum()), D, generator=torch.Generator().manual_seed(2))
    mean_BD = torch.stack([part.mean(0) for part in tokens_TD.split(lengths_B.tolist())])
    return mean_BD, tokens_TD, lengths_B


@torch.no_grad()
def test_with_turns_of_one_token_a_block_that_reads_tokens_is_one_that_reads_means() -> None:
    """The mean over one token is the token, so N2 and N1 are one function there, and have one gradient."""
    given, none = batch(torch.ones(12, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64)
    (n1, weights), (n2, _) = made(Nested), made(FORMS["N2"])
    expected, found = (form.step(weights, given, none, 0.5) for form in (n1, n2))
    assert found.total == pytest.approx(expected.total, rel=1e-5)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_prefix_is_averaged_after_one_selection_over_the_whole_code() -> None:
    form, weights = made(Joint)
    mean_BD, tokens_TD, lengths_B = given = batch(LENGTHS)
    found = form.find(weights, given)
    assert found.prefix_TM is not None
    code_TF = torch.cat([found.prefix_TM, found.token_TP], dim=1)
    assert int((code_TF > 0).sum()) == len(tokens_TD) * 2 * K
    for turn, own in enumerate(found.prefix_TM.split(lengths_B.tolist())):
        torch.testing.assert_close(found.turn_BM[turn], own.mean(0))
    decoder = torch.cat([weights["turn.w_dec_FD"], weights["token.w_dec_FD"]])
    torch.testing.assert_close(found.token_hat_TD, code_TF @ decoder + weights["token.b_dec_D"])
    # the errors by hand, turn by turn
    turn = (found.turn_hat_BD - mean_BD).square().sum(1).mean() / 5.0
    by_turn = (found.token_hat_TD - tokens_TD).square().sum(1).split(lengths_B.tolist())
    token = torch.stack([part.mean() for part in by_turn]).mean() / 7.0
    torch.testing.assert_close(form.loss(found, weights, given), 0.2 * turn + 0.8 * token)


@pytest.mark.parametrize("name", FORMS)
def test_fitted_thresholds_keep_as_many_as_training_did(name: str) -> None:
    form, weights = made(FORMS[name])
    given = batch(LENGTHS.repeat(5))
    trained = form.find(weights, given)
    form.fit(weights, given)
    read = form.find(weights, given)
    torch.testing.assert_close(read.turn_BM, trained.turn_BM)
    torch.testing.assert_close(read.token_TP, trained.token_TP)


@pytest.mark.parametrize(
    ("table", "winner", "admissible"),
    [
        # recovery decides beyond .01
        ({"N1": Row(0.2, 0.2, 0.80, 0.1), "N2": Row(0.2, 0.2, 0.82, 0.1)}, "N2", ("N1", "N2")),
        # within .01 the errors decide
        ({"N1": Row(0.21, 0.2, 0.80, 0.1), "N2": Row(0.2, 0.2, 0.809, 0.1)}, "N2", ("N1", "N2")),
        # errors within 2 %: the simplest
        ({"N2": Row(0.2, 0.2, 0.80, 0.1), "N1": Row(0.201, 0.2, 0.80, 0.1)}, "N1", ("N2", "N1")),
        # too large an error of either kind, or no response, and a form is out
        ({"N1": Row(0.23, 0.2, 0.99, 0.1), "joint": Row(0.2, 0.2, 0.8, 0.1)}, "joint", ("joint",)),
        ({"N1": Row(0.2, 0.2, 0.8, 0.1), "joint": Row(0.2, 0.23, 0.99, 0.1)}, "N1", ("N1",)),
        ({"N1": Row(0.2, 0.2, 0.8, 0.1), "decoupled": Row(0.2, 0.2, 0.99, 1e-7)}, "N1", ("N1",)),
        # none is admissible: the one that is out for its response still sets the bar for the errors
        ({"N1": Row(0.3, 0.3, 0.8, 0.1), "decoupled": Row(0.2, 0.2, 0.99, 0.0)}, "N1", ()),
    ],
)  # fmt: skip
def test_the_rule(table: dict[str, Row], winner: str, admissible: tuple[str, ...]) -> None:
    told = verdict(table)
    assert (told.winner, told.admissible) == (winner, admissible)
