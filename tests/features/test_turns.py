from __future__ import annotations

from pathlib import Path

import index_support as support

from turnscope.features.config import IndexConfig
from turnscope.features.index import run
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.conversation import Conversation, Part, Turn
from turnscope.transcripts.import_ import import_conversations


def test_a_turn_carries_the_labels_of_its_conversation_and_its_own_go_before(tmp_path: Path):
    chats = support.planted(conversations=12)
    by: dict[str, list[Turn]] = {}
    for chat in chats:
        labels = {"mood": "own"} if chat.turn == 0 else {}
        turn = Turn(chat.turn, support.ROLES[chat.turn % 2], (Part("text", chat.text),), labels)
        by.setdefault(chat.conversation, []).append(turn)
    out = tmp_path / "transcripts"
    made = (Conversation(k, tuple(v), source="forum", labels={"mood": "whole", "trait": ["a"]}) for k, v in by.items())
    import_conversations(made, out, ImportConfig(out=out))
    config = IndexConfig(
        activations=support.make_activations(tmp_path / "activations", out, chats),
        sae=support.save_sae(tmp_path / "sae", support.identity()),
        transcripts=out,
        out=tmp_path / "index",
        splits=("train", "explain", "eval", "locked"),
    )
    index = run(config).open()
    assert set(index.turns["source"].to_pylist()) == {"forum"}
    assert len(index.query('trait = "a"')) == index.n_turns
    own = index.query('mood = "own"')
    assert index.turns["turn"].take(own.rows).to_pylist() == [0] * len(by)
    assert len(index.query('mood = "whole"')) == index.n_turns - len(by)
