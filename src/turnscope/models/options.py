"""How a model can be loaded, as types that bring in no torch."""

from __future__ import annotations

from typing import Literal

Quantization = Literal["bnb-8bit", "bnb-4bit", "torchao-int8"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
Spread = Literal["auto", "balanced", "balanced_low_0", "sequential"]
DeviceMap = Spread | dict[str, int | str]
"""One of accelerate's ways to spread a model, or names of modules to devices."""
