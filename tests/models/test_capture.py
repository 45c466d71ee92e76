"""The captured stream is transformers' own hidden states, and nothing above the highest site runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from turnscope.artifacts import ConfigError, ModelError
from turnscope.models.capture import capture, find_blocks
from turnscope.models.site import Site

SITES = [Site("embed"), Site("resid", 0), Site("resid", 1), Site("resid", 2)]
FINAL_NORM = {
    "llama": "model.norm",
    "qwen2": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for b, n in enumerate(lengths):
        ids_BT[b, :n] = torch.randint(3, 100, (n,), generator=generator)
        mask_BT[b, :n] = 1
    return ids_BT, mask_BT


def hooks(blocks: nn.ModuleList) -> list[int]:
    """How many hooks each block carries; transformers itself leaves some once it was asked for hidden states."""
    return [len(b._forward_hooks) + len(b._forward_pre_hooks) for b in blocks]


def test_sites_are_the_hidden_states_of_transformers(
    tiny: tuple[str, nn.Module],
) -> None:
    name, model = tiny
    ids_BT, mask_BT = batch([12, 12])
    found = capture(model, find_blocks(model, 3), ids_BT, mask_BT, SITES)
    with torch.inference_mode():
        truth = model(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True).hidden_states
    for site in SITES[:3]:
        torch.testing.assert_close(found[site], truth[site.block + 1], rtol=0, atol=1e-6)
    last_BTD = found[SITES[3]]
    if name in FINAL_NORM:  # decoders: hidden_states[-1] is what the final norm makes of the last block's output
        assert not torch.allclose(last_BTD, truth[3], atol=1e-3)
        with torch.inference_mode():
            last_BTD = model.get_submodule(FINAL_NORM[name])(last_BTD)
    torch.testing.assert_close(last_BTD, truth[3], rtol=0, atol=1e-5)


def test_padded_batch_equals_single_rows(tiny: tuple[str, nn.Module]) -> None:
    _, model = tiny
    lengths = [3, 17, 9]
    ids_BT, mask_BT = batch(lengths)
    blocks = find_blocks(model, 3)
    together = capture(model, blocks, ids_BT, mask_BT, SITES)
    for b, n in enumerate(lengths):
        alone = capture(model, blocks, ids_BT[b : b + 1, :n], mask_BT[b : b + 1, :n], SITES)
        for site in SITES:
            torch.testing.assert_close(together[site][b, :n], alone[site][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("site", "expected"),
    [("embed", [0, 0, 0]), ("resid.0", [1, 0, 0]), ("resid.1", [1, 1, 0])],
)
def test_blocks_above_the_site_do_not_run(tiny: tuple[str, nn.Module], site: str, expected: list[int]) -> None:
    _, model = tiny
    blocks = find_blocks(model, 3)
    before = hooks(blocks)
    runs = dict.fromkeys([0, 1, 2, "head"], 0)
    handles = []

    def count(key: object) -> object:
        def hook(*_: object) -> None:
            runs[key] += 1  # type: ignore[index]

        return hook

    for i, block in enumerate(blocks):
        inner = next(m for m in block.modules() if isinstance(m, nn.LayerNorm) or "Norm" in type(m).__name__)
        handles.append(inner.register_forward_hook(count(i)))
    head = getattr(model, "lm_head", None) or getattr(model, "embed_out", None)
    if head is not None:
        handles.append(head.register_forward_hook(count("head")))
    capture(model, blocks, *batch([5]), [Site.parse(site)])
    for handle in handles:
        handle.remove()
    assert [runs[i] for i in range(3)] == expected
    assert runs["head"] == 0
    assert hooks(blocks) == before, "hooks are left behind"


def test_hooks_are_removed_when_the_forward_fails(tiny: tuple[str, nn.Module]) -> None:
    _, model = tiny
    blocks = find_blocks(model, 3)
    before = hooks(blocks)
    with pytest.raises((IndexError, RuntimeError)):
        capture(
            model,
            blocks,
            torch.full((1, 4), 10_000),
            torch.ones(1, 4, dtype=torch.long),
            SITES,
        )
    assert hooks(blocks) == before


def test_blocks_are_found_past_a_longer_list_of_experts() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(3))
    assert find_blocks(model, 3) is model.layers
    assert len(find_blocks(nn.ModuleList([nn.Linear(1, 1)] * 4), None)) == 4


def test_a_model_without_blocks_or_the_site_is_refused(
    tiny: tuple[str, nn.Module],
) -> None:
    with pytest.raises(ModelError, match="no list of residual blocks"):
        find_blocks(nn.Linear(1, 1), 2)
    _, model = tiny
    with pytest.raises(ConfigError, match="has 3 blocks"):
        capture(model, find_blocks(model, 3), *batch([5]), [Site("resid", 3)])


@pytest.mark.parametrize(
    "text",
    ["", "resid", "resid.-1", "resid.x", "embed.1", "mlp.2", "resid.1.5", "resid.²"],
)
def test_site_text_that_is_no_site(text: str) -> None:
    with pytest.raises(ConfigError):
        Site.parse(text)


def test_site_order_and_text() -> None:
    assert sorted(SITES) == SITES
    assert [Site.parse(str(s)) for s in SITES] == SITES
