"""What rewards read in a completion: its text, and how many tokens its reflections take.

Tokens are counted with the grammar's own parser, on the tag tokens alone, so that format and balance cannot disagree on
what a reflection is. The paper says only "tokens in all reflections together".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, compress, count
from typing import Any

from look_again.text.grammar import TAG_TOKENS, Response, open_tag, parse
from look_again.text.tags import tag_ids

CHARACTERS_PER_TOKEN = 4.0  # of English text, where nothing better is known

_TAG = re.compile("|".join(TAG_TOKENS))


@dataclass(frozen=True)
class ReflectionCount:
    """Tokens strictly between the tags of each closed top-level REFLECTION, in order; estimates may be fractions.

    `unclosed`: the completion ends inside a REFLECTION, which is not in `lengths`.
    """

    lengths: tuple[float, ...]
    unclosed: bool


def completion_text(completion: Any) -> str:
    """The text the model wrote: a string, or the assistant's messages of TRL's conversational form, joined.

    A missing or None content is "". ValueError for anything else.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        raise ValueError(f"a completion is a string or a list of messages, not {str(completion)[:80]!r}")
    written = (message for message in completion if message.get("role", "assistant") == "assistant")
    return "".join(_content_text(message.get("content")) for message in written)


def _content_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence) or not all(isinstance(block, Mapping) for block in content):
        raise ValueError(f"a message's content is a string or a list of blocks, not {str(content)[:80]!r}")
    return "".join(block.get("text") or "" for block in content)


def check_column(name: str, values: Any, count: int) -> Sequence[Any]:
    """`values` unchanged; ValueError unless it holds one entry for each of `count` completions."""
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        held = f"has {len(values)} entries" if hasattr(values, "__len__") else f"is {values!r}"
        raise ValueError(f"column {name!r} {held} for {count} completions: give one entry per completion")
    return values


def ids_of_tags(source: Any) -> dict[str, int]:
    """Tag -> token id, from a prepared tokenizer, a processor that holds one, or such a mapping.

    Raises MissingTagsError for a tokenizer without the tags, ValueError for a mapping that lacks one or names an id
    twice: with fewer tags a reflection inside another section could not be told from one of its own.
    """
    if not isinstance(source, Mapping):
        tokenizer = source if hasattr(source, "added_tokens_decoder") else getattr(source, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(f"tags must be a tokenizer, a processor or a mapping of ids, not {type(source).__name__}")
        return tag_ids(tokenizer)
    missing = [tag for tag in TAG_TOKENS if tag not in source]
    ids = {tag: int(source[tag]) for tag in TAG_TOKENS if tag in source}
    if missing or len(set(ids.values())) < len(TAG_TOKENS):
        raise ValueError(f"tag ids {dict(source)}: give each of the ten tags an id of its own; missing: {missing}")
    return ids


def count_in_ids(completion_ids: Iterable[Any], tag_ids: Mapping[str, int]) -> ReflectionCount:
    """Count on token ids; a tag inside a reflection is one token, as is a sampled image token."""
    if hasattr(completion_ids, "tolist"):  # elements of a tensor are no keys
        completion_ids = completion_ids.tolist()
    ids, tag_of = list(completion_ids), {id: tag for tag, id in tag_ids.items()}
    places = list(compress(count(), map(tag_of.__contains__, ids)))
    spans, unclosed = _find_reflections(tuple(tag_of[ids[place]] for place in places))
    return ReflectionCount(tuple(float(places[stop] - places[start] - 1) for start, stop in spans), unclosed)


@lru_cache(maxsize=1024)  # most answers hold the same few tags in the same order
def _find_reflections(tags: tuple[str, ...]) -> tuple[tuple[tuple[int, int], ...], bool]:
    """From a completion's tags in order: where its top-level reflections open and close, and whether it ends in one."""
    response = parse("".join(tags))
    number = {start: i for i, start in enumerate(accumulate((len(tag) for tag in tags), initial=0))}
    opening = len(open_tag("REFLECTION"))
    spans = tuple((number[section.start - opening], number[section.end]) for section in response.reflections)
    return spans, response.unclosed is not None and response.unclosed.tag == "REFLECTION"


def parsed(text: str, min_reflections: int = 1) -> Response:
    """`look_again.text.grammar.parse`, once for all rewards of an answer."""
    return _parsed(text, min_reflections)


@lru_cache(maxsize=4096)  # apart, as a default that is written out would be another key
def _parsed(text: str, min_reflections: int) -> Response:
    return parse(text, min_reflections=min_reflections)


def forget_parsed() -> None:
    """Parse anew from here on, as for answers that were never seen; for measuring."""
    _parsed.cache_clear()


def count_in_text(text: str, completion_tokens: int | None = None) -> ReflectionCount:
    """Estimate from the text where the tags' ids are not known.

    Each tag is taken as one token, and the other `completion_tokens` are spread evenly over the other characters;
    without `completion_tokens` a token is taken as CHARACTERS_PER_TOKEN characters.
    """
    plain, n_tags = _TAG.subn("", text)
    rate = 1 / CHARACTERS_PER_TOKEN
    if completion_tokens is not None:
        rate = max(0, completion_tokens - n_tags) / max(1, len(plain))
    return _count(parse(text), rate)


def _count(response: Response, tokens_per_character: float) -> ReflectionCount:
    lengths = []
    for section in response.reflections:
        plain, n_tags = _TAG.subn("", response.text[section.start : section.end])
        lengths.append(n_tags + len(plain) * tokens_per_character)
    unclosed = response.unclosed is not None and response.unclosed.tag == "REFLECTION"
    return ReflectionCount(tuple(lengths), unclosed)
