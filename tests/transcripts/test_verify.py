"""The proof by decoding, asked of one span at a time."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from turnscope.transcripts._verify import Verifier


@pytest.fixture
def tokenizer() -> Any:
    """Words in lower case, without accents and without characters that do not show."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "cafe": 1, "tea": 2}, unk_token="[UNK]"))  # pyright: ignore
    core.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("texts", "holds"),
    [
        (["Café"], True),
        (["Tea"], False),
        (["\u0301"], False),  # an accent alone: the normaliser leaves nothing of it
        (["\u200b\u200d"], False),
        (["Café", "\u200b"], False),
    ],
)
def test_a_text_of_which_nothing_is_left_is_not_proved(tokenizer: Any, texts: list[str], holds: bool) -> None:
    assert Verifier(tokenizer).holds([1], texts) is holds
