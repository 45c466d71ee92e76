"""Where a block's neurons are: what goes into the last linear map back to the stream's width.

Named in every way (down_proj, fc2, c_proj, dense_4h_to_h, output.dense), so no name is looked at: it is the last linear
map that a block runs, once for all tokens, and it leads from another width to the stream's own. Of a state-space block,
its inner channels count as neurons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from turnscope.artifacts import ModelError
from turnscope.models.blocks import Blocks, first_tensor, probe_inputs


class _Reached(BaseException):  # a signal; BaseException, so that no model code can swallow it
    """The block that is looked at has run."""


def find_down(model: nn.Module, blocks: Blocks, index: int) -> nn.Module:
    """The linear map whose input are the neurons of a block, found by one pass over a tiny batch.

    Raises ModelError when there is none that sees every token, as in a mixture of experts.
    """
    block = blocks.items[index]
    runs: list[tuple[nn.Module, bool]] = []  # linear maps in the order in which they ran, and whether each may be it

    def inside(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        received, returned = args[0], first_tensor(output)
        assert isinstance(received, Tensor)
        assert returned is not None
        sees_all = received.numel() // received.shape[-1] == inputs["input_ids"].numel()
        leads_back = received.shape[-1] != blocks.d_model and returned.shape[-1] == blocks.d_model
        runs.append((module, sees_all and leads_back))

    def after(_m: nn.Module, _args: Any, _output: Any) -> None:
        raise _Reached

    inputs = probe_inputs(model)
    linear = [module for module in block.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles: list[Any] = [module.register_forward_hook(inside) for module in linear]
    handles.append(block.register_forward_hook(after))
    try:
        with torch.inference_mode():
            model(**inputs)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    # Nothing runs after it: what follows an attention of another width, in a mixture of experts, is the router.
    if not runs or not runs[-1][1] or sum(module is runs[-1][0] for module, _ in runs) > 1:
        raise ModelError(
            f"the neurons of block {index} cannot be read: {type(block).__name__} has no linear map from another width "
            "back to the stream's that sees every token (as in a mixture of experts)",
            where=type(model).__name__,
            fix="leave out the correlation with neurons",
        )
    return runs[-1][0]
