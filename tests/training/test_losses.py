"""Hand-written gradients against autograd of the dense formula."""

import pytest
import torch
from torch import Tensor

from turnscope.sae.activations import batch_top_k
from turnscope.training.losses import Weights, clip_, loss_and_gradients, remove_parallel

B, D, F, K = 24, 7, 30, 3


def random_weights(dtype: torch.dtype) -> Weights:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    w_dec_FD = draw(F, D)
    return Weights(draw(F, D), 0.3 * draw(F), w_dec_FD / w_dec_FD.norm(dim=1, keepdim=True), draw(D))


def dense_loss(weights: Weights, x_BD: Tensor, dead_A: Tensor, auxk_k: int, alpha: float, variance: float) -> Tensor:
    """The formula of METHODS section 4, over full matrices, on the sum of the batch's k*B largest."""
    pre_BF = ((x_BD - weights.b_dec_D) @ weights.w_enc_FD.t() + weights.b_enc_F).relu()
    cut = pre_BF.detach().view(-1).topk(B * K).values[-1]
    x_hat_BD = (pre_BF * (pre_BF >= cut)) @ weights.w_dec_FD + weights.b_dec_D
    loss = (x_BD - x_hat_BD).square().sum() / (B * variance)
    if len(dead_A):
        e_BD = (x_BD - x_hat_BD).detach()
        acts_BA = pre_BF[:, dead_A]
        top = acts_BA.topk(min(auxk_k, len(dead_A)), dim=1)
        acts_BA = torch.zeros_like(acts_BA).scatter(1, top.indices, top.values)
        spread = (e_BD - e_BD.mean(0)).square().sum()
        loss = loss + alpha * (e_BD - acts_BA @ weights.w_dec_FD[dead_A]).square().sum() / spread
    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dead", "auxk_k"), [([], 4), ([2, 5, 6, 11, 20], 2), ([2, 5, 6], 8)])
def test_gradients_agree_with_autograd(dtype: torch.dtype, dead: list[int], auxk_k: int) -> None:
    weights, x_BD, dead_A = random_weights(dtype), torch.randn(B, D, dtype=dtype), torch.tensor(dead, dtype=torch.int64)
    c_BD = x_BD - weights.b_dec_D
    losses = loss_and_gradients(
        weights,
        x_BD,
        c_BD,
        batch_top_k(c_BD, weights.w_enc_FD.t(), weights.b_enc_F, K),
        variance=5.0,
        dead_A=dead_A,
        auxk_k=auxk_k,
        auxk_coefficient=0.5,
    )
    reference = Weights(*(parameter.clone().requires_grad_() for parameter in weights.all()))
    loss = dense_loss(reference, x_BD, dead_A, auxk_k, 0.5, 5.0)
    loss.backward()
    assert losses.total == pytest.approx(loss.item(), rel=1e-5)
    for ours, parameter in zip(losses.gradients.all(), reference.all(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-5, atol=1e-5)


def test_a_residual_without_variance_gives_no_auxiliary_loss() -> None:
    weights, x_BD = random_weights(torch.float32), torch.zeros(B, D)
    weights.b_dec_D.zero_()
    weights.b_enc_F.fill_(-1.0)
    losses = loss_and_gradients(
        weights,
        x_BD,
        x_BD,
        batch_top_k(x_BD, weights.w_enc_FD.t(), weights.b_enc_F, K),
        variance=1.0,
        dead_A=torch.arange(F),
        auxk_k=4,
        auxk_coefficient=1 / 32,
    )
    assert losses.total == losses.auxiliary == 0.0
    assert all(bool((gradient == 0).all()) for gradient in losses.gradients.all())


def test_the_parallel_part_is_removed_and_norms_are_clipped() -> None:
    weights = random_weights(torch.float64)
    gradients = Weights(*(torch.randn_like(parameter) for parameter in weights.all()))
    remove_parallel(gradients.w_dec_FD, weights.w_dec_FD)
    assert float((gradients.w_dec_FD * weights.w_dec_FD).sum(1).abs().max()) < 1e-12
    before = torch.cat([gradient.flatten() for gradient in gradients.all()])
    assert clip_(gradients, 0.5) == pytest.approx(float(before.norm()))
    after = torch.cat([gradient.flatten() for gradient in gradients.all()])
    assert torch.allclose(after, before * 0.5 / before.norm())
