"""Real conversations, when they are at hand: TURNSCOPE_SHARED, or a folder `shared` beside the repository."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from turnscope.transcripts import ImportConfig, TurnRenderer, open_transcripts, token_rows
from turnscope.transcripts.import_ import run

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TURNSCOPE_SHARED") or ROOT.parent / "shared")
SGD = SHARED / "data" / "general" / "sgd.jsonl.zst"
MODEL = SHARED / "models" / "dialogue-5M"


@pytest.mark.skipif(not SGD.exists() or not MODEL.exists(), reason="no shared data: set TURNSCOPE_SHARED")
def test_booking_dialogues(tmp_path: Path) -> None:
    result = run(ImportConfig(sources=(SGD,), out=tmp_path / "out", limit=200))
    assert result.n_conversations == 200
    renderer = TurnRenderer(AutoTokenizer.from_pretrained(MODEL))
    chats = list(islice(open_transcripts(result.path), 200))
    assert any(turn.labels for chat in chats for turn in chat.turns)
    for chat, rendered in zip(chats, renderer.render_many(chats), strict=True):
        assert rendered.status == "exact"
        for turn, span in zip(chat.turns, rendered.turns, strict=True):
            said = renderer.tokenizer.decode([rendered.token_ids[row] for row in token_rows(span, "content")])
            assert said.strip() == turn.text.strip()
