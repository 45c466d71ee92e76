"""Forms of a nested dictionary that are compared only: dense matrices and autograd, on the product's own training loop.

    N2        z_T = cut to k_T of mean_t ReLU(W_T (h_t - b_T));  tokens as in N1
    joint     one BatchTopK over the whole code of a token; z_T = mean_t of its prefix (after Joint-Chunk, METHODS 7.1)
    temporal  joint's code; the prefix alone rebuilds each token, and those of neighbours agree (InfoNCE, METHODS 7.2)

Parameters have the names of `architectures/nested.py`. Our reconstructions, not the papers' code.

Legend: B turns, T tokens of all, D width, M features of the turn block, P of the token block, N rows, A dead features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from turnscope.training.architectures.nested import Nested, block_of
from turnscope.training.config import ResolvedConfig
from turnscope.training.step import Step, Tensors

Batch = tuple[Tensor, Tensor, Tensor]


class Found(NamedTuple):
    """Codes and reconstructions in scaled units. `prefix_TM`: a token's own prefix, where it has one."""

    turn_BM: Tensor
    token_TP: Tensor
    turn_hat_BD: Tensor
    token_hat_TD: Tensor
    prefix_TM: Tensor | None
    turn_acts: Tensor
    """Activations of the turn block before any cut, of what AuxK lets it rebuild."""
    token_acts: Tensor


class Dense(Nested):
    """What the forms share: cuts, errors, AuxK, the step."""

    def __init__(self, config: ResolvedConfig, turn_variance: float, token_variance: float) -> None:
        super().__init__(config, turn_variance, token_variance)
        self.fitted: dict[str, float] = {}
        self.fitting = False

    def find(self, w: Tensors, batch: Batch) -> Found:
        """Codes and reconstructions."""
        raise NotImplementedError

    def loss(self, found: Found, w: Tensors, batch: Batch) -> Tensor:
        """Both errors, each over that of its constant predictor."""
        raise NotImplementedError

    def cut(self, name: str, acts_NF: Tensor, k: int) -> Tensor:
        """The N*k largest while training, what exceeds the fitted threshold afterwards."""
        n_keep = min(len(acts_NF) * k, acts_NF.numel() - 1)
        if self.fitting and name not in self.fitted:
            last, first_out = acts_NF.flatten().topk(n_keep + 1).values[-2:].tolist()
            self.fitted[name] = max(0.0, (last + first_out) / 2)
        if name in self.fitted:
            return acts_NF * (acts_NF > self.fitted[name])
        least = acts_NF.detach().flatten().topk(n_keep, sorted=False).values.min()
        return acts_NF * (acts_NF >= least)

    def errors(self, found: Found, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised errors of turn means, and of tokens averaged inside their turn first."""
        mean_BD, tokens_TD, lengths_B = batch
        turn = (found.turn_hat_BD - mean_BD).square().sum() / (len(mean_BD) * self.turn_variance)
        error_T = (found.token_hat_TD - tokens_TD).square().sum(1) / lengths_B[turn_of(lengths_B)]
        return turn, error_T.sum() / (len(mean_BD) * self.token_variance)

    def auxk(self, found: Found, w: Tensors, batch: Batch, dead_A: Tensor) -> Tensor:
        """Dead features rebuild what is left of the target that their activations belong to."""
        mean_BD, tokens_TD, _ = batch
        total = torch.zeros(())
        for name, acts, dead in (
            ("turn", found.turn_acts, dead_A[dead_A < self.n_turn]),
            ("token", found.token_acts, dead_A[dead_A >= self.n_turn] - self.n_turn),
        ):
            if not len(dead):
                continue
            of_turns = name == "turn" and len(acts) == len(mean_BD)
            left = (mean_BD - found.turn_hat_BD if of_turns else tokens_TD - found.token_hat_TD).detach()
            top = acts[:, dead].topk(min(self.config.auxk_k, len(dead)), dim=1)
            picked = torch.zeros(len(acts), len(dead)).scatter(1, top.indices, top.values)
            miss = left - picked @ w[f"{name}.w_dec_FD"][dead]
            total = total + miss.square().sum() / (left - left.mean(0)).square().sum()
        return total

    def step(self, weights: Tensors, batch: Batch, dead_A: Tensor, progress: float) -> Step:
        """One batch by autograd."""
        del progress
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        with torch.enable_grad():
            found = self.find(leaves, batch)
            total = self.loss(found, leaves, batch)
            if len(dead_A):
                total = total + self.config.auxk_coefficient * self.auxk(found, leaves, batch, dead_A)
            total.backward()
        gradients = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in leaves.items()}
        turn_M, token_P = ((z.detach() > 0).any(0) for z in (found.turn_BM, found.token_TP))
        fired = torch.cat([turn_M.nonzero().squeeze(1), token_P.nonzero().squeeze(1) + self.n_turn])
        error = float((found.turn_hat_BD.detach() - batch[0]).square().sum())
        return Step(gradients, fired, len(batch[0]), error, float(batch[0].square().sum()), 0.0, float(total))

    @torch.no_grad()
    def fit(self, w: Tensors, batch: Batch) -> None:
        """Constant thresholds, so that these rows have as many active features as training asked for."""
        self.fitting = True
        self.find(w, batch)
        self.fitting = False


class PerToken(Dense):
    """N2: the turn block reads every token; its activations are averaged over the turn, then cut."""

    def find(self, w: Tensors, batch: Batch) -> Found:
        """The turn's code is given to each of its tokens."""
        _, tokens_TD, lengths_B = batch
        turn, token = block_of(w, "turn"), block_of(w, "token")
        own_TM = ((tokens_TD - turn["b_dec_D"]) @ turn["w_enc_FD"].t() + turn["b_enc_F"]).relu()
        pooled_BM = means(own_TM, lengths_B)
        z_BM = self.cut("turn", pooled_BM, self.config.turn_k)
        acts_TP = ((tokens_TD - token["b_dec_D"]) @ token["w_enc_FD"].t() + token["b_enc_F"]).relu()
        z_TP = self.cut("token", acts_TP, self.config.k)
        shared_BD = z_BM @ turn["w_dec_FD"]
        token_hat_TD = z_TP @ token["w_dec_FD"] + token["b_dec_D"] + shared_BD[turn_of(lengths_B)]
        return Found(z_BM, z_TP, shared_BD + turn["b_dec_D"], token_hat_TD, None, pooled_BM, acts_TP)

    def loss(self, found: Found, w: Tensors, batch: Batch) -> Tensor:
        """As N1."""
        del w
        turn, token = self.errors(found, batch)
        return self.config.turn_weight * turn + (1 - self.config.turn_weight) * token


class Joint(Dense):
    """One selection over a token's whole code, as many features as N1 rebuilds a token from (k_T + k); the prefix is
    averaged over the turn, so that a turn has the features of all its tokens. Weights .8 (whole code, tokens) and .2
    (prefix, turn means).
    """

    share_turn: ClassVar[float] = 0.2

    @property
    def kept(self) -> int:
        """Active features of a token."""
        return self.config.turn_k + self.config.k

    def find(self, w: Tensors, batch: Batch) -> Found:
        """Every token has a prefix of its own; the turn's code is their mean."""
        _, tokens_TD, lengths_B = batch
        turn, token = block_of(w, "turn"), block_of(w, "token")
        w_enc_FD = torch.cat([turn["w_enc_FD"], token["w_enc_FD"]])
        b_enc_F = torch.cat([turn["b_enc_F"], token["b_enc_F"]])
        acts_TF = ((tokens_TD - token["b_dec_D"]) @ w_enc_FD.t() + b_enc_F).relu()
        z_TF = self.cut("whole", acts_TF, self.kept)
        prefix_TM, z_TP = z_TF[:, : self.n_turn], z_TF[:, self.n_turn :]
        z_BM = self.pooled(means(prefix_TM, lengths_B))
        turn_hat_BD = z_BM @ turn["w_dec_FD"] + turn["b_dec_D"]
        token_hat_TD = z_TF @ torch.cat([turn["w_dec_FD"], token["w_dec_FD"]]) + token["b_dec_D"]
        acts = acts_TF[:, : self.n_turn], acts_TF[:, self.n_turn :]
        return Found(z_BM, z_TP, turn_hat_BD, token_hat_TD, prefix_TM, *acts)

    def pooled(self, mean_BM: Tensor) -> Tensor:
        """The turn's code from the mean of its tokens' prefixes."""
        return mean_BM

    def loss(self, found: Found, w: Tensors, batch: Batch) -> Tensor:
        """Weighted errors of both targets."""
        del w
        turn, token = self.errors(found, batch)
        return self.share_turn * turn + (1 - self.share_turn) * token


class JointCut(Joint):
    """Joint with its turn code cut to k_T, so that it is as sparse as the other forms'."""

    def pooled(self, mean_BM: Tensor) -> Tensor:
        """Cut to k_T a turn."""
        return self.cut("turn", mean_BM, self.config.turn_k)


class JointOwn(Joint):
    """Joint with k active features of a token, as many as a token of N1 has for itself."""

    @property
    def kept(self) -> int:
        """Active features of a token."""
        return self.config.k


class JointCutOwn(JointCut, JointOwn):
    """Both."""


class Temporal(Joint):
    """(0.8 L_whole + 0.2 L_prefix) / 2 + InfoNCE between the prefixes of neighbouring tokens, temperature .1."""

    pairs: ClassVar[int] = 256
    temperature: ClassVar[float] = 0.1

    def loss(self, found: Found, w: Tensors, batch: Batch) -> Tensor:
        """The turn is used for one thing alone: a pair of neighbours lies inside it."""
        lengths_B = batch[2]
        assert found.prefix_TM is not None
        _, whole = self.errors(found, batch)
        by_prefix_TD = found.prefix_TM @ w["turn.w_dec_FD"] + w["turn.b_dec_D"]
        _, prefix = self.errors(found._replace(token_hat_TD=by_prefix_TD), batch)
        turn_T = turn_of(lengths_B)
        firsts = (turn_T[1:] == turn_T[:-1]).nonzero().squeeze(1)
        firsts = firsts[:: max(1, len(firsts) // self.pairs)][: self.pairs]
        a, b = (normalize(found.prefix_TM[at], dim=1) for at in (firsts, firsts + 1))
        alike, same = a @ b.t() / self.temperature, torch.arange(len(firsts))
        agree = (cross_entropy(alike, same) + cross_entropy(alike.t(), same)) / 2
        return (0.8 * whole + 0.2 * prefix) / 2 + agree


FORMS: Mapping[str, type[Dense]] = {
    "N2": PerToken,
    "joint": Joint,
    "joint, cut": JointCut,
    "joint, k": JointOwn,
    "joint, cut, k": JointCutOwn,
    "temporal": Temporal,
}


def turn_of(lengths_B: Tensor) -> Tensor:
    """The turn of each token, (T,)."""
    return torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)


def means(rows_TF: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over each turn's tokens, (B, F)."""
    sums_BF = torch.zeros(len(lengths_B), rows_TF.shape[1], dtype=rows_TF.dtype)
    return sums_BF.index_add(0, turn_of(lengths_B), rows_TF) / lengths_B.unsqueeze(1)
