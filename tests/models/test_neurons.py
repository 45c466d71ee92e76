"""Neurons: what goes into the module that a reader of each architecture's code would name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import subject_of, tiny_model

from turnscope.artifacts import ModelError
from turnscope.models.blocks import find_blocks
from turnscope.models.neurons import find_down

# Read from the source of each architecture.
DOWN = {
    ("llama", "decoder"): "mlp.down_proj",
    ("qwen3", "decoder"): "mlp.down_proj",
    ("gpt2", "decoder"): "mlp.c_proj",
    ("gpt_neox", "decoder"): "mlp.dense_4h_to_h",
    ("falcon", "decoder"): "mlp.dense_4h_to_h",
    ("opt", "decoder"): "fc2",
    ("phi", "decoder"): "mlp.fc2",
    ("gemma2", "decoder"): "mlp.down_proj",
    ("bert", "encoder"): "output.dense",
}


@pytest.mark.parametrize(("family", "kind"), sorted(DOWN))
def test_the_map_is_that_of_the_source(family: str, kind: str) -> None:
    model = tiny_model(family, kind)
    blocks = find_blocks(model)
    for index, block in enumerate(blocks.items):
        assert find_down(model, blocks, index) is block.get_submodule(DOWN[family, kind])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_block_without_neurons_is_refused_by_name(family: str) -> None:
    model = tiny_model(family, "decoder")
    with pytest.raises(ModelError, match="neurons of block 0"):
        find_down(model, find_blocks(model), 0)


def test_captured_neurons_are_the_input_of_that_map() -> None:
    model: Any = tiny_model("llama", "decoder")
    subject = subject_of(model)
    seen: list[torch.Tensor] = []
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    ids_BT = torch.arange(3, 21).view(2, 9)
    found = subject.capture_neurons(ids_BT, torch.ones_like(ids_BT), [0, 1])
    handle.remove()
    assert set(found) == {0, 1}
    torch.testing.assert_close(found[1], seen[-1], rtol=0, atol=0)
