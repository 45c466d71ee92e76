"""A dictionary's most telling features with the turns that show them, and what is known of those turns.

N rows (turns), F features.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from turnscope.evaluation.codes import DictionaryReader
from turnscope.evaluation.config import Trait
from turnscope.evaluation.labels import find_traits, read_turns, trait_labels
from turnscope.evaluation.ranking import auroc_matrix, midranks
from turnscope.features import pick, summarise
from turnscope.transcripts.store import TranscriptStore

_MOST_TURNS = 8000
_SHOWN = 12


def fit(activations: Path, sae: Path) -> dict[str, Any]:
    """How well a dictionary rebuilds unseen rows of its own unit (split `eval`)."""
    reader = DictionaryReader(activations, sae)
    splits = np.array(reader.store.turns.column("split").to_pylist())
    return reader.fit(np.flatnonzero(splits == "eval"), 20_000, 0)


def features(
    transcripts: TranscriptStore, activations: Path, sae: Path, traits: tuple[Trait, ...] = ()
) -> list[dict[str, Any]]:
    """The features that carry most of the activations' power on unseen turns, each with three turns.

    Where turns carry labels, `responds_to` names the trait with the highest AUROC for the feature, chosen among all of
    them on these very turns: a description, not a test (the table of traits is the test).
    """
    reader = DictionaryReader(activations, sae)
    turns = read_turns(transcripts, reader.store)
    rows = turns.rows("eval")[:_MOST_TURNS]
    codes_NF = reader.codes_NF(rows)
    texts = [turns.texts[row] for row in rows]
    chosen = pick(codes_NF, _SHOWN)
    known = [(t.name, *trait_labels(turns, t)) for t in traits or find_traits(turns, 25) if not t.pair]
    described: list[dict[str, Any]] = []
    for summary in summarise(codes_NF, texts, chosen, top=3):
        shown = [
            {
                "conversation_id": reader.store.turns.column("conversation_id")[int(rows[t.row])].as_py(),
                "turn": reader.store.turns.column("turn")[int(rows[t.row])].as_py(),
                "role": turns.roles[int(rows[t.row])],
                "activation": t.activation,
                "text": texts[t.row][:300],
            }
            for t in summary.top
        ]
        active = [turns.roles[int(row)] for row in rows[codes_NF[:, summary.feature] > 0]]
        described.append(
            {
                "feature": summary.feature, "density": summary.density, "max": summary.maximum, "share": summary.share,
                "role": Counter(active).most_common(1)[0][0] if active else "",
                "responds_to": _responds_to(codes_NF[:, summary.feature], rows, known), "turns": shown,
            }
        )  # fmt: skip
    return described


def _responds_to(scores_N: Any, rows: Any, known: list[Any]) -> dict[str, Any] | None:
    best: dict[str, Any] | None = None
    for name, eligible, positive in known:
        at = eligible[rows]
        labels = positive[rows][at]
        if labels.sum() < 25 or (~labels).sum() < 25:
            continue
        value = float(auroc_matrix(midranks(scores_N[at][:, None]), labels[:, None])[0, 0])
        if best is None or value > best["auroc"]:
            best = {"trait": name, "auroc": value}
    return best
