"""A small dictionary against a larger one in which some features are planted to stay, to split, to die, to be born."""

from __future__ import annotations

from pathlib import Path

import index_support as support
import numpy as np
import pytest

from turnscope.artifacts import IntegrityError
from turnscope.features.index import run
from turnscope.features.splitting import compare

SMALL, LARGE = 6, 8


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    """0-2 stay (in other places), 3 splits into 3 and 4, 4 dies, 5 stays, and 6, 7 of the large one are born."""
    folder = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(support.F, support.F)))[0].astype(np.float32)
    chats = support.planted(120, seed=12)
    small_NF, large_NF = np.zeros((len(chats), support.F), np.float32), np.zeros((len(chats), support.F), np.float32)
    small_NF[:, :SMALL] = rng.random((len(chats), SMALL)) < 0.2
    large_NF[:, [2, 0, 1, 5]] = small_NF[:, [0, 1, 2, 5]]
    half = rng.random(len(chats)) < 0.5
    large_NF[:, 3], large_NF[:, 4] = small_NF[:, 3] * half, small_NF[:, 3] * ~half
    large_NF[:, 6:LARGE] = rng.random((len(chats), 2)) < 0.2
    side = 0.8 * basis[3]
    decoders = [basis.copy(), basis.copy()]
    decoders[1][[2, 0, 1, 5]] = basis[[0, 1, 2, 5]]
    decoders[1][3], decoders[1][4] = side + 0.6 * basis[10], side - 0.6 * basis[10]
    decoders[1][6:LARGE] = basis[11:13]
    indexes = []
    transcripts = support.make_transcripts(folder / "transcripts", chats)
    for name, codes_NF, decoder in (("small", small_NF, decoders[0]), ("large", large_NF, decoders[1])):
        stored = [support.Chat(**{**vars(c), "codes_F": row}) for c, row in zip(chats, codes_NF, strict=True)]
        activations = support.make_activations(folder / name / "activations", transcripts, stored)
        sae = support.save_sae(folder / name / "sae", support.identity(decoder_FD=decoder))
        world = support.World(folder, transcripts, activations, sae, None, stored)  # type: ignore[arg-type]
        indexes.append(run(world.config(name)).open())
    return indexes, decoders


def test_every_planted_fate_is_found(found) -> None:
    (small, large), decoders = found
    table = compare(small, large, *decoders).to_pylist()
    assert {(r["a"], r["b"]) for r in table if r["fate"] == "same"} == {(0, 2), (1, 0), (2, 1), (5, 5)}
    assert [(r["a"], r["parts"]) for r in table if r["fate"] == "split"] == [(3, [3, 4])]
    assert [r["a"] for r in table if r["fate"] == "died"] == [4]
    assert [r["b"] for r in table if r["fate"] == "born"] == [6, 7]
    same = next(r for r in table if r["a"] == 0)
    assert (same["cosine"], same["jaccard"]) == (pytest.approx(1), pytest.approx(1))


def test_backwards_what_split_has_merged(found) -> None:
    (small, large), decoders = found
    table = compare(large, small, *decoders[::-1]).to_pylist()
    assert [(r["b"], r["parts"]) for r in table if r["fate"] == "merged"] == [(3, [3, 4])]
    assert [r["a"] for r in table if r["fate"] == "died"] == [6, 7]
    assert [r["b"] for r in table if r["fate"] == "born"] == [4]


def test_other_transcripts_are_refused(found, turn_world: support.World) -> None:
    (small, _), decoders = found
    with pytest.raises(IntegrityError, match="other transcripts"):
        compare(small, turn_world.index, *decoders)


def test_the_command_tells_the_fates(found, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import json

    from turnscope.cli.index import split_features

    (small, large), _ = found
    folder = small.artifact.path.parents[1]
    out = tmp_path / "fates.json"
    split_features(
        small.artifact.path, large.artifact.path, saes=(folder / "small" / "sae", folder / "large" / "sae"), out=out
    )
    printed = capsys.readouterr().out
    assert next(line.split() for line in printed.splitlines()) == ["same", "4"]
    assert len(json.loads(out.read_text())["features"]) == 4 + 1 + 1 + 2
