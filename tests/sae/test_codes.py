"""Sparse codes against dense matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turnscope.artifacts import DataError
from turnscope.sae import SparseCodes
from turnscope.sae.sparse_ops import entry_dot, feature_order, feature_sum, weighted_row_sum


def random_dense(n: int, f: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, f, generator=generator) * (torch.rand(n, f, generator=generator) < density)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 20), st.sampled_from([0.0, 0.1, 0.6, 1.0]), st.integers(0, 999))
def test_every_form_agrees_with_the_dense_one(n: int, f: int, density: float, seed: int) -> None:
    dense_NF = random_dense(n, f, density, seed)
    codes = SparseCodes.from_dense(dense_NF)
    assert torch.equal(codes.to_dense(), dense_NF)
    assert torch.equal(codes.l0_N(), (dense_NF > 0).sum(1))
    assert torch.equal(codes.counts_F(), (dense_NF > 0).sum(0))
    for row in range(n):
        features, _ = codes.row(row)
        assert features.tolist() == sorted(features.tolist())
    middle = slice(n // 3, n - n // 4)
    assert torch.equal(codes[middle].to_dense(), dense_NF[middle])
    assert torch.equal(SparseCodes.cat([codes[: n // 2], codes[n // 2 :]]).to_dense(), dense_NF)
    padded = codes.padded()
    rebuilt = torch.zeros(n, f).scatter_add_(1, padded.indices_NK.long(), padded.values_NK)
    assert torch.equal(rebuilt, dense_NF)

    a_ND, b_FD = torch.randn(n, 5), torch.randn(f, 5)
    assert torch.allclose(weighted_row_sum(codes, b_FD), dense_NF @ b_FD, atol=1e-5)
    assert torch.allclose(feature_sum(feature_order(codes), codes.values_E, a_ND), dense_NF.t() @ a_ND, atol=1e-5)
    assert torch.allclose(entry_dot(codes, a_ND, b_FD), (a_ND @ b_FD.t())[dense_NF > 0], atol=1e-5)


def test_padding_refuses_to_drop_entries() -> None:
    codes = SparseCodes.from_dense(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    assert codes.padded(4).values_NK.shape == (2, 4)
    with pytest.raises(DataError, match="3 active"):
        codes.padded(2)


def test_entry_dot_without_the_sparse_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError("Calling addmm on a sparse CPU tensor requires compiling PyTorch with MKL")

    codes = SparseCodes.from_dense(random_dense(9, 14, 0.3, 1))
    a_ND, b_FD = torch.randn(9, 6), torch.randn(14, 6)
    expected = entry_dot(codes, a_ND, b_FD)
    monkeypatch.setattr(torch.sparse, "sampled_addmm", absent)
    assert torch.allclose(entry_dot(codes, a_ND, b_FD), expected, atol=1e-5)


def test_only_runs_of_rows_can_be_sliced() -> None:
    codes = SparseCodes.from_dense(torch.ones(4, 2))
    assert len(codes[3:1]) == 0
    with pytest.raises(ValueError, match="consecutive"):
        codes[::2]
