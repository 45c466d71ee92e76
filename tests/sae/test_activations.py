"""Selection rules against what they are by definition."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turnscope.sae import activations
from turnscope.sae.activations import above, batch_top_k, keep_largest, least_of_rows, top_k
from turnscope.sae.codes import SparseCodes


def identity_encoder(f: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An encoder whose pre-activations are its inputs."""
    return torch.eye(f), torch.zeros(f)


def test_batch_top_k_spends_the_budget_across_rows() -> None:
    pre_BF = torch.tensor([[5.0, 4.0, 3.0], [1.0, 0.5, -9.0]])
    codes = batch_top_k(pre_BF, *identity_encoder(3), k=2)
    assert codes.to_dense().tolist() == [[5.0, 4.0, 3.0], [1.0, 0.0, 0.0]]


def test_ties_at_the_cut_go_to_the_lowest_row_then_feature() -> None:
    pre_BF = torch.tensor([[0.0, 2.0, 2.0], [2.0, 7.0, 2.0]])
    codes = batch_top_k(pre_BF, *identity_encoder(3), k=1)
    assert codes.to_dense().tolist() == [[0.0, 2.0, 0.0], [0.0, 7.0, 0.0]]
    codes = batch_top_k(pre_BF, *identity_encoder(3), k=2)
    assert codes.to_dense().tolist() == [[0.0, 2.0, 2.0], [2.0, 7.0, 0.0]]


def test_negative_values_never_fill_the_budget() -> None:
    codes = batch_top_k(torch.tensor([[-1.0, 3.0], [-2.0, 0.0]]), *identity_encoder(2), k=2)
    assert codes.to_dense().tolist() == [[0.0, 3.0], [0.0, 0.0]]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(2, 12), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0, 9.0]), st.integers(0, 99)
)
def test_a_hint_never_changes_the_result(b: int, f: int, k: int, hint: float, seed: int) -> None:
    # Values on a coarse grid, so that ties are common.
    pre_BF = torch.randint(-4, 5, (b, f), generator=torch.Generator().manual_seed(seed)) / 4
    codes = batch_top_k(pre_BF, *identity_encoder(f), k=k, hint=hint)
    expected = torch.zeros(b * f)
    largest_first = sorted(range(b * f), key=lambda i: (-float(pre_BF.view(-1)[i]), i))
    for i in largest_first[: b * k]:
        if pre_BF.view(-1)[i] > 0:
            expected[i] = pre_BF.view(-1)[i]
    assert torch.equal(codes.to_dense(), expected.view(b, f))


def test_top_k_keeps_k_of_each_row_and_none_below_zero() -> None:
    pre_NF = torch.tensor([[1.0, 3.0, 2.0], [-1.0, 0.5, -2.0]])
    codes = top_k(pre_NF, *identity_encoder(3), k=2)
    assert codes.to_dense().tolist() == [[0.0, 3.0, 2.0], [0.0, 0.5, 0.0]]


def test_the_budget_may_exceed_what_there_is() -> None:
    codes = SparseCodes.from_dense(torch.tensor([[1.0, 2.0]]))
    assert keep_largest(codes, 5) is codes


@pytest.mark.parametrize("rule", ["above", "top_k"])
def test_rows_in_blocks_give_what_one_block_gives(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, w_DF, b_F = torch.randn(50, 6), torch.randn(6, 10), torch.randn(10)

    def encode() -> torch.Tensor:
        return (above(x_ND, w_DF, b_F, 0.5) if rule == "above" else top_k(x_ND, w_DF, b_F, 3)).to_dense()

    whole = encode()
    monkeypatch.setattr(activations, "BLOCK_ROWS", 7)
    monkeypatch.setattr(activations, "TILE_ELEMENTS", 0)
    assert torch.allclose(encode(), whole, atol=1e-6)
    assert len(above(x_ND[:0], w_DF, b_F, 0.0)) == 0


@settings(deadline=None, max_examples=40)
@given(
    st.integers(65, 90),
    st.integers(30, 60),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.1, 0.4, 3.0]),
    st.integers(0, 99),
)
def test_a_guess_never_changes_the_largest_of_rows(n: int, f: int, k: int, hint: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    c_ND, w_DF = torch.randn(n, 8, generator=generator), torch.randn(8, f, generator=generator)
    b_F = 0.3 * torch.randn(f, generator=generator)
    pre_NF = c_ND @ w_DF + b_F
    expected = torch.where(pre_NF >= pre_NF.topk(k, dim=1).values[:, -1:], pre_NF.relu(), torch.zeros(()))
    codes = top_k(c_ND, w_DF, b_F, k, hint)
    assert torch.allclose(codes.to_dense(), expected, atol=1e-5)
    least = least_of_rows(codes, c_ND, k)
    if least > 0:
        assert least == pytest.approx(float((expected.topk(k, dim=1).values[:, -1] / c_ND.norm(dim=1)).min()), rel=1e-4)


def test_a_guess_below_zero_lets_no_negative_value_in() -> None:
    pre_BF = torch.tensor([[1.0, -0.5, -2.0]])
    codes = batch_top_k(pre_BF, *identity_encoder(3), k=3, hint=-1.0)
    assert codes.to_dense().tolist() == [[1.0, 0.0, 0.0]]


def test_rows_that_a_bad_guess_missed_are_searched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes, dense = list[int](), activations._dense_top_k  # pyright: ignore[reportPrivateUsage]

    def watched(c_BD: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(c_BD))
        return dense(c_BD, *rest)

    monkeypatch.setattr(activations, "_dense_top_k", watched)
    c_ND, w_DF, b_F = torch.randn(500, 8), torch.randn(8, 100), torch.zeros(100)
    codes = top_k(c_ND, w_DF, b_F, 4, hint=100.0)
    assert (sum(sizes), max(sizes)) == (500, 64)
    expected_NK = torch.topk(c_ND @ w_DF, 4).values.sort(1).values
    torch.testing.assert_close(codes.values_E.view(500, 4).sort(1).values, expected_NK)
