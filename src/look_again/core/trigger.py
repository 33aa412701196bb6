"""Recognising `<REFLECTION>` while it is being written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from look_again.text.grammar import close_tag, open_tag
from look_again.text.tags import tag_ids

MAX_PIECES = 16


class Trigger:
    """`<REFLECTION>` as its own token or, for models whose tags were never trained, spelled in ordinary pieces.

    open_id, close_id: the tag tokens. `spelled`: also recognise the tag in pieces; needs the tokenizer.
    """

    def __init__(self, open_id: int, close_id: int, tokenizer: Any = None) -> None:
        self.open_id = open_id
        self.close_id = close_id
        self._tokenizer = tokenizer
        self._decode_cached = lru_cache(maxsize=65536)(self._decode)

    def __repr__(self) -> str:
        spelled = ", also spelled" if self._tokenizer is not None else ""
        return f"Trigger(<REFLECTION> {self.open_id}, </REFLECTION> {self.close_id}{spelled})"

    @classmethod
    def of(cls, tokenizer: Any, *, spelled: bool = False) -> Trigger:
        """The trigger of a prepared tokenizer. Raises MissingTagsError when it lacks the tags."""
        ids = tag_ids(tokenizer)
        opening, closing = ids[open_tag("REFLECTION")], ids[close_tag("REFLECTION")]
        return cls(opening, closing, tokenizer if spelled else None)

    def pieces(self, response: Sequence[int], token: int) -> int:
        """How many tokens, `token` being the last, make up a `<REFLECTION>` that it completes; 0 if it does not.

        Pieces may hold more than the tag ("><", ">\\n"): the first one counts whole, so visual tokens go in before it,
        unless it completes a `<REFLECTION>` itself. It then belongs to that tag, whose own visual tokens it follows.
        """
        count = self._count_pieces(response, token)
        if count > 1 and self._count_pieces(response[: 1 - count], response[1 - count]):
            return count - 1
        return count

    def _count_pieces(self, response: Sequence[int], token: int) -> int:
        """`pieces`, with a first piece that two tags share counted for both."""
        if token == self.open_id:
            return 1
        if self._tokenizer is None or ">" not in self._decode_cached(token):
            return 0
        tag, last = open_tag("REFLECTION"), self._decode_cached(token)
        text = last
        for count in range(1, MAX_PIECES + 1):
            at = text.rfind(tag)
            if at >= 0:
                return count if at + len(tag) > len(text) - len(last) else 0
            if count > len(response):
                return 0
            text = self._decode_cached(response[-count]) + text
        return 0

    def _decode(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False))
