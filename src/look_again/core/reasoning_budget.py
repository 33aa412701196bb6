"""A bound on what comes before an answer's CONCLUSION, so that every answer has one.

When the bound is reached, or when the model ends without a CONCLUSION, the decoding loop closes the section that is
open and opens the CONCLUSION. A bounded response ends with its CONCLUSION, which is closed where the model begins
another section in it, ends, or has no tokens left. These tags have Provenance.FORCED. The paper bounds whole responses
only, and a response that is cut off holds no answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from look_again.text.grammar import StreamParser, close_tag, open_tag
from look_again.text.tags import tag_ids

ANSWER_CONTEXT = 256  # slots of the context, at most, that are kept free for a CONCLUSION


def list_stop_ids(eos: int | Sequence[int] | None) -> frozenset[int]:
    """The ids that end an answer, as a generation configuration names them."""
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


@dataclass(frozen=True)
class ReasoningBudget:
    """The bound, for any number of responses.

    tokenizer: a prepared one. max_tokens: sampled tokens before the CONCLUSION; None bounds nothing, and the CONCLUSION
    is only forced where the model ends without one. answer_tokens: slots of the context that are kept free for it.
    """

    tokenizer: Any
    max_tokens: int | None
    answer_tokens: int = 0

    @classmethod
    def within(cls, tokenizer: Any, max_tokens: int | None, max_new_tokens: int) -> ReasoningBudget:
        """The budget of an answer of at most `max_new_tokens` sampled tokens."""
        return cls(tokenizer, max_tokens, min(max_new_tokens - (max_tokens or 0), ANSWER_CONTEXT))

    @cached_property
    def tags(self) -> dict[str, int]:
        return tag_ids(self.tokenizer)

    def watch(self, stop_ids: Collection[int]) -> ReasoningWatch:
        """The watch over one response. stop_ids: tokens that end a response."""
        return ReasoningWatch(self, frozenset(stop_ids))


class ReasoningWatch:
    """One response as it is written: which section is open, and whether the CONCLUSION has begun.

    Tags count where the grammar counts them: spelled in pieces as well, and not inside another section.
    """

    def __init__(self, budget: ReasoningBudget, stop_ids: frozenset[int]) -> None:
        self.budget, self.stop_ids = budget, stop_ids
        self.section: str | None = None
        self.concluded = False
        self._parser = StreamParser(min_reflections=0)

    def take(self, token: int) -> None:
        """Account for the next response token."""
        text = self.budget.tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for event in self._parser.feed(text):
            if event.kind == "open":
                self.section = event.tag
                self.concluded = self.concluded or event.tag == "CONCLUSION"
            elif event.kind == "close":
                self.section = None

    @property
    def answering(self) -> bool:
        """Whether the response is inside its CONCLUSION."""
        return self.concluded and self.section == "CONCLUSION"

    @property
    def answered(self) -> bool:
        """Whether the CONCLUSION is complete."""
        return self.concluded and self.section is None

    @property
    def reserve(self) -> int:
        """Slots of the context that nothing but the CONCLUSION may fill."""
        return 0 if self.concluded else self.budget.answer_tokens

    def room(self, sampled: int) -> int | None:
        """Tokens that may still be sampled before the CONCLUSION; None where nothing bounds them."""
        if self.concluded or self.budget.max_tokens is None:
            return None
        return max(0, self.budget.max_tokens - sampled)

    def forced_tags(self) -> list[int]:
        """The tags that lead from here into the CONCLUSION or, inside it, out of it."""
        tags = self.budget.tags
        closed = [] if self.section is None else [tags[close_tag(self.section)]]
        return closed if self.concluded else [*closed, tags[open_tag("CONCLUSION")]]

    def replaces(self, token: int) -> bool:
        """Whether `token` would leave the response without a whole CONCLUSION."""
        if self.answering:
            tags = self.budget.tags
            return token in self.stop_ids or (token in tags.values() and token != tags[close_tag("CONCLUSION")])
        return token in self.stop_ids and not self.concluded
