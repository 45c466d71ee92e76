"""Each architecture's hand-written gradients against autograd of its dense formula (METHODS section 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_synthetic import planted

from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.training.architectures import make
from turnscope.training.architectures.matryoshka import Matryoshka
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import resolve_defaults
from turnscope.training.sources import ArraySource
from turnscope.training.step import Architecture, Step, Tensors, clip_, remove_parallel
from turnscope.training.train import run

B, D, F, K = 24, 7, 30, 3
VARIANCE, ALPHA, LAMBDA, WIDTH = 5.0, 0.5, 0.03, 0.53


def settings(architecture: str, **more: Any) -> ResolvedConfig:
    config = TrainConfig(
        out=Path("unused"), architecture=architecture, n_features=F, auxk_coefficient=ALPHA,
        sparsity_warmup=0.0, bandwidth=WIDTH, **{"k": K, "auxk_k": 2, "sparsity": LAMBDA, **more},
    )  # fmt: skip
    return resolve_defaults(config, 1000, D)


def random_weights(architecture: Architecture, dtype: torch.dtype) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    shapes = architecture.shapes(D).items()
    weights = {name: torch.randn(*shape, generator=generator, dtype=dtype) for name, shape in shapes}
    weights["b_enc_F"] *= 0.3
    if architecture.unit_norm:
        weights["w_dec_FD"] /= weights["w_dec_FD"].norm(dim=1, keepdim=True)
    if "r_mag_F" in weights:
        weights["r_mag_F"] *= 0.2
    if "log_threshold_F" in weights:  # half the window, .26, below a threshold lies above zero
        weights["log_threshold_F"] = weights["log_threshold_F"].abs().add_(0.3).log()
    return weights


class Dense:
    """The formulas over full matrices."""

    def __init__(self, weights: Tensors, x_BD: Tensor) -> None:
        self.w, self.x_BD = weights, x_BD
        self.u_BF = (x_BD - weights["b_dec_D"]) @ weights["w_enc_FD"].t()
        self.pre_BF = (self.u_BF + weights["b_enc_F"]).relu()

    def decode(self, z_BF: Tensor) -> Tensor:
        return z_BF @ self.w["w_dec_FD"] + self.w["b_dec_D"]

    def error(self, z_BF: Tensor) -> Tensor:
        return (self.x_BD - self.decode(z_BF)).square().sum() / (B * VARIANCE)

    def topk(self) -> tuple[Tensor, Tensor]:
        cut_B1 = self.pre_BF.detach().topk(K, dim=1).values[:, -1:]
        z_BF = self.pre_BF * (self.pre_BF >= cut_B1)
        return self.error(z_BF), z_BF

    def batchtopk_code(self) -> Tensor:
        cut = self.pre_BF.detach().view(-1).topk(B * K).values[-1]
        return self.pre_BF * (self.pre_BF >= cut)

    def batchtopk(self) -> tuple[Tensor, Tensor]:
        z_BF = self.batchtopk_code()
        return self.error(z_BF), z_BF

    def matryoshka(self) -> tuple[Tensor, Tensor]:
        z_BF = self.batchtopk_code()
        ends = [8, 15, F]
        inside = [torch.arange(F) < end for end in ends]
        return torch.stack([self.error(z_BF * mask) for mask in inside]).mean(), z_BF

    def relu(self) -> tuple[Tensor, Tensor]:
        penalty = (self.pre_BF * self.w["w_dec_FD"].norm(dim=1)).sum() / B
        return self.error(self.pre_BF) + LAMBDA * penalty, self.pre_BF

    def jumprelu(self) -> tuple[Tensor, Tensor]:
        theta_F, width = self.w["log_threshold_F"].exp(), WIDTH
        z_BF = Jump.apply(self.pre_BF, theta_F, width)
        l0 = Step_.apply(self.pre_BF, theta_F, width).sum() / B
        return self.error(z_BF) + LAMBDA * (2 / K) * (l0 - K) ** 2, z_BF

    def gated(self) -> tuple[Tensor, Tensor]:
        z_BF = (self.pre_BF.detach() > 0) * (self.w["r_mag_F"].exp() * self.u_BF + self.w["b_mag_F"]).relu()
        frozen_BD = self.pre_BF @ self.w["w_dec_FD"].detach() + self.w["b_dec_D"].detach()
        gate_error = (self.x_BD - frozen_BD).square().sum() / (B * VARIANCE)
        return self.error(z_BF) + gate_error + LAMBDA * self.pre_BF.sum() / B, z_BF

    def auxk(self, z_BF: Tensor, dead_A: Tensor, k: int) -> Tensor:
        if not len(dead_A):
            return torch.zeros(())
        e_BD = (self.x_BD - self.decode(z_BF)).detach()
        acts_BA = self.pre_BF[:, dead_A]
        top = acts_BA.topk(min(k, len(dead_A)), dim=1)
        acts_BA = torch.zeros_like(acts_BA).scatter(1, top.indices, top.values)
        spread = (e_BD - e_BD.mean(0)).square().sum()
        return (e_BD - acts_BA @ self.w["w_dec_FD"][dead_A]).square().sum() / spread


class Jump(torch.autograd.Function):
    """pre [pre > theta], with the rectangle for theta's gradient (2407.14435, equation 11)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta).abs() / ctx.width < 0.5).to(pre.dtype)
        return grads[0] * (pre > theta), -(theta / ctx.width * window * grads[0]).sum(0), None


class Step_(torch.autograd.Function):  # noqa: N801
    """[pre > theta], with the rectangle for theta's gradient (equation 12)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, theta = ctx.saved_tensors
        window = ((pre - theta).abs() / ctx.width < 0.5).to(pre.dtype)
        return None, -(window / ctx.width * grads[0]).sum(0), None


def one_step(name: str, dtype: torch.dtype, dead: list[int]) -> tuple[Step, Tensors, Tensor]:
    """Our step, and autograd's gradients and loss."""
    more = {"prefixes": (8 / F, 15 / F)} if name == "matryoshka" else {}
    architecture = make(settings(name, **more), VARIANCE)
    weights, dead_A = random_weights(architecture, dtype), torch.tensor(dead, dtype=torch.int64)
    x_BD = torch.randn(B, D, dtype=dtype, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        made = architecture.step({name: w.clone() for name, w in weights.items()}, x_BD, dead_A, 0.5)
    reference = {name: w.clone().requires_grad_() for name, w in weights.items()}
    dense = Dense(reference, x_BD)
    formula: Callable[[], tuple[Tensor, Tensor]] = getattr(dense, name)
    loss, z_BF = formula()
    loss = loss + ALPHA * dense.auxk(z_BF, dead_A, 2)
    loss.backward()
    grads = {name: w.grad if w.grad is not None else torch.zeros_like(w) for name, w in reference.items()}
    return made, grads, loss


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dead", [[], [2, 5, 6, 11, 20]])
def test_gradients_agree_with_autograd(name: str, dtype: torch.dtype, dead: list[int]) -> None:
    made, grads, loss = one_step(name, dtype, dead)
    assert made.total == pytest.approx(loss.item(), rel=1e-5)
    assert made.gradients.keys() == grads.keys()
    for parameter, grad in grads.items():
        assert float(grad.abs().max()) > 0, parameter
        torch.testing.assert_close(made.gradients[parameter], grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated"])
def test_the_folded_dictionary_gives_the_codes_that_training_saw(name: str) -> None:
    architecture = make(settings(name), VARIANCE)
    weights = random_weights(architecture, torch.float32)
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        architecture.step(weights, x_BD, torch.zeros(0, dtype=torch.int64), 0.5)
    folded = architecture.folded(weights)
    sae = SparseAutoencoder(SAEConfig(d_model=D, n_features=F, k=K, architecture=name))
    sae.w_enc_DF.copy_(folded["w_enc_FD"].t())
    for parameter in ("b_enc_F", "w_dec_FD", "b_dec_D", "threshold_F"):
        getattr(sae, parameter).copy_(folded[parameter])
    dense = Dense(weights, x_BD)
    formula: Callable[[], tuple[Tensor, Tensor]] = getattr(dense, "batchtopk" if name == "matryoshka" else name)
    _, z_BF = formula()
    if name in ("batchtopk", "matryoshka"):  # the smallest kept value is itself the threshold after one batch
        z_BF = z_BF * (z_BF > sae.threshold_F)
    torch.testing.assert_close(sae(x_BD), dense.decode(z_BF), rtol=1e-4, atol=1e-4)
    assert torch.allclose(folded["w_dec_FD"].norm(dim=1), torch.ones(F), atol=1e-5)


def test_prefixes_end_with_the_whole_dictionary() -> None:
    architecture = make(settings("matryoshka", prefixes=(0.1, 0.5)), 1.0)
    assert isinstance(architecture, Matryoshka)
    assert architecture.ends() == [3, 15, F]


def test_a_residual_without_variance_gives_no_auxiliary_loss() -> None:
    architecture = make(settings("batchtopk"), 1.0)
    weights, x_BD = random_weights(architecture, torch.float32), torch.zeros(B, D)
    weights["b_dec_D"].zero_()
    weights["b_enc_F"].fill_(-1.0)
    made = architecture.step(weights, x_BD, torch.arange(F), 0.0)
    assert made.total == made.auxiliary == 0.0
    assert all(bool((gradient == 0).all()) for gradient in made.gradients.values())


def test_a_penalty_that_is_not_given_is_steered_towards_k() -> None:
    architecture = make(settings("relu", sparsity=None), VARIANCE)
    weights = random_weights(architecture, torch.float32)
    x_BD, none = torch.randn(B, D), torch.zeros(0, dtype=torch.int64)
    before = architecture.state()["sparsity"]
    architecture.step(weights, x_BD, none, 0.5)  # about half of 30 features are active, where 3 are wanted
    assert architecture.state()["sparsity"] > before
    weights["b_enc_F"].fill_(-100.0)
    before = architecture.state()["sparsity"]
    architecture.step(weights, x_BD, none, 0.5)
    assert architecture.state()["sparsity"] < before


@pytest.mark.parametrize(("k", "sign"), [(1, -1), (29, 1)])
def test_the_penalty_of_jumprelu_pulls_from_both_sides(k: int, sign: int) -> None:
    architecture = make(settings("jumprelu", k=k, sparsity=100.0), VARIANCE)
    weights, x_BD = random_weights(architecture, torch.float32), torch.randn(B, D)
    made = architecture.step(weights, x_BD, torch.zeros(0, dtype=torch.int64), 0.5)
    assert 1 < made.fired_E.numel() / B < 29
    assert sign * float(made.gradients["log_threshold_F"].sum()) > 0  # thresholds move against their gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_the_active_features_asked_for_are_those_that_are_found(name: str, tmp_path: Path) -> None:
    x_ND = planted(24_000, 48, 96, 4).x_ND
    config = TrainConfig(
        out=tmp_path / "sae", architecture=name, n_features=192, k=4, lr=2e-3, batch_size=256, n_samples=256_000
    )
    result = run(config, source=ArraySource(x_ND[:20_000], 256), held=ArraySource(x_ND[20_000:], 256))
    assert result.metrics["held_l0"] == pytest.approx(4, rel=0.05)
    assert result.metrics["held_nmse_centred"] < 0.5


def test_a_bfloat16_product_finds_the_same_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []
    for encoder_dtype in ("float32", "bfloat16"):
        architecture = make(settings("batchtopk", encoder_dtype=encoder_dtype), VARIANCE)
        weights = random_weights(architecture, torch.float32)
        x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(2))
        codes.append(architecture.select(weights, x_BD).to_dense())  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(codes[0], codes[1], rtol=1e-5, atol=1e-5)


def test_the_parallel_part_is_removed_and_norms_are_clipped() -> None:
    weights = random_weights(make(settings("topk"), 1.0), torch.float64)
    gradients = {name: torch.randn_like(parameter) for name, parameter in weights.items()}
    remove_parallel(gradients["w_dec_FD"], weights["w_dec_FD"])
    assert float((gradients["w_dec_FD"] * weights["w_dec_FD"]).sum(1).abs().max()) < 1e-12
    before = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert clip_(gradients, 0.5) == pytest.approx(float(before.norm()))
    after = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert torch.allclose(after, before * 0.5 / before.norm())
