"""What the turns of file and baseline are, and which of the file's are unusual, for the page. No torch.

Legend: N turns of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.audit.config import AuditConfig
from turnscope.audit.monitors.figures import rate
from turnscope.audit.reports.surprise import Surprise
from turnscope.audit.reports.together import Together
from turnscope.stats import Withheld

Ints = NDArray[np.int64]


def conversation_numbers(both: Together) -> Ints:
    """A number for each turn's conversation; those of file and baseline are different ones whatever their ids."""
    ids = np.asarray(both.turns["conversation_id"].to_pylist(), str)
    own = np.unique(ids[: both.n_file], return_inverse=True)[1]
    others = np.unique(ids[both.n_file :], return_inverse=True)[1] + own.max() + 1
    return np.concatenate([own, others]).astype(np.int64)


def described(both: Together, rows: Ints, conversation_N: Ints) -> dict[str, Any]:
    turns = both.turns.take(pa.array(rows))
    n_tokens = turns["n_tokens"].to_numpy()
    return {
        "turns": len(rows), "conversations": len(np.unique(conversation_N[rows])), "tokens": int(n_tokens.sum()),
        "median_tokens": float(np.median(n_tokens)), "active": float(np.diff(both.codes_NF.indptr)[rows].mean()),
        **{name: _shares(turns[name].to_pylist()) for name in ("role", "script", "language")},
    }  # fmt: skip


def _shares(values: list[Any]) -> list[list[Any]]:
    names, counts = np.unique(np.asarray([value or "" for value in values], str), return_counts=True)
    order = np.lexsort((names, -counts))[:4]
    return [[str(names[at]), int(counts[at])] for at in order]


def repeated(both: Together) -> int:
    """Turns of the file whose words stand in the baseline too; of those of 20 tokens or more."""
    hashes, long_N = both.turns["text_hash"].to_numpy(), both.turns["n_tokens"].to_numpy() >= 20
    return int((np.isin(hashes[: both.n_file], hashes[both.n_file :]) & long_N[: both.n_file]).sum())


def surprising(config: AuditConfig, scored: Surprise, both: Together) -> dict[str, Any]:
    """The most unusual conversations, each with its most unusual turn, and the most unusual turns."""
    ids = both.file.turns["conversation_id"].to_pylist()
    first = {int(c): at for at, c in reversed(list(enumerate(scored.conversation_N.tolist())))}
    order = np.argsort(np.where(np.isfinite(scored.p_C), -scored.bits_C, np.inf), kind="stable")
    bits_N = np.where(np.isfinite(scored.bits_N), scored.bits_N, -np.inf)
    conversations: list[dict[str, Any]] = []
    for c in order[: config.examples].tolist():
        mine = np.flatnonzero(scored.conversation_N == c)
        top = int(mine[np.argmax(bits_N[mine])])
        conversations.append(
            {
                "id": ids[first[c]], "turns": len(mine), "bits": scored.bits_C[c], "p": scored.p_C[c],
                "q": scored.q_C[c], "unusual": bool(scored.q_C[c] <= config.fdr), "row": top,
            }
        )  # fmt: skip
    told_N = np.isfinite(scored.place_N)
    above = rate(scored.place_N[told_N] >= 0.95, scored.conversation_N[told_N])
    turns = [
        {"row": int(row), "bits": float(scored.bits_N[row]), "place": float(scored.place_N[row])}
        for row in np.argsort(-np.where(np.isfinite(scored.place_N), bits_N, -np.inf), kind="stable")[: config.examples]
        if np.isfinite(scored.place_N[row])
    ]
    return {
        "withheld": scored.withheld, "of": len(scored.bits_C), "of_baseline": scored.n_baseline,
        "unusual": int((scored.q_C <= config.fdr).sum()), "smallest_p": 1 / (1 + scored.n_baseline),
        "turns_told": int(told_N.sum()), "turns_above_95": int((scored.place_N[told_N] >= 0.95).sum()),
        "ci": None if isinstance(above, Withheld) else [above.low, above.high],
        "show_turns": isinstance(above, Withheld) or above.low > 0.05,
        "conversations": conversations, "turns": turns,
    }  # fmt: skip
