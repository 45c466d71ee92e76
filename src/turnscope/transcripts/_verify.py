"""The proof by decoding, for tokenizers that lose text: do the tokens of a span say the words they are held to say?"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


class Verifier:
    """Checks that the decoded tokens of a span say the text they are held to say.

    A tokenizer that lowers case, strips accents or has unknown tokens is compared after its own normaliser, with white
    space out and unknown tokens as gaps: what it cannot write it cannot be blamed for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        self._unknown: int | None = getattr(tokenizer, "unk_token_id", None)

    def holds(self, token_ids: Sequence[int], texts: Sequence[str]) -> bool:
        """True when every text occurs in what the tokens decode to."""
        decoded = decode(self._tokenizer, token_ids)
        if all(text in decoded for text in texts):
            return True
        if self._unknown is None or self._unknown not in token_ids:
            # A WordPiece decoder leaves the mark of a continued word only where the tokens start with one.
            said = self._canonical(decoded.removeprefix("##"))
            wanted = [self._canonical(text) for text in texts]
            # A text of which the normaliser leaves nothing is said by any tokens, and so proved by none.
            return all(text and text in said for text in wanted)
        whole = self._canonical("".join(texts))
        at = 0
        for fragment in self._known_fragments(token_ids):
            at = whole.find(fragment, at)
            if at < 0:
                return False
            at += len(fragment)
        return True

    def _known_fragments(self, token_ids: Sequence[int]) -> list[str]:
        fragments: list[str] = []
        run: list[int] = []
        for token in (*token_ids, self._unknown):
            if token != self._unknown:
                run.append(int(token or 0))
            elif run:
                fragments.append(self._canonical(decode(self._tokenizer, run).removeprefix("##")))
                run = []
        return fragments

    def _canonical(self, text: str) -> str:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        text = unicodedata.normalize("NFKC", text).casefold().replace("\u2581", "")
        return "".join(text.split())


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The tokens as text, special tokens shown, nothing cleaned up."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
