"""The activation stores of other libraries, on the model and the chats that our harvest is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.apart import apart
from peers.install import python_of
from peers.job import StoreJob

STORES: dict[str, tuple[str, str, float | None]] = {
    "SAELens store, HookedTransformer (its default)": ("saelens", "hooked_transformer", 2.8),
    "SAELens store, transformers model": ("saelens", "transformers_model", None),
    "SAELens store, transformers model, chat template": ("saelens", "chat_template", None),
    "sparsify Trainer": ("sparsify", "trainer", 1.9),
    "dictionary_learning buffer, nnsight": ("dictlearn", "buffer", 1.5),
}
"""Title: library, function of its file here, and how many times its rate ours is to be."""
CUT = "bare, rows of 512 tokens cut across chats"
"""Our row for what the stores' rates are shares of."""


def measure(job: StoreJob, folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each store whose library is installed; `share` is of the bare passes in its own process."""
    missing = {library for library in dict.fromkeys(s[0] for s in STORES.values()) if python_of(library) is None}
    for title, (library, store, _) in STORES.items():
        if library in missing:
            continue
        found = apart(library, "peers.stores_one", job._replace(library=library, store=store)._asdict(), folder)
        if "error" in found:
            print(f"error {title}: {found['error']}", flush=True)
        else:
            print(
                f"{title:<49} {found['tokens_per_s']:>8,.0f} tokens/s, {found['share']:.3f} of bare cut rows",
                flush=True,
            )
            yield {"what": title, **found}


def targets(rows: list[dict[str, Any]], harvest: float) -> Iterator[tuple[str, float, float]]:
    """(name, value, goal) of our rate over each store's. `harvest` is ours as a share of the bare cut rows."""
    for row in rows:
        goal = STORES[row["what"]][2]
        if goal:
            yield f"turn means / {row['what']}", harvest / row["share"], goal
