"""The bytes of a token that is no whole character, as vocabularies spell them.

Byte-level vocabularies (GPT-2's, Qwen's) give each byte a character: printable ones stand for themselves, the others
follow from U+0100 on. Vocabularies with byte fallback (Llama's, Gemma's) write `<0xE2>`.
"""

from __future__ import annotations

import re
from functools import cache

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"  # what decoding shows for bytes that are no character
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))


def read_token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes | None:
    """The bytes of a token; None where its piece spells none."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if not isinstance(piece, str):
        return None
    if found := _FALLBACK.fullmatch(piece):
        return bytes.fromhex(found[1])
    table = _byte_alphabet()
    return bytes(table[character] for character in piece) if all(character in table for character in piece) else None


@cache
def _byte_alphabet() -> dict[str, int]:
    """Character -> byte."""
    printable = [byte for part in _PRINTABLE for byte in part]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
