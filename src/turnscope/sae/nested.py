"""Nested dictionaries: one block says what a turn is about, the other what its tokens add to that.

    z_T = select(mean of the turn)            one code a turn, given to each of its tokens
    z_t = select(h_t)                         one code a token, read from h_t itself
    mean_hat = b_T + D_T z_T ;   h_hat_t = b + D_T z_T + D_t z_t

The token block reads h_t and not h_t - mean: subtracting the mean would make token codes blind to any change that all
tokens of a turn share, such as a turn feature being steered (form `decoupled`, kept for comparison). This is our
reconstruction of the published idea, not its authors' code (METHODS 1.8; docs/design/nested.md).

Both blocks are plain dictionaries in folders of their own, so whatever reads a turn dictionary reads the turn block.

Legend: N turns, T tokens of all of them, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError, write_json
from turnscope.sae.codes import SparseCodes
from turnscope.sae.sparse_autoencoder import SparseAutoencoder

Form = Literal["shared", "decoupled"]
NESTED_NAME = "nested.json"
SCHEMA_VERSION = 1


class NestedCodes(NamedTuple):
    """Codes of turns, codes of tokens, and the turn of each token (T,). Each block numbers its features from 0."""

    turn: SparseCodes
    token: SparseCodes
    turn_of_T: Tensor


class NestedSAE(nn.Module):
    """A turn block and a token block with one input scale.

    Raises ConfigError when the blocks read other widths or scales.
    """

    def __init__(self, turn: SparseAutoencoder, token: SparseAutoencoder, form: Form = "shared") -> None:
        super().__init__()
        if turn.config.d_model != token.config.d_model:
            raise ConfigError(f"turn block of width {turn.config.d_model}, token block of {token.config.d_model}")
        scales = float(turn.scale), float(token.scale)
        if scales[0] != scales[1]:
            raise ConfigError(f"turn block of input scale {scales[0]:.6g}, token block of {scales[1]:.6g}")
        self.turn, self.token, self.form = turn, token, form

    def encode(
        self, tokens_TD: Tensor | np.ndarray, lengths_N: Tensor | np.ndarray, mean_ND: Tensor | np.ndarray | None = None
    ) -> NestedCodes:
        """Codes of turns from raw tokens, turn after turn.

        `lengths_N`: tokens of each turn, each at least one. `mean_ND`: the turns' means, where the tokens at hand are
        not all of them. Raises DataError when lengths and tokens do not fit.
        """
        tokens_TD, lengths_N = torch.as_tensor(tokens_TD), torch.as_tensor(lengths_N, dtype=torch.int64)
        if int(lengths_N.sum()) != tokens_TD.shape[0] or (lengths_N.numel() and int(lengths_N.min()) < 1):
            raise DataError(
                f"turns of {int(lengths_N.sum())} tokens, but {tokens_TD.shape[0]} are given",
                where="NestedSAE.encode",
                fix="give each turn's number of tokens, at least one",
            )
        turn_of_T = torch.repeat_interleave(torch.arange(lengths_N.numel()), lengths_N)
        means = turn_means(tokens_TD, lengths_N) if mean_ND is None else torch.as_tensor(mean_ND)
        if len(means) != len(lengths_N):
            raise DataError(f"means of {len(means)} turns, lengths of {len(lengths_N)}", where="NestedSAE.encode")
        read_TD = self.read_by_tokens(tokens_TD, lengths_N, means)
        return NestedCodes(self.turn.encode(means), self.token.encode(read_TD), turn_of_T)

    def read_by_tokens(
        self, tokens_TD: Tensor | np.ndarray, lengths_N: Tensor | np.ndarray, mean_ND: Tensor | np.ndarray
    ) -> Tensor:
        """What the token block reads (T, D): the tokens; in form `decoupled` their distance from the turn's mean."""
        tokens_TD = torch.as_tensor(tokens_TD)
        if self.form == "shared":
            return tokens_TD
        return tokens_TD - torch.as_tensor(mean_ND).repeat_interleave(torch.as_tensor(lengths_N), dim=0)

    def decode_turns(self, codes: NestedCodes) -> Tensor:
        """Reconstructed turn means (N, D) in raw units."""
        return self.turn.decode(codes.turn)

    def decode_tokens(self, codes: NestedCodes) -> Tensor:
        """Reconstructed tokens (T, D) in raw units."""
        turn_ND = self.turn.decode(codes.turn)
        if self.form == "shared":  # the turn's bias belongs to the mean alone
            turn_ND = turn_ND - self.turn.b_dec_D / self.turn.scale
        return self.token.decode(codes.token) + turn_ND[codes.turn_of_T]

    def save(self, folder: Path | str) -> None:
        """Write both blocks and `nested.json`, that one last."""
        folder = Path(folder)
        for name, block in (("turn", self.turn), ("token", self.token)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            block.save(folder / name)
        write_json(folder / NESTED_NAME, {"schema_version": SCHEMA_VERSION, "form": self.form})

    @staticmethod
    def load(folder: Path | str) -> NestedSAE:
        """Read a saved nested dictionary. StorageError, IntegrityError as `SparseAutoencoder.load`."""
        folder = Path(folder)
        try:
            stored: Any = json.loads((folder / NESTED_NAME).read_text(encoding="utf-8"))
        except OSError as error:
            raise StorageError(
                f"no nested dictionary here: cannot read {NESTED_NAME} ({error.strerror})", where=str(folder)
            ) from error
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{NESTED_NAME} is not JSON", where=str(folder)) from error
        form: Any = stored.get("form") if isinstance(stored, dict) else None
        if not isinstance(stored, dict) or stored.get("schema_version") != SCHEMA_VERSION or form not in _FORMS:
            raise IntegrityError(f"{NESTED_NAME} is of another version or form", where=str(folder))
        return NestedSAE(SparseAutoencoder.load(folder / "turn"), SparseAutoencoder.load(folder / "token"), form)


_FORMS = ("shared", "decoupled")


def turn_means(tokens_TD: Tensor, lengths_N: Tensor) -> Tensor:
    """Mean of each turn's tokens (N, D)."""
    sums_ND = torch.segment_reduce(tokens_TD.float(), "sum", lengths=lengths_N, axis=0, unsafe=True)
    return sums_ND / lengths_N.unsqueeze(1)


def is_nested(folder: Path) -> bool:
    """Whether a folder holds a nested dictionary."""
    return (folder / NESTED_NAME).is_file()
