"""Whole audits of planted worlds: what is on the page, what is withheld, what is refused. No model is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
import index_support as support

from turnscope.artifacts import Artifact, ConfigError, DataError, IntegrityError, StorageError, begin, write_json
from turnscope.artifacts.config import Config
from turnscope.audit.config import AuditConfig
from turnscope.audit.report import measure
from turnscope.audit.reports.baseline import index_folder, require_alike, require_dictionary
from turnscope.audit.reports.render import render_html, render_markdown
from turnscope.audit.reports.stages import Ready, prepare
from turnscope.audit.reports.trust import Rebuilder, trust
from turnscope.audit.reports.unseen import traits
from turnscope.features.encode import Dictionary
from turnscope.harvest.store import open_activations
from turnscope.sae.nested import NestedSAE

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</style><style>*{display:none}", "{{ 7*7 }}",
    "\u202egnp.exe", "\x1b[2J\x07\x00", "a\u200b\u2066b", "[x](javascript:alert(1))", "![i](http://evil.example/p.png)",
    "| a | b |\n# heading", "<!-- -->&lt;b&gt;", "https://evil.example www.evil.example", "`code` $x$ ~~s~~ **b**",
)  # fmt: skip


def renamed(chats: list[support.Chat], prefix: str, words: Any = None, codes: Any = None) -> list[support.Chat]:
    out: list[support.Chat] = []
    for number, chat in enumerate(chats):
        text = chat.text if words is None else f"{words(number)} {prefix}{number}"
        code = chat.codes_F if codes is None else codes(number, chat.codes_F)
        out.append(
            support.Chat(prefix + chat.conversation, chat.turn, text, code, chat.tokens_TF, chat.ids_T, chat.labels)
        )
    return out


def ready(file: support.World, baseline: support.World) -> Ready:
    stores = [open_activations(world.activations) for world in (file, baseline)]
    indexes = [
        type(world.index)(world.index.artifact, support.open_transcripts(world.transcripts))
        for world in (file, baseline)
    ]
    return Ready(indexes[0], stores[0], indexes[1], stores[1], Dictionary(baseline.sae))


def settings(out: Path, **more: Any) -> AuditConfig:
    return AuditConfig(files=(Path("chats.jsonl"),), baseline=Path("usual"), out=out, n_boot=100, **more)


ALL = ("train", "explain", "eval", "locked")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> support.World:
    return support.make_world(tmp_path_factory.mktemp("usual"), support.planted(120, seed=1))


def audit(tmp_path: Path, chats: list[support.Chat], usual: support.World, **more: Any) -> dict[str, Any]:
    file = support.make_world(tmp_path / "file", chats, splits=ALL)
    known, _ = traits(usual.folder, usual.index, [])
    return measure(settings(tmp_path, **more), ready(file, usual), known)[0]


def test_a_planted_feature_comes_first_with_words_of_the_chats(tmp_path: Path, usual: support.World) -> None:
    def loud(number: int, codes: Any) -> Any:
        codes = codes.copy()
        codes[5] = 4.0 if number % 4 else 0.0
        return codes

    report = audit(tmp_path, renamed(support.planted(40, seed=2), "new-", codes=loud), usual)
    first = report["unusual"]["features"][0]
    assert (first["feature"], first["more_in"]) == (5, "file")
    assert first["evidence"][0]["text"]
    assert "F5" in report["verdict"][0]
    for page in (render_html(report), render_markdown(report)):
        assert "F5 more" in page
        assert "What this audit could not see" in page


def test_chats_like_the_baseline_are_not_unusual(tmp_path: Path, usual: support.World) -> None:
    report = audit(tmp_path, renamed(support.planted(40, seed=3), "new-"), usual)
    assert report["unusual"]["differ"] == 0
    assert report["unusual"]["surprise"]["unusual"] == 0
    assert report["verdict"][0].startswith("No feature differs from the baseline beyond chance")
    assert "none of" in render_html(report)


def test_one_conversation_has_its_statistics_withheld(tmp_path: Path, usual: support.World) -> None:
    report = audit(tmp_path, renamed(support.planted(1, seed=4), "new-"), usual)
    assert "the file has only" in report["unusual"]["withheld"]
    assert report["unusual"]["features"] == []
    assert report["trust"]["ci"] is None
    assert "withheld, the file has only" in render_html(report)
    assert "withheld, the file has only" in render_markdown(report)


def test_another_script_is_told(tmp_path: Path, usual: support.World) -> None:
    chats = renamed(support.planted(20, seed=5), "new-", words=lambda n: "茶を一杯ください。")
    report = audit(tmp_path, chats, usual)
    script = report["file"]["script"][0][0]
    assert script not in ("LATIN", "")
    assert script in render_html(report)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}


def plant_everywhere(value: Any, bad: str) -> Any:
    """Hostile words in every text that a file, a feature or a user could bring in."""
    if isinstance(value, dict):
        return {key: plant_everywhere(item, bad) for key, item in value.items()}
    if isinstance(value, list):
        return [plant_everywhere(item, bad) for item in value]
    return bad if isinstance(value, str) and value not in ("", "file", "baseline") else value


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, usual: support.World) -> dict[str, Any]:
    def loud(number: int, codes: Any) -> Any:
        codes = codes.copy()
        codes[5], codes[6] = 4.0, 0.0
        return codes

    tmp_path = tmp_path_factory.mktemp("full")
    report = audit(tmp_path, renamed(support.planted(30, seed=6), "n-", codes=loud), usual)
    example = {"conversation_id": "c", "turn": 1, "role": "user", "text": "words", "row": 0}
    report["monitors"] = [
        {
            "name": "m", "alerts": alerts, "turns": 9, "conversations": 9, "conversations_alerted": alerts,
            "bound": bound, "bound_withheld": "" if bound else "why", "recall": 0.9, "recall_ci": [0.8, 0.95],
            "recall_on": "there", "false_alerts_expected": 0.1, "notices": ["note"],
            "examples": [example] * alerts, "formula": "f",
        }
        for alerts, bound in ((1, 0.4), (0, 0.2), (0, None))
    ]  # fmt: skip
    report["notices"] = ["a note"]
    report["traits"][0] |= {"trusted": True, "by": "monitor m", "auroc": 0.95}
    for row in report["unusual"]["features"]:
        row |= {"explanation": "an explanation", "word": "word", "word_f1": 0.5}
    report["unusual"]["surprise"]["unusual"] = 1
    report["unusual"]["surprise"]["show_turns"] = True
    for each in report["unusual"]["surprise"]["conversations"]:
        each["unusual"] = True
    return report


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_words_stay_words(full: dict[str, Any], bad: str) -> None:
    report = plant_everywhere(full, bad) | {"dropped": full["dropped"]}
    html, markdown = render_html(report), render_markdown(report)
    page, plain = _Page(), _Page()
    page.feed(html)
    plain.feed(render_html(full))
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert not page.tags & {"script", "img", "iframe", "link", "a", "object", "form"}
    assert not [name for _, name in page.attributes if name.startswith("on") or name in ("src", "style", "href")]
    if bad == "{{ 7*7 }}":
        assert bad in html
    for text in (html, markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert "<script" not in markdown.replace("\\<", "")
    assert "](" not in markdown.replace("\\]", "")
    assert not re.search(r"(?<!\\)https?://|(?<!\\)www\.(?!\\)", markdown)
    # no line of the page begins otherwise than its template lets it: tables keep their columns
    assert [line.count("|") - line.count("\\|") for line in markdown.splitlines() if line.startswith("|")] == [
        line.count("|") - line.count("\\|") for line in render_markdown(full).splitlines() if line.startswith("|")
    ]


def test_the_policy_of_the_page_allows_its_own_style_and_nothing_else(full: dict[str, Any]) -> None:
    import base64
    import hashlib

    html = render_html(full)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert style is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert not re.search(r"url\(|@import|http", html.replace("http-equiv", ""))


def test_the_page_fits_a_page(full: dict[str, Any]) -> None:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", render_html(full), flags=re.S)
    assert len(text.split()) < 1000


def test_nothing_of_time_or_place_is_on_the_page(tmp_path: Path, usual: support.World) -> None:
    chats = renamed(support.planted(12, seed=7), "new-")
    one, two = (audit(tmp_path / name, chats, usual) for name in ("a", "b"))
    assert render_html(one) == render_html(two)
    assert render_markdown(one) == render_markdown(two)
    assert str(tmp_path) not in render_html(one)


def test_variance_explained_is_that_of_the_decoder(tmp_path: Path) -> None:
    """Codes are planted, and the decoder lacks one direction: what is lost is known."""
    decoder = np.eye(support.F, dtype=np.float32)
    decoder[3] = 0
    sae = support.identity(decoder_FD=decoder)
    world = support.make_world(tmp_path / "w", support.planted(20, seed=8), sae)
    store = open_activations(world.activations)
    rows = np.arange(len(store))
    x_ND = store.mean_ND(rows).astype(np.float64)
    rebuilder = Rebuilder(Dictionary(world.sae), 10.0)
    centre_D = rebuilder.centre(store, rows)
    np.testing.assert_allclose(centre_D, x_ND.mean(0), rtol=1e-5)
    found = rebuilder.errors(store, rows, centre_D)
    np.testing.assert_allclose(found.off_N, x_ND[:, 3] ** 2, atol=1e-5)
    np.testing.assert_allclose(found.all_N, ((x_ND - centre_D) ** 2).sum(1), rtol=1e-5)
    assert found.explained == pytest.approx(1 - (x_ND[:, 3] ** 2).sum() / ((x_ND - x_ND.mean(0)) ** 2).sum(), rel=1e-4)
    same = trust(found, found, np.arange(len(rows)))
    assert same["worse"] == int((found.nmse_N > np.quantile(found.nmse_N, 0.95, method="higher")).sum())


def test_a_nested_dictionary_is_judged_by_its_turn_block(tmp_path: Path) -> None:
    nested = NestedSAE(support.identity(), support.identity(unit="token"))
    worlds = [
        support.make_world(tmp_path / name, renamed(support.planted(n, seed=n), name), nested, tokens=True, splits=ALL)
        for name, n in (("file", 12), ("usual", 40))
    ]
    report = measure(settings(tmp_path), ready(*worlds), traits(tmp_path, worlds[1].index, [])[0])[0]
    assert report["trust"]["explained_file"] == pytest.approx(1, abs=1e-6)
    assert report["made_with"]["n_features"] == 2 * support.F
    assert "the turn block alone is judged" in render_html(report)


def test_tokens_are_summed_over_a_turn(tmp_path: Path) -> None:
    decoder = np.eye(support.F, dtype=np.float32)
    decoder[2] = 0
    sae = support.identity(unit="token", decoder_FD=decoder)
    chats = support.planted(20, seed=9)
    world = support.make_world(tmp_path / "w", chats, sae, tokens=True)
    store = open_activations(world.activations)
    rebuilder = Rebuilder(Dictionary(world.sae), 1000.0)
    found = rebuilder.errors(store, np.arange(len(store)), np.zeros(support.F))
    order = {(chat.conversation, chat.turn): chat for chat in chats}
    places = zip(store.turns["conversation_id"].to_pylist(), store.turns["turn"].to_pylist(), strict=True)
    tokens = [order[place].tokens_TF for place in places]
    np.testing.assert_allclose(found.off_N, [(t[:, 2] ** 2).sum() for t in tokens], rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(found.all_N, [(t**2).sum() for t in tokens], rtol=1e-2, atol=1e-4)


def test_another_dictionary_is_refused_with_both_fingerprints(tmp_path: Path, usual: support.World) -> None:
    sae = support.identity()
    sae.b_dec_D.data = torch.ones(support.F)
    other = Artifact.open(support.save_sae(tmp_path / "other", sae), "sae")
    with pytest.raises(IntegrityError) as error:
        require_dictionary(usual.index, other)
    wanted = usual.index.artifact.manifest.inputs["sae"]
    assert wanted[:16] in str(error.value)
    assert other.fingerprint[:16] in str(error.value)


def test_another_model_or_policy_is_refused(tmp_path: Path, usual: support.World) -> None:
    store = open_activations(usual.activations)
    made = store.artifact.manifest
    for change, said in (
        ({"inputs": {**made.inputs, "model": "another model"}}, "another model"),
        ({"config": {**made.config, "span_policy": "as_of_turn"}}, "span_policy"),
        ({"config": {**made.config, "site": "resid.7"}}, "resid.7"),
    ):
        other = open_activations(usual.activations)
        artifact = Artifact(other.artifact.path, made.model_copy(update=change), "0" * 64)
        other.artifact = artifact
        with pytest.raises(IntegrityError, match=said):
            require_alike(other, store)


def test_no_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="turnscope index"):
        prepare(AuditConfig(files=(tmp_path / "a.jsonl",), out=tmp_path / "out"))
    with pytest.raises(StorageError, match="no such baseline"):
        index_folder(tmp_path / "nothing", None)


def test_a_run_folder_leads_to_its_one_index(tmp_path: Path, usual: support.World) -> None:
    assert index_folder(usual.index.artifact.path, None) == usual.index.artifact.path
    run = tmp_path / "run"
    (run / "features").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no index"):
        index_folder(run, None)
    for name in ("one", "two"):
        (run / "features" / name).symlink_to(usual.index.artifact.path)
        if name == "one":
            assert index_folder(run, None) == run / "features" / "one"
    with pytest.raises(ConfigError, match="several indexes"):
        index_folder(run, None)


def test_a_query_without_turns_leaves_no_baseline(tmp_path: Path, usual: support.World) -> None:
    with pytest.raises(DataError, match="no turn of the baseline counts"):
        audit(tmp_path, renamed(support.planted(6, seed=10), "new-"), usual, baseline_where="mood = blue")


class _Contrast(Config):
    note: str = "planted"


@pytest.mark.parametrize(
    ("auroc", "confounds", "trusted"), [(0.93, [], True), (0.89, [], False), (0.99, ["n_tokens"], None)]
)
def test_a_trait_is_trusted_from_nine_tenths_on(
    tmp_path: Path, usual: support.World, auroc: float, confounds: list[str], trusted: bool | None
) -> None:
    draft: Any = begin(
        tmp_path / "contrasts" / "refusal", "contrast", _Contrast(), {"index": usual.index.artifact.fingerprint}
    )
    row = {
        "feature": 3,
        "separates": True,
        "up_in": "a",
        "chosen_auroc": 0.95,
        "auroc": auroc,
        "confounded_by": confounds,
    }
    write_json(draft.path / "contrast.json", {"features": [row]})
    draft.commit({})
    rows, inputs = traits(tmp_path, usual.index, [])
    (refusal,) = (row for row in rows if row["trait"] == "refusal")
    if trusted is None:  # a feature that length explains says nothing of the trait
        assert not refusal["trusted"]
        assert "known:contrasts/refusal" not in inputs
        return
    assert (refusal["trusted"], refusal["feature"]) == (trusted, 3)
    assert "known:contrasts/refusal" in inputs
    assert not any(row["trusted"] for row in rows if row["trait"] != "refusal")


def test_what_reads_figures_never_imports_torch() -> None:
    names = ("report", *(f"reports.{n}" for n in (
        "together", "surprise", "unusual", "trust", "bounds", "watch", "unseen", "render", "verdict", "stages",
        "baseline", "described",
    )))  # fmt: skip
    code = f"import sys, {', '.join(f'turnscope.audit.{name}' for name in names)}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "False", ran.stderr
