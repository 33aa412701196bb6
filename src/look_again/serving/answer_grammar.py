"""The CONCLUSION held to a JSON Schema, token by token, by llguidance; everything before it stays free.

Inside the CONCLUSION only tokens that the schema allows may be sampled, and `</CONCLUSION>` where the value may end.
Tags spelled in ordinary pieces are banned as well: inside a JSON string they would end the section. The paper's answers
are free text.

Legend: W vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from look_again.serving.answer_schema import build_grammar, write_schema
from look_again.text.grammar import TAG_TOKENS, close_tag, find_tag_beginning
from look_again.text.tags import tag_ids


class AnswerGrammars:
    """Grammars for one tokenizer. width: of the logits, W. Any thread may ask."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        self.tokenizer, self.width = tokenizer, width
        self.tags = tag_ids(tokenizer)
        self._lock = threading.Lock()

    def constrain(self, schema: Mapping[str, Any]) -> AnswerConstraint:
        """The constraint of one answer, by a schema that `check_schema` passed."""
        from llguidance import LLMatcher

        with self._lock:
            library_tokenizer = self._library_tokenizer
        return AnswerConstraint(self, LLMatcher(library_tokenizer, build_grammar(write_schema(schema))))

    @cached_property
    def _library_tokenizer(self) -> Any:
        import llguidance.hf

        return llguidance.hf.from_tokenizer(self.tokenizer, n_vocab=self.width)

    @cached_property
    def closing_texts(self) -> dict[int, str]:
        """The tokens that may complete a tag spelled in pieces: those with a `>`."""
        texts = {id: self.tokenizer.decode([id]) for id in range(len(self.tokenizer))}
        return {id: text for id, text in texts.items() if ">" in text}


class AnswerConstraint:
    """The tokens that one answer's CONCLUSION may go on with."""

    def __init__(self, grammars: AnswerGrammars, matcher: Any) -> None:
        self.grammars, self.matcher = grammars, matcher
        self._text = ""  # the end of the CONCLUSION so far that may be the beginning of a tag

    def mask(self, scores_1W: torch.Tensor) -> None:
        """Ban, in place, what may not come next."""
        from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask

        width = self.grammars.width
        bits = allocate_token_bitmask(1, width)
        fill_next_token_bitmask(self.matcher, bits, 0)
        allowed = (bits[0].unsqueeze(-1) >> torch.arange(32, dtype=torch.int32) & 1).flatten()[:width].bool()
        ends = bool(self.matcher.is_accepting() or self.matcher.is_stopped())
        allowed[[*self.grammars.tags.values(), *self._end_ids, *self._completing]] = False
        allowed[self.grammars.tags[close_tag("CONCLUSION")]] = ends
        scores_1W[0, : len(allowed)].masked_fill_(~allowed.to(scores_1W.device), float("-inf"))
        scores_1W[0, len(allowed) :] = float("-inf")

    def take(self, token: int) -> None:
        """Account for a sampled token of the CONCLUSION."""
        if token == self.grammars.tags[close_tag("CONCLUSION")] or self.matcher.is_stopped():
            return
        if not self.matcher.consume_token(token):
            raise ValueError(f"the grammar refuses the token {token}: {self.matcher.get_error()}")
        text = self._text + self.grammars.tokenizer.decode([token])
        self._text = find_tag_beginning(text)

    @cached_property
    def _end_ids(self) -> list[int]:
        """Special tokens, which a text does not show."""
        return list(self.grammars.tokenizer.all_special_ids)

    @property
    def _completing(self) -> list[int]:
        if not self._text:
            return []
        texts = self.grammars.closing_texts.items()
        return [id for id, text in texts if any(tag in self._text + text for tag in TAG_TOKENS)]
