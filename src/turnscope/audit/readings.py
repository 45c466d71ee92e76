"""What the rows of an index hold, for classifiers: codes, turn means, texts. No torch.

Legend: M rows asked for, D model width, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from turnscope.artifacts import IntegrityError, StorageError
from turnscope.features.query.result import words_of
from turnscope.features.store import FeatureIndex
from turnscope.harvest.store import ActivationStore, open_activations
from turnscope.stats import Withheld

Ints = NDArray[np.int64]


class Readings:
    """Codes, turn means and texts of an index's turns; means and texts where their artifacts lie beside it.

    Args:
        index: a finished index.
        activations: those that it was made from; when not given, looked for in the run folder.

    Raises IntegrityError when the activations named are others.
    """

    def __init__(self, index: FeatureIndex, activations: str | Path | None = None) -> None:
        self.index = index
        self._named = None if activations is None else Path(activations)
        if self._named is not None:
            found = open_activations(self._named)
            wanted = index.artifact.manifest.inputs.get("activations", "")
            if found.fingerprint != wanted:
                raise IntegrityError(
                    f"the index was made from the activations {wanted[:12]}, these are {found.fingerprint[:12]}",
                    where=str(self._named),
                    fix="name those it was made from",
                )

    @cached_property
    def store(self) -> ActivationStore | None:
        """The activations, or None where they are not found."""
        if self._named is not None:
            return open_activations(self._named)
        wanted = self.index.artifact.manifest.inputs.get("activations", "")
        site = str(self.index.facts.get("site") or "")
        run = self.index.artifact.path.resolve().parents[1]
        for folder in (run / "activations" / site, *sorted((run / "activations").glob("*"))):
            if (folder / "manifest.json").is_file():
                try:
                    found = open_activations(folder)
                except (IntegrityError, StorageError):
                    continue
                if found.fingerprint == wanted:
                    return found
        return None

    def codes_MF(self, rows: Sequence[int] | Ints) -> sparse.csr_matrix:
        """Codes of some turns as a sparse matrix."""
        ptr, features, values = self.index.turn_codes(rows)
        shape = (len(ptr) - 1, self.index.n_features)
        return sparse.csr_matrix((values.astype(np.float64), features, ptr), shape)

    def means_MD(self, rows: Sequence[int] | Ints) -> NDArray[np.float32] | Withheld:
        """Turn means, or why there are none."""
        if self.store is None:
            return Withheld("the activations of the index are not beside it; name them with --activations")
        places = self.index.turns["activation_row"].to_numpy()[np.asarray(rows, np.int64)]
        return self.store.mean_ND(places)

    def texts(self, rows: Sequence[int] | Ints) -> list[str] | Withheld:
        """The words of some turns, or why there are none."""
        if self.index.transcripts is None:
            return Withheld("the transcripts of the index are not beside it; name them with --transcripts")
        said = read_turns(self.index, rows)
        return [said[int(row)] for row in rows]

    def column(self, name: str, rows: Sequence[int] | Ints) -> NDArray[Any]:
        """A column of the index's turns."""
        taken = self.index.turns[name].take(pa.array(np.asarray(rows, np.int64)))
        return np.asarray(taken.to_numpy(zero_copy_only=False))

    def clusters(self, rows: Sequence[int] | Ints) -> Ints:
        """What intervals and folds keep whole: the duplicate group of each turn's conversation, as a number."""
        return np.unique(self.column("group", rows), return_inverse=True)[1].astype(np.int64)


def read_turns(index: FeatureIndex, rows: Sequence[int] | Ints, *, before: int = 0) -> dict[int, str]:
    """The words of some turns by row; with `before` also, as -row - 1, those of the turn so far before, where it is.

    Empty where the transcripts have no such turn. Needs the index's transcripts.
    """
    store = index.transcripts
    assert store is not None
    table = index.turns.select(["conversation_id", "turn"]).take(pa.array(np.asarray(rows, np.int64)))
    wanted = list(zip(map(int, rows), table["conversation_id"].to_pylist(), table["turn"].to_pylist(), strict=True))
    reach: dict[str, set[int]] = {}
    for _, name, turn in wanted:
        reach.setdefault(name, set()).update((turn, turn - before))
    found, said = words_of(store, reach), dict[int, str]()
    for row, name, turn in wanted:
        said[row] = found[name, turn][1] if (name, turn) in found else ""
        if before and (name, turn - before) in found:
            said[-row - 1] = found[name, turn - before][1]
    return said
