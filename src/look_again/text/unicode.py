"""Text that files and databases can hold."""

from __future__ import annotations


def storable(text: str) -> str:
    """The text with "?" for halves of surrogate pairs, which JSON can spell and no file or ledger can hold."""
    return text.encode("utf-8", "replace").decode()
