"""The vLLM adapter: driven as vLLM documents it, and held against transformers where vLLM is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fake_vllm
import pytest
import torch
from families import tiny_model
from model_files import save_tokenizer

from turnscope.artifacts import ConfigError, DependencyError, ModelError
from turnscope.models import Site, load_subject
from turnscope.models.vllm import VLLMSubject, load_vllm

SITES = [Site("resid", 2), Site("resid", 0)]
LENGTHS = [5, 1, 9]
IDS_T = 3 + torch.arange(sum(LENGTHS)) * 7 % 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama", "decoder").save_pretrained(tmp_path / "m")
    save_tokenizer(tmp_path / "m")
    return tmp_path / "m"


def load(folder: Path, sites: list[Site] = SITES, device: str = "cuda") -> VLLMSubject:
    return load_vllm(str(folder), sites, dtype="float32", device=device)


def test_states_are_those_of_transformers_in_the_order_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_vllm.install(monkeypatch)
    plain, other = load_subject(str(folder)), load(folder)
    found = other.capture_packed(IDS_T, LENGTHS, SITES)
    for site, wanted_1TD in plain.capture_packed(IDS_T, LENGTHS, SITES).items():
        torch.testing.assert_close(found[site], wanted_1TD, rtol=1e-4, atol=1e-5)
    assert engine.started[0].prompts == [ids.tolist() for ids in IDS_T.split(LENGTHS)]
    assert not list(engine.started[0].folder.iterdir()), "files are removed once read"


def test_padded_rows_are_read_without_their_padding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_vllm.install(monkeypatch)
    plain, other = load_subject(str(folder)), load(folder)
    ids_BT, mask_BT = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, ids in enumerate(IDS_T.split(LENGTHS)):
        ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = ids, 1
    found = other.capture(ids_BT, mask_BT, SITES[:1])[SITES[0]]
    wanted = plain.capture(ids_BT, mask_BT, SITES[:1])[SITES[0]]
    torch.testing.assert_close(found[mask_BT == 1], wanted[mask_BT == 1], rtol=1e-4, atol=1e-5)
    assert list(map(len, engine.started[0].prompts)) == LENGTHS


def test_it_names_the_model_as_the_other_path_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    plain, other = load_subject(str(folder)), load(folder)
    for name in ("name", "fingerprint", "tokenizer_fingerprint", "template_fingerprint", "d_model", "n_blocks"):
        assert getattr(other, name) == getattr(plain, name), name
    assert other.context == plain.context - 1
    whole_T = torch.full((other.context,), 3)  # fits beside the token that vLLM generates
    assert other.capture_packed(whole_T, [other.context], SITES[:1])[SITES[0]].shape[1] == other.context


@pytest.mark.parametrize("fault", ["cut", "order", "no path", "died"])
def test_what_does_not_fit_its_prompt_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    engine = fake_vllm.install(monkeypatch)
    subject = load(folder)
    monkeypatch.setattr(engine, "fault", fault)
    with pytest.raises(ModelError, match=r"other tokens|no hidden states|vLLM stopped"):
        subject.capture_packed(IDS_T, LENGTHS, SITES)


def test_what_vllm_cannot_do_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_vllm.install(monkeypatch)
    for site in (Site("embed"), Site("attn", 0), Site("mlp", 0)):
        with pytest.raises(ConfigError, match="what blocks return"):
            load(folder, [site])
    with pytest.raises(ConfigError, match="blocks"):
        load(folder, [Site("resid", 99)])
    with pytest.raises(ConfigError, match="on a GPU, not on cpu"):
        load(folder, device="cpu")
    assert not engine.started
    with pytest.raises(ConfigError, match="not started to read"):
        load(folder).check_sites([Site("resid", 1)])
    monkeypatch.setattr(engine, "fault", "unknown architecture")
    with pytest.raises(ModelError, match="EAGLE3"):
        load(folder)


def test_without_vllm_the_install_line_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnscope.models.vllm.find_spec", lambda _name: None)
    with pytest.raises(DependencyError) as caught:
        load(folder)
    assert "turnscope[vllm]" in caught.value.fix


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM, which the extra vllm brings")
def test_parity_with_transformers_on_a_gpu(tmp_path: Path) -> None:
    """The one test that runs vLLM. Heads of 64 and bfloat16, which its attention kernels ask for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, vocab_size=512,
        max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    save_tokenizer(tmp_path / "m")
    lengths = [300, 1, 17, 511]  # over blocks of its cache, and as long as the context allows
    ids_T = torch.randint(3, 500, (sum(lengths),))
    plain = load_subject(str(tmp_path / "m"), dtype="bfloat16", device="cuda")
    other = load_vllm(str(tmp_path / "m"), SITES, dtype="bfloat16", device="cuda")
    found = other.capture_packed(ids_T, lengths, SITES)
    for site, wanted_1TD in plain.capture_packed(ids_T, lengths, SITES).items():
        wanted_1TD = wanted_1TD.float().cpu()
        error_T = (found[site].float() - wanted_1TD).norm(dim=-1) / wanted_1TD.norm(dim=-1)
        assert error_T.max() < 0.05, site
