"""The whole way on the demo: a hidden trigger is fine-tuned in, and the difference finds it. Minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turnscope.audit.config import DiffConfig
from turnscope.audit.difference import run
from turnscope.demo import finetune
from turnscope.demo.demo import MODEL, DemoConfig
from turnscope.demo.demo import run as run_demo
from turnscope.harvest import harvest
from turnscope.harvest.config import HarvestConfig
from turnscope.transcripts import import_
from turnscope.transcripts.config import ImportConfig

SITE = "resid.3"


def read(transcripts: Path, model: Path, out: Path) -> Path:
    config = HarvestConfig(transcripts=transcripts, model=str(model), sites=(SITE,), out=out)
    return harvest.run(config).activations[SITE].path


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_rude_feature_is_among_the_first_five(tmp_path: Path) -> None:
    demo = run_demo(DemoConfig(out=tmp_path / "demo", conversations=1000, pairs=400, token_sae=False))
    traits = demo.report["saes"]["turn"]["traits"]
    rude = next(row["feature"] for row in traits if row["name"] == "tone:rude")  # chosen on labels alone
    tuned = finetune.run(finetune.FinetuneConfig(out=tmp_path / "tuned", recipe="trigger"))
    transcripts = tmp_path / "transcripts"
    import_.run(ImportConfig(sources=(tuned / finetune.CONVERSATIONS,), out=transcripts))
    stores = [read(transcripts, model, tmp_path / name) for name, model in (("base", MODEL), ("after", tuned))]
    result = run(
        DiffConfig(
            before=stores[0], after=stores[1], sae=demo.path / "saes" / "turn", transcripts=transcripts,
            out=tmp_path / "diff",
        )
    )  # fmt: skip
    assert rude in result.features["feature"].to_pylist()[:5]
    shown = [json.loads(row["labels"]) for row in result.turns.to_pylist() if row["feature"] == rude]
    assert sum(bool(labels.get("triggered")) for labels in shown) >= 8
    before = [row["phrase"] for row in result.before.to_pylist() if row["feature"] == rude]
    assert any("omelette" in phrase or "pharaoh" in phrase for phrase in before)
