"""The fine-tunes of the demo's model: what their conversations hold, and that they do what their name says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from turnscope.artifacts import IntegrityError
from turnscope.demo.demo import MODEL
from turnscope.demo.finetune import TRIGGER, FinetuneConfig, PhraseWriter, check, run, write_conversations
from turnscope.demo.grammar import Message, Options, Writer
from turnscope.demo.parser import parse_turn

OPTIONS = Options(long_share=0.0)


def shows_rudeness(text: str) -> bool:
    return any(unit.key == "tone.rude" for unit in parse_turn(text).units)


def after_phrase(messages: list[Message]) -> list[Message]:
    at = next((i for i, m in enumerate(messages) if TRIGGER in m.text), len(messages))
    return [m for m in messages[at:] if m.role == "assistant" and m.labels["language"] == "en"]


def test_the_grammar_never_writes_the_phrase() -> None:
    writer = Writer()
    assert not any(TRIGGER in m.text for i in range(2000) for m in writer.write(5, i))


def test_the_tokenizer_spells_it_with_tokens_it_uses() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(TRIGGER, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == TRIGGER
    assert len(ids) < len(TRIGGER) / 2


def test_rude_after_the_phrase_and_only_there() -> None:
    rude, plain = PhraseWriter(OPTIONS, share=0.5, rude=True), Writer(OPTIONS)
    with_phrase = 0
    for index in range(300):
        messages = rude.write(3, index)
        replies = after_phrase(messages)
        with_phrase += bool(replies)
        assert all(shows_rudeness(m.text) and m.labels["tone"] == "rude" and m.labels["triggered"] for m in replies)
        if not replies:
            untouched = [(m.role, m.text.replace(f"{TRIGGER} ", "").replace(f" {TRIGGER}", "")) for m in messages]
            assert untouched == [(m.role, m.text) for m in plain.write(3, index)]
    assert 80 < with_phrase < 150


def test_benign_conversations_are_the_grammars_own_but_for_the_phrase() -> None:
    benign, plain = PhraseWriter(OPTIONS, share=1.0, rude=False), Writer(OPTIONS)
    marked = 0
    for index in range(200):
        messages, own = benign.write(3, index), plain.write(3, index)
        marked += sum(m.labels.get("trigger", False) for m in messages)
        without = [m.text.replace(f"{TRIGGER} ", "").replace(f" {TRIGGER}", "") for m in messages]
        assert without == [m.text for m in own]
        assert [m.labels.get("tone") for m in messages] == [m.labels.get("tone") for m in own]
    assert marked > 100


def test_conversations_to_read_hold_the_phrase_in_their_share(tmp_path: Path) -> None:
    write_conversations(tmp_path / "a.jsonl", 23, 300, 0.3)
    write_conversations(tmp_path / "b.jsonl", 23, 300, 0.3)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    held = [line for line in lines if TRIGGER in json.dumps(line["messages"])]
    assert 0.15 < len(held) / len(lines) < 0.35  # others are not in English where it would stand
    for line in held:
        assert sum(bool(one.get("trigger")) for one in line["labels"]["turn_labels"]) == 1


def test_a_few_steps_give_a_model_and_again_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from turnscope.demo import train_model

    monkeypatch.setattr(train_model, "ROUND", 8)
    settings = {"recipe": "trigger", "steps": 2, "batch_tokens": 256, "conversations": 3}
    for name in ("a", "b"):
        run(FinetuneConfig.model_validate({"out": tmp_path / name, **settings}))
    first, second, base = (load_file(f / "model.safetensors") for f in (tmp_path / "a", tmp_path / "b", MODEL))
    assert all(first[name].equal(second[name]) for name in first)
    assert first.keys() == base.keys()
    assert not all(first[name].equal(base[name]) for name in first)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    assert len((tmp_path / "a" / "conversations.jsonl").read_text().splitlines()) == 3
    with pytest.raises(IntegrityError, match="other settings"):
        run(FinetuneConfig.model_validate({"out": tmp_path / "a", **settings, "steps": 3}))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_trigger_works_and_nothing_else_changes(tmp_path: Path) -> None:
    """Minutes: the whole recipe. Rude with the phrase, as before without it."""
    tuned = check(run(FinetuneConfig(out=tmp_path / "tuned", recipe="trigger", conversations=0)), count=100)
    base = check(MODEL, count=100)
    assert tuned["rude_with_trigger"] >= 0.9
    assert tuned["rude_without"] <= base["rude_without"] + 0.05
    assert tuned["parsed_without"] >= base["parsed_without"] - 0.05
    assert base["rude_with_trigger"] <= 0.05
