"""The CONCLUSION held to a JSON Schema, token by token, by llguidance; everything before it stays free.

Inside the CONCLUSION only tokens that the schema allows may be sampled, and `</CONCLUSION>` where the value may end.
Tags spelled in ordinary pieces are banned as well: inside a JSON string they would end the section. The paper's answers
are free text.

Legend: W vocabulary.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from look_again.extras import require
from look_again.text.grammar import TAG_TOKENS, close_tag, find_tag_beginning
from look_again.text.tags import tag_ids

MAX_SCHEMA_CHARACTERS = 50_000
MAX_DEPTH = 32
SEPARATORS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Blanks as `json.dumps` writes them: where any number is allowed, a model may write nothing else."""


def close_objects(schema: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """The schema, where objects hold the properties that are named and no others, unless it says otherwise.

    Left open, a model that errs once may add properties without end. Parts of an `allOf` stay as they are. ValueError
    for a schema nested deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"the schema is nested deeper than {MAX_DEPTH} levels")
    closed = dict(schema)
    for name in ("properties", "$defs", "definitions"):
        if isinstance(closed.get(name), Mapping):
            closed[name] = {key: _close(value, depth) for key, value in closed[name].items()}
    for name in ("items", "additionalProperties", "anyOf", "oneOf", "prefixItems"):
        if name in closed:
            closed[name] = _close(closed[name], depth)
    if "properties" in closed and not {"allOf", "patternProperties", "additionalProperties"} & closed.keys():
        closed["additionalProperties"] = False
    return closed


def _close(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return close_objects(value, depth + 1)
    return [_close(one, depth + 1) for one in value] if isinstance(value, list) else value


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > 2 * MAX_DEPTH:
        raise ValueError(f"the schema is nested deeper than {MAX_DEPTH} levels")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_depth(inner, depth + 1)


def check_schema(schema: Mapping[str, Any]) -> None:
    """ValueError for a schema that is too long, nested too deeply, or that llguidance cannot follow."""
    _check_depth(schema)
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ValueError(f"the schema has {len(text)} characters; at most {MAX_SCHEMA_CHARACTERS} are accepted")
    require("llguidance", extra="serve")
    from llguidance import LLMatcher

    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text, defaults=SEPARATORS))
    if message:
        raise ValueError(f"the schema cannot be followed: {str(message)[:300]}")


class AnswerGrammars:
    """Grammars for one tokenizer. width: of the logits, W. Any thread may ask."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        self.tokenizer, self.width = tokenizer, width
        self.tags = tag_ids(tokenizer)
        self._lock = threading.Lock()

    def constrain(self, schema: Mapping[str, Any]) -> AnswerConstraint:
        """The constraint of one answer. ValueError as `check_schema`."""
        check_schema(schema)
        from llguidance import LLMatcher

        with self._lock:
            library_tokenizer = self._library_tokenizer
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=SEPARATORS)
        return AnswerConstraint(self, LLMatcher(library_tokenizer, grammar))

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
