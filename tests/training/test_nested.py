"""Nested dictionaries: gradients against autograd of the formula, what the forms promise, a run that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from turnscope.artifacts import ConfigError, DataError, StorageError
from turnscope.harvest.turn_tokens import TurnTokens
from turnscope.sae import SAEConfig, SparseAutoencoder
from turnscope.sae.nested import NestedSAE
from turnscope.training.architectures.nested import Nested
from turnscope.training.config import ResolvedConfig, TrainConfig
from turnscope.training.defaults import resolve_defaults
from turnscope.training.step import Tensors
from turnscope.training.train import TrainResult, run

B, D, F, M, K, TURN_K = 6, 7, 30, 12, 3, 2
LENGTHS = torch.tensor([1, 4, 2, 5, 3, 3])
V_TURN, V_TOKEN, ALPHA, W = 5.0, 7.0, 0.5, 0.3


def settings(**more: Any) -> ResolvedConfig:
    config = TrainConfig(
        out=Path("unused"), unit="nested", n_features=F, turn_share=M / F, k=K, turn_k=TURN_K, turn_weight=W,
        auxk_coefficient=ALPHA, auxk_k=2, **more,
    )  # fmt: skip
    return resolve_defaults(config, 1000, D)


def random_weights(nested: Nested) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in nested.shapes(D).items()
    }
    for name in weights:
        if name.endswith("w_dec_FD"):
            weights[name] /= weights[name].norm(dim=1, keepdim=True)
    return weights


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens_TD = torch.randn(int(LENGTHS.sum()), D, generator=generator, dtype=torch.float64)
    # Means are of all tokens of a turn; those at hand may be a sample, so the two need not agree.
    return torch.randn(B, D, generator=generator, dtype=torch.float64), tokens_TD, LENGTHS


def largest(pre_NF: Tensor, k: int) -> Tensor:
    pre_NF = pre_NF.relu()
    return pre_NF * (pre_NF >= pre_NF.detach().flatten().topk(len(pre_NF) * k).values[-1])


def auxk(miss_ND: Tensor, pre_NF: Tensor, w_dec_FD: Tensor, dead: list[int]) -> Tensor:
    e_ND, acts = (-miss_ND).detach(), pre_NF.relu()[:, dead]
    top = acts.topk(min(2, len(dead)), dim=1)
    acts = torch.zeros_like(acts).scatter(1, top.indices, top.values)
    return (e_ND - acts @ w_dec_FD[dead]).square().sum() / (e_ND - e_ND.mean(0)).square().sum()


def dense_loss(w: Tensors, config: ResolvedConfig, dead: list[int]) -> Tensor:
    """METHODS 1.8 over full matrices, turn by turn."""
    mean_BD, tokens_TD, _ = batch()
    decoupled = config.nested_form == "decoupled"
    turn_of_T = torch.repeat_interleave(torch.arange(B), LENGTHS)
    read_TD = tokens_TD - mean_BD[turn_of_T] if decoupled else tokens_TD
    pre_BF = (mean_BD - w["turn.b_dec_D"]) @ w["turn.w_enc_FD"].t() + w["turn.b_enc_F"]
    pre_TF = (read_TD - w["token.b_dec_D"]) @ w["token.w_enc_FD"].t() + w["token.b_enc_F"]
    z_BF, z_TF = largest(pre_BF, TURN_K), largest(pre_TF, K)
    turn_miss = z_BF @ w["turn.w_dec_FD"] + w["turn.b_dec_D"] - mean_BD
    shared_BD = z_BF @ w["turn.w_dec_FD"]
    if config.detach_turn:
        shared_BD = shared_BD.detach()
    token_miss = z_TF @ w["token.w_dec_FD"] + w["token.b_dec_D"] - read_TD
    if not decoupled:
        token_miss = token_miss + shared_BD[turn_of_T]
    token_error = torch.stack([part.square().sum(1).mean() for part in token_miss.split(LENGTHS.tolist())]).sum()
    w_turn, w_token = (1.0, 1.0) if decoupled else (W, 1 - W)
    loss = w_turn * turn_miss.square().sum() / (B * V_TURN) + w_token * token_error / (B * V_TOKEN)
    if dead:
        loss = loss + ALPHA * auxk(turn_miss, pre_BF, w["turn.w_dec_FD"], [i for i in dead if i < M])
        loss = loss + ALPHA * auxk(token_miss, pre_TF, w["token.w_dec_FD"], [i - M for i in dead if i >= M])
    return loss


@pytest.mark.parametrize("form", [{}, {"detach_turn": True}, {"nested_form": "decoupled"}])
@pytest.mark.parametrize("dead", [[], [2, 5, 11, 14, 20, 29]])
def test_gradients_agree_with_autograd(form: dict[str, Any], dead: list[int]) -> None:
    config = settings(**form)
    nested = Nested(config, V_TURN, V_TOKEN)
    weights = random_weights(nested)
    with torch.no_grad():
        made = nested.step(
            {name: w.clone() for name, w in weights.items()}, batch(), torch.tensor(dead, dtype=torch.int64), 0.5
        )
    reference = {name: w.clone().requires_grad_() for name, w in weights.items()}
    loss = dense_loss(reference, config, dead)
    loss.backward()
    assert made.total == pytest.approx(loss.item(), rel=1e-9)
    for name, parameter in reference.items():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0, name
        torch.testing.assert_close(made.gradients[name], parameter.grad, rtol=1e-6, atol=1e-8)


def random_nested(form: Any = "shared") -> NestedSAE:
    torch.manual_seed(0)
    blocks = []
    for unit, f in (("turn", M), ("token", F - M)):
        sae = SparseAutoencoder(SAEConfig(d_model=D, n_features=f, k=2, unit=unit))  # pyright: ignore[reportArgumentType]
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
        sae.threshold_F.fill_(0.5)
        sae.scale.fill_(1.7)
        blocks.append(sae)
    return NestedSAE(*blocks, form)


def test_codes_and_reconstructions_follow_the_formula() -> None:
    sae, tokens_TD = random_nested(), torch.randn(int(LENGTHS.sum()), D)
    codes = sae.encode(tokens_TD, LENGTHS)
    mean_BD = torch.stack([part.mean(0) for part in tokens_TD.split(LENGTHS.tolist())])
    assert codes.turn_of_T.tolist() == [0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    torch.testing.assert_close(codes.turn.to_dense(), sae.turn.encode(mean_BD).to_dense())
    shared_BD = codes.turn.to_dense() @ sae.turn.w_dec_FD
    expected_BD = (shared_BD + sae.turn.b_dec_D) / 1.7
    torch.testing.assert_close(sae.decode_turns(codes), expected_BD)
    own_TD = codes.token.to_dense() @ sae.token.w_dec_FD + sae.token.b_dec_D
    torch.testing.assert_close(sae.decode_tokens(codes), (own_TD + shared_BD[codes.turn_of_T]) / 1.7)


def test_only_the_decoupled_form_is_blind_to_a_change_of_the_whole_turn() -> None:
    """METHODS 11: h_t - mean is the same before and after any vector is added to every token."""
    tokens_TD, push_D = torch.randn(int(LENGTHS.sum()), D), 3 * torch.randn(D)
    blind, seeing = random_nested("decoupled"), random_nested()
    before, after = (blind.encode(x_TD, LENGTHS).token.to_dense() for x_TD in (tokens_TD, tokens_TD + push_D))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    before, after = (seeing.encode(x_TD, LENGTHS).token.to_dense() for x_TD in (tokens_TD, tokens_TD + push_D))
    assert float((before - after).abs().max()) > 0.1


def test_files_and_refusals(tmp_path: Path) -> None:
    sae, tokens_TD = random_nested("decoupled"), torch.randn(int(LENGTHS.sum()), D)
    sae.save(tmp_path)
    again = NestedSAE.load(tmp_path)
    assert again.form == "decoupled"
    codes = again.encode(tokens_TD, LENGTHS)
    torch.testing.assert_close(again.decode_tokens(codes), sae.decode_tokens(sae.encode(tokens_TD, LENGTHS)))
    assert SparseAutoencoder.load(tmp_path / "turn").config.n_features == M
    with pytest.raises(DataError, match="turns of 17 tokens, but 18"):
        sae.encode(tokens_TD, LENGTHS - torch.tensor([0, 1, 0, 0, 0, 0]))
    with pytest.raises(DataError):
        sae.encode(tokens_TD, LENGTHS + torch.tensor([-1, 1, 0, 0, 0, 0]))
    with pytest.raises(StorageError, match=r"nested\.json"):
        NestedSAE.load(tmp_path / "turn")
    with pytest.raises(ConfigError, match="width"):
        NestedSAE(sae.turn, SparseAutoencoder(SAEConfig(d_model=D + 1, n_features=4, k=2)))
    with pytest.raises(ConfigError, match="batchtopk"):
        settings(architecture="topk")


class Turns:
    """A source of turns whose tokens share a turn atom and have atoms of their own."""

    def __init__(self, n_turns: int = 600, d: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(40, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.turn_atoms, token_atoms = directions[:16], directions[16:]
        self.lengths = rng.integers(1, 9, n_turns)
        self.atom_N = rng.integers(0, 16, n_turns)
        own = token_atoms[rng.integers(0, 24, self.lengths.sum())]
        self.tokens = np.float32(np.repeat(4 * self.turn_atoms[self.atom_N], self.lengths, axis=0) + 3 * own)
        self.ends = np.cumsum(self.lengths)
        self.n_rows, self.d_model, self.fingerprint, self.position = n_turns, d, f"turns {seed}", 0

    def at(self, turns: np.ndarray) -> TurnTokens:
        parts = [self.tokens[self.ends[i] - self.lengths[i] : self.ends[i]] for i in turns]
        means = np.stack([part.mean(0) for part in parts])
        return TurnTokens(means, np.concatenate(parts), self.lengths[turns])

    def batches(self) -> Any:
        while True:
            turns = np.arange(self.position, self.position + 32) % self.n_rows
            self.position += 32
            yield self.at(turns)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Any) -> None:
        self.position = state["position"]


def train(out: Path, **more: Any) -> TrainResult:
    config = TrainConfig(
        out=out, unit="nested", n_features=64, k=1, turn_k=1, lr=5e-3, batch_size=32, n_samples=20_000,
        dead_after=2_000, turn_weight=0.5, **more,
    )  # fmt: skip
    return run(config, source=Turns(), held=Turns(seed=0), origin=None)  # pyright: ignore[reportArgumentType]


def test_a_run_finds_turn_atoms_in_the_turn_block(tmp_path: Path) -> None:
    result = train(tmp_path / "sae")
    sae, turns = result.load_nested(), Turns()
    cosines = torch.from_numpy(np.float32(turns.turn_atoms)) @ sae.turn.w_dec_FD.t()
    # The bias takes the atoms' common mean, so a feature is an atom less a little of all; by chance cosines reach .5.
    assert int((cosines.max(1).values > 0.85).sum()) >= 14
    assert result.metrics["held_token_nmse_centred"] < 0.1
    assert result.metrics["held_token_l0"] == pytest.approx(1, abs=0.2)
    codes = sae.encode(*(turns.at(np.arange(50)).tokens_TD, turns.lengths[:50]))
    assert float((codes.turn.l0_N() > 0).float().mean()) > 0.9


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from turnscope.training import trainer as module

    whole = train(tmp_path / "whole")
    step, seen = module.Trainer.train_on, [0]

    def failing(self: Any, raw: Any) -> None:
        seen[0] += 1
        if seen[0] == 300:
            raise RuntimeError("killed")
        step(self, raw)

    monkeypatch.setattr(module.Trainer, "train_on", failing)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "part", checkpoint_every=100)
    monkeypatch.undo()
    assert train(tmp_path / "part", checkpoint_every=100).artifact.fingerprint == whole.artifact.fingerprint


def test_blocks_and_means_must_fit_each_other() -> None:
    turn, token = (SparseAutoencoder(SAEConfig(d_model=4, n_features=6, k=2, unit=unit)) for unit in ("turn", "token"))
    with pytest.raises(DataError, match="means of 3 turns, lengths of 2"):
        NestedSAE(turn, token).encode(torch.ones(5, 4), torch.tensor([2, 3]), torch.ones(3, 4))
    token.scale.fill_(2.0)
    with pytest.raises(ConfigError, match="input scale"):
        NestedSAE(turn, token)


def test_settings_that_a_nested_run_cannot_have() -> None:
    with pytest.raises(ConfigError, match="encoder_dtype"):
        TrainConfig(out=Path("out"), unit="nested", encoder_dtype="bfloat16")
    with pytest.raises(ConfigError, match="a feature for each block"):
        resolve_defaults(TrainConfig(out=Path("out"), unit="nested", n_features=1, k=1), 1000, 16)
    with pytest.raises(ConfigError, match="held_rows"):
        TrainConfig(out=Path("out"), held_rows=2)  # its half for figures would be one row, which has no variance
