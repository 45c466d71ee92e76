"""Sparse codes: which features are active on each row, and how strongly (compressed sparse rows).

Legend: N rows, F features, K slots per row, E active entries of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from turnscope.artifacts import DataError


class Padded(NamedTuple):
    """Codes with a fixed number of slots per row; free slots hold feature 0 with value 0."""

    indices_NK: Tensor
    values_NK: Tensor


@dataclass(frozen=True, slots=True)
class SparseCodes:
    """Codes of N rows as CSR: entries of row n are `row_ptr[n]:row_ptr[n + 1]`, sorted by feature.

    row_ptr: int64 (N + 1,); indices_E: int32 (E,), the feature of each entry; values_E: float32 (E,), positive.
    Values are in the dictionary's own units (input scaled to mean square norm d), not in raw activation units.
    """

    row_ptr: Tensor
    indices_E: Tensor
    values_E: Tensor
    n_features: int

    @property
    def n_rows(self) -> int:
        return self.row_ptr.numel() - 1

    @property
    def n_entries(self) -> int:
        return self.indices_E.numel()

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, rows: slice) -> SparseCodes:
        """A run of consecutive rows; shares memory with this object."""
        start, stop, step = rows.indices(self.n_rows)
        if step != 1:
            raise ValueError("codes are sliced by consecutive rows only")
        stop = max(start, stop)
        first, last = int(self.row_ptr[start]), int(self.row_ptr[stop])
        return SparseCodes(
            self.row_ptr[start : stop + 1] - first,
            self.indices_E[first:last],
            self.values_E[first:last],
            self.n_features,
        )

    def row(self, n: int) -> tuple[Tensor, Tensor]:
        """(features, values) of one row."""
        first, last = int(self.row_ptr[n]), int(self.row_ptr[n + 1])
        return self.indices_E[first:last], self.values_E[first:last]

    def l0_N(self) -> Tensor:
        """Active features per row, int64 (N,)."""
        return self.row_ptr[1:] - self.row_ptr[:-1]

    def rows_E(self) -> Tensor:
        """The row of each entry, int64 (E,)."""
        rows = torch.arange(self.n_rows, device=self.row_ptr.device)
        return torch.repeat_interleave(rows, self.l0_N(), output_size=self.n_entries)

    def counts_F(self) -> Tensor:
        """Rows on which each feature is active, int64 (F,)."""
        return torch.bincount(self.indices_E, minlength=self.n_features)

    def to_dense(self) -> Tensor:
        """(N, F) matrix; for small N only."""
        dense_NF = self.values_E.new_zeros(self.n_rows, self.n_features)
        dense_NF[self.rows_E(), self.indices_E.long()] = self.values_E
        return dense_NF

    @staticmethod
    def from_dense(dense_NF: Tensor) -> SparseCodes:
        """Codes of a matrix: its nonzero entries."""
        rows_E, features_E = (dense_NF != 0).nonzero(as_tuple=True)
        return from_entries(rows_E, features_E, dense_NF[rows_E, features_E], *dense_NF.shape)

    def padded(self, K: int | None = None) -> Padded:
        """Fixed-width view for kernels that want K slots per row.

        `K` defaults to the longest row. Raises DataError when a row has more than K entries: dropping some silently
        would change the code. BatchTopK rows vary, so k of the dictionary is in general not enough.
        """
        l0_N = self.l0_N()
        longest = int(l0_N.max()) if self.n_rows else 0
        width = longest if K is None else K
        if width < longest:
            raise DataError(
                f"a row has {longest} active features and cannot be held in {width} slots",
                where="SparseCodes.padded",
                fix=f"ask for at least {longest} slots, or leave K out",
            )
        rows_E = self.rows_E()
        slot_E = torch.arange(self.n_entries, device=rows_E.device) - self.row_ptr[:-1][rows_E]
        indices_NK = self.indices_E.new_zeros(self.n_rows, width)
        values_NK = self.values_E.new_zeros(self.n_rows, width)
        indices_NK[rows_E, slot_E] = self.indices_E
        values_NK[rows_E, slot_E] = self.values_E
        return Padded(indices_NK, values_NK)

    @staticmethod
    def cat(parts: Sequence[SparseCodes]) -> SparseCodes:
        """Rows of all parts, in order. All parts must have the same number of features; at least one part."""
        if len(parts) == 1:
            return parts[0]
        pointers, base = [parts[0].row_ptr[:1]], 0
        for part in parts:
            pointers.append(part.row_ptr[1:] + base)
            base += part.n_entries
        return SparseCodes(
            torch.cat(pointers),
            torch.cat([part.indices_E for part in parts]),
            torch.cat([part.values_E for part in parts]),
            parts[0].n_features,
        )

    def keep(self, mask_E: Tensor) -> SparseCodes:
        """The entries where `mask_E` (bool, (E,)) holds; rows stay."""
        kept_before = torch.zeros(self.n_entries + 1, dtype=torch.int64, device=mask_E.device)
        torch.cumsum(mask_E, 0, out=kept_before[1:])
        return SparseCodes(kept_before[self.row_ptr], self.indices_E[mask_E], self.values_E[mask_E], self.n_features)


def from_entries(rows_E: Tensor, features_E: Tensor, values_E: Tensor, n_rows: int, n_features: int) -> SparseCodes:
    """Codes from entries already sorted by row, then by feature."""
    row_ptr = torch.zeros(n_rows + 1, dtype=torch.int64, device=rows_E.device)
    torch.cumsum(torch.bincount(rows_E, minlength=n_rows), 0, out=row_ptr[1:])
    return SparseCodes(row_ptr, features_E.to(torch.int32), values_E, n_features)
