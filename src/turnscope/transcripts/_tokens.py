"""From characters to tokens: one tokenisation of the plain render, its offsets, and the proof by decoding.

T tokens. Offsets are half-open character ranges into the text that was tokenised.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

Offsets = list[tuple[int, int]]
_SLOW_LIMIT = 4096  # tokens; decoding every prefix is quadratic


class Tokenised(NamedTuple):
    """Token ids and their offsets; `offsets` is None when they could not be had or could not be trusted."""

    token_ids: list[int]
    offsets: Offsets | None


class TokenRange(NamedTuple):
    """The tokens of a stretch of characters.

    [start, end) holds those with most of their characters inside; `straddling` the ones of them that reach out;
    [touch_start, touch_end) every token with any character inside.
    """

    start: int
    end: int
    straddling: tuple[int, ...]
    touch_start: int
    touch_end: int


def tokenise(tokenizer: Any, texts: Sequence[str]) -> list[Tokenised]:
    """Tokenise plain renders, no special tokens added: the template wrote them."""
    if not texts:
        return []
    if not getattr(tokenizer, "is_fast", False):
        return [_tokenise_slow(tokenizer, text) for text in texts]
    batch = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        verbose=False,
    )
    out: list[Tokenised] = []
    for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True):
        out.append(Tokenised(list(ids), offsets if _ordered(offsets) else None))
    return out


def _ordered(offsets: Offsets) -> bool:
    low = high = 0
    for start, end in offsets:
        if start < low or end < high or end < start:
            return False
        low, high = start, end
    return True


def _tokenise_slow(tokenizer: Any, text: str) -> Tokenised:
    """Offsets from decoding piece by piece, taken only if the pieces join to the very text."""
    ids: list[int] = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    pieces = [_decode(tokenizer, [token]) for token in ids]
    if "".join(pieces) == text:
        edges = [0]
        for piece in pieces:
            edges.append(edges[-1] + len(piece))
        return Tokenised(ids, list(pairwise(edges)))
    if len(ids) > _SLOW_LIMIT or _decode(tokenizer, ids) != text:
        return Tokenised(ids, None)
    offsets: Offsets = []
    begin = done = 0
    for count in range(1, len(ids) + 1):
        decoded = _decode(tokenizer, ids[:count])
        if text.startswith(decoded):
            # Tokens that only together make a character all carry that character.
            offsets += [(done, len(decoded))] * (count - begin)
            begin, done = count, len(decoded)
    return Tokenised(ids, offsets if len(offsets) == len(ids) and done == len(text) else None)


def token_range(starts: Sequence[int], ends: Sequence[int], low: int, high: int) -> TokenRange:
    """The tokens of characters [low, high), by majority of characters (half is no majority).

    Args:
        starts: first character of each token, not falling.
        ends: one past the last character of each token, not falling.
        low: first character of the stretch.
        high: one past its last.
    """
    touch_start, touch_end = bisect_right(ends, low), bisect_left(starts, high)
    if touch_start >= touch_end:
        return TokenRange(touch_start, touch_start, (), touch_start, touch_start)
    start, end = touch_start, touch_end
    while start < end and starts[start] < low and not _mostly_inside(starts[start], ends[start], low, high):
        start += 1
    while start < end and ends[end - 1] > high and not _mostly_inside(starts[end - 1], ends[end - 1], low, high):
        end -= 1
    straddling: list[int] = []
    token = start
    while token < end and starts[token] < low:
        straddling.append(token)
        token += 1
    last = end - 1
    while last >= token and ends[last] > high:
        straddling.append(last)
        last -= 1
    return TokenRange(start, end, tuple(sorted(straddling)), touch_start, touch_end)


def _mostly_inside(start: int, end: int, low: int, high: int) -> bool:
    return 2 * (min(end, high) - max(start, low)) > end - start


class Verifier:
    """Checks that the decoded tokens of a span say the text they are held to say.

    A tokenizer that lowers case, strips accents or has unknown tokens is compared after its own normaliser, with white
    space out and unknown tokens as gaps: what it cannot write it cannot be blamed for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        self._unknown: int | None = getattr(tokenizer, "unk_token_id", None)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The tokens as text, special tokens shown, nothing cleaned up."""
        return _decode(self._tokenizer, token_ids)

    def holds(self, decoded: str, token_ids: Sequence[int], texts: Sequence[str]) -> bool:
        """True when every text occurs in what the tokens decode to."""
        if all(text in decoded for text in texts):
            return True
        if self._unknown is None or self._unknown not in token_ids:
            # A WordPiece decoder leaves the mark of a continued word only where the tokens start with one.
            said = self._canonical(decoded.removeprefix("##"))
            return all(self._canonical(text) in said for text in texts)
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
                fragments.append(self._canonical(self.decode(run).removeprefix("##")))
                run = []
        return fragments

    def _canonical(self, text: str) -> str:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        text = unicodedata.normalize("NFKC", text).casefold().replace("\u2581", "")
        return "".join(text.split())


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
