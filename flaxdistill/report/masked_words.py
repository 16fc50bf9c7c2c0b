"""Texts with a masked word, on which masked-LMs are compared."""

from __future__ import annotations

import re

from flaxdistill.data.tokenizer import Vocabulary

CONTEXT_TOKENS = 24
"""Tokens shown before and after a masked word."""


def mask_word(ids: list[int], vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Mask the middle word of two or more letters; None if the text has no such word."""
    token = vocabulary.tokenizer.id_to_token
    words = [
        n
        for n in range(1, len(ids) - 1)
        if re.fullmatch(r"\w{2,}", token(ids[n]) or "")
        and not (token(ids[n + 1]) or "").startswith("##")
    ]
    if not words:
        return None
    at = words[len(words) // 2]
    before = ids[max(1, at - CONTEXT_TOKENS) : at]
    after = ids[at + 1 : min(at + 1 + CONTEXT_TOKENS, len(ids) - 1)]
    mask = token(vocabulary.mask)
    return f"{vocabulary.decode(before)} {mask} {vocabulary.decode(after)}", token(ids[at])
