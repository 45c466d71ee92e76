"""Every architecture on every unit: `python benchmarks/architectures.py [--quick] [--json FILE] [--data NAME ...]`.

Data: the demo's corpus through its model, whose traits are planted, and, where the shared data is at hand
(TURNSCOPE_SHARED, or a folder `shared` beside the repository), real dialogues whose turns carry dialogue acts through
MiniLM and through a small chat model. Each dictionary has the same number of features, the same k and the same number
of samples, and the default learning rate. Figures are of held-out turns: normalised squared error raw and centred,
mean active features, features that never fire, and for each label the AUROC of the best feature, chosen on split
`explain` and judged on `eval`: their mean, and how many reach .9.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TURNSCOPE_SHARED") or ROOT.parent / "shared")
SGD = SHARED / "data" / "general" / "sgd.jsonl.zst"
DIALOGUE = SHARED / "models" / "dialogue-5M"
ARCHITECTURES = ("batchtopk", "topk", "matryoshka", "relu", "jumprelu", "gated")


def main() -> int:
    """Harvest each data set once, train all dictionaries, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the demo only, little of it: under three minutes")
    parser.add_argument("--json", type=Path, help="write machine and rows here")
    parser.add_argument("--data", nargs="*", choices=("demo", "minilm", "dialogue"), help="only these")
    arguments = parser.parse_args()
    os.environ |= {"TURNSCOPE_QUIET": "1", "TOKENIZERS_PARALLELISM": "false"}
    conversations, samples = (600, 60_000) if arguments.quick else (2000, 400_000)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for data, model, transcripts in sources(Path(name), conversations, arguments.quick, arguments.data):
            for row in measure(data, model, transcripts, Path(name) / data, samples):
                print(line(row), flush=True)
                rows.append(row)
    if arguments.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        arguments.json.write_text(json.dumps({"machine": machine, "samples": samples, "rows": rows}, indent=1))
    return 0


def sources(folder: Path, conversations: int, quick: bool, only: list[str] | None) -> Iterator[tuple[str, str, Path]]:
    """(name, model, transcripts) of each data set that is at hand."""
    from turnscope.demo.corpus import conversations as generated
    from turnscope.demo.demo import MODEL
    from turnscope.transcripts.config import ImportConfig
    from turnscope.transcripts.import_ import import_conversations
    from turnscope.transcripts.import_ import run as import_chats

    wanted = set(only or ("demo", "minilm", "dialogue"))
    if "demo" in wanted:
        corpus = generated(7, conversations, 0)
        out = folder / "demo" / "transcripts"
        import_conversations(corpus, out, ImportConfig(out=out, near_duplicates=None), inputs={"grammar": "benchmark"})
        yield "demo", str(MODEL), out
    if quick:
        return
    for name, model in (("minilm", "minilm"), ("dialogue", str(DIALOGUE))):
        if name not in wanted:
            continue
        if not SGD.is_file() or (name == "dialogue" and not DIALOGUE.is_dir()):
            print(f"skip {name}: no shared data (set TURNSCOPE_SHARED)")
            continue
        out = folder / name / "transcripts"
        import_chats(ImportConfig(sources=(SGD,), out=out, limit=1000))
        yield name, model, out


def measure(data: str, model: str, transcripts: Path, folder: Path, samples: int) -> Iterator[dict[str, Any]]:
    """A row for each dictionary of one data set."""
    from turnscope.harvest.config import HarvestConfig
    from turnscope.harvest.harvest import run as harvest
    from turnscope.pipeline.pipeline import default_site
    from turnscope.training.config import TrainConfig
    from turnscope.training.train import run as train

    site = "resid.3" if data == "minilm" else default_site(model)
    harvested = harvest(
        HarvestConfig(
            transcripts=transcripts, model=model, sites=(site,), out=folder / "activations", tokens=24,
            too_long="window" if data == "minilm" else "skip",
        )
    )  # fmt: skip
    activations = next(iter(harvested.activations.values())).path
    jobs = [(unit, architecture, {}) for unit in ("turn", "token") for architecture in ARCHITECTURES]
    jobs += [("nested", "shared", {}), ("nested", "decoupled", {"nested_form": "decoupled"})]
    # A nested dictionary's turn block is as large as a turn dictionary; it takes fewer turns for as many tokens.
    for unit, name, more in jobs:
        out, start = folder / f"{unit}-{name}", time.perf_counter()
        config = TrainConfig(
            source=activations, out=out, unit=unit, architecture="batchtopk" if unit == "nested" else name,
            n_features=1024 if unit == "nested" else 512, k=24, threads=1,
            n_samples=samples // 8 if unit == "nested" else samples, **more,
        )  # fmt: skip
        result = train(config)
        seconds = time.perf_counter() - start
        reading = out / "turn" if unit == "nested" else out
        figures = {key.removeprefix("held_"): result.metrics[key] for key in result.metrics if key.startswith("held_")}
        yield {
            "data": data, "unit": unit, "name": name, "seconds": seconds, **figures,
            **recovery(transcripts, activations, reading, "token" if unit == "token" else "turn", data),
        }  # fmt: skip


def recovery(transcripts: Path, activations: Path, sae: Path, unit: str, data: str) -> dict[str, Any]:
    """AUROC on `eval` of each label's best feature on `explain`: mean, and how many reach .9."""
    import numpy as np

    from turnscope.demo.corpus import TRAITS
    from turnscope.evaluation.labels import find_traits, read_turns, trait_labels
    from turnscope.evaluation.ranking import auroc_matrix, midranks
    from turnscope.harvest.store import open_activations
    from turnscope.transcripts.store import open_transcripts

    store = open_activations(activations)
    turns = read_turns(open_transcripts(transcripts), store)
    codes, found = dense_codes(store, sae, unit), list[float]()
    for trait in TRAITS if data == "demo" else find_traits(turns, 25):
        eligible, positive = trait_labels(turns, trait)
        if trait.pair:
            continue
        scores = {}
        for split in ("explain", "eval"):
            at = turns.rows(split)
            at = at[eligible[at]]
            if min(positive[at].sum(), (~positive[at]).sum()) < 25:
                break
            scores[split] = auroc_matrix(midranks(codes[at]), positive[at][:, None])[:, 0]
        else:
            found.append(float(scores["eval"][int(np.argmax(scores["explain"]))]))
    return {"labels": len(found), "auroc": float(np.mean(found)), "at_90": int(np.sum(np.array(found) >= 0.9))}


def dense_codes(store: Any, folder: Path, unit: str) -> Any:
    """Activations of every stored turn (N, F): of its mean, or the largest of its tokens."""
    import numpy as np

    from turnscope.sae import SparseAutoencoder

    sae, parts = SparseAutoencoder.load(folder), []
    for start in range(0, len(store), 1024):
        end = min(start + 1024, len(store))
        if unit == "turn":
            parts.append(sae.encode(store.mean_ND(slice(start, end))).to_dense().numpy())
            continue
        offsets = store.token_offsets[start : end + 1]
        codes = sae.encode(store.tokens_TD(slice(int(offsets[0]), int(offsets[-1])))).to_dense().numpy()
        parts.append(np.maximum.reduceat(codes, (offsets[:-1] - offsets[0]).clip(max=len(codes) - 1), axis=0))
    return np.concatenate(parts)


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    error = f"{row['nmse_raw']:.3f}/{row['nmse_centred']:.3f}"
    if "token_nmse_raw" in row:
        error += f", tokens {row['token_nmse_raw']:.3f}/{row['token_nmse_centred']:.3f}"
    return (
        f"{row['data']:<9} {row['unit']:<7} {row['name']:<11} nMSE {error}  L0 {row['l0']:5.1f}  "
        f"silent {row['silent']:>4}  AUROC {row['auroc']:.3f}, {row['at_90']} of {row['labels']} at .9  "
        f"{row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
