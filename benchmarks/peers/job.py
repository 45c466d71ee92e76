"""What a run is asked for: a JSON file from one environment to another. Imports nothing of them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """A dictionary to be trained, and the rows that it is trained on."""

    d: int
    features: int
    k: int
    batch: int
    true: int
    active: int
    zipf: float
    lr: float
    noise: float = 0.05


BIG = Shape(d=896, features=16384, k=32, batch=2048, true=16384, active=32, zipf=0.7, lr=5e-4)
SMALL = Shape(d=128, features=1024, k=8, batch=1024, true=512, active=8, zipf=0.5, lr=1e-3)


class Job(NamedTuple):
    """One run. `quality` asks for figures on held rows, and otherwise for time and memory."""

    library: str
    variant: str
    rows: str
    folder: str
    shape: list[Any]
    steps: int
    lr: float
    quality: bool = False
    seed: int = 0
    threads: int = 2
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    @property
    def sizes(self) -> Shape:
        return Shape(*self.shape)

    @property
    def decay(self) -> int:
        """Steps of falling learning rate at the end, for libraries that have such a setting: ours falls as long."""
        return self.steps // 5


class UnsupportedError(Exception):
    """The library does not do this."""


class StoreJob(NamedTuple):
    """One activation store to be timed on a model and chats.

    Args:
        store: a function of `stores_LIBRARY.py`.
        ids: JSON file of token ids, chat by chat.
        chats: JSON lines of `{"messages": [...]}`, for stores that render for themselves.
        tokens: through the model in each round.
    """

    library: str
    store: str
    model: str
    ids: str
    chats: str
    block: int
    pad_id: int
    tokens: int
    rounds: int
    folder: str = ""
    threads: int = 2
