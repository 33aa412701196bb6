"""Which section of the response each of its tokens belongs to.

By text and not by tag tokens, so that models which spell their tags in ordinary pieces are read the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from look_again.text.chat import decode_text
from look_again.text.grammar import Response, Section, close_tag, open_tag

OUTSIDE = "outside"
LONGEST_PIECE = 16  # tokens that a character may be spread over, and more


def token_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Per token the number of characters of the response once it is written; special tokens add none.

    A character in several tokens counts at the last of them.
    """
    ends: list[int] = []
    start, before = 0, 0  # ids before `start` make `before` whole characters
    for i in range(len(ids)):
        text = decode_text(tokenizer, ids[start : i + 1])
        if text.endswith("\ufffd") and i + 1 - start < LONGEST_PIECE:
            ends.append(ends[-1] if ends else 0)
            continue
        ends.append(before + len(text))
        start, before = i + 1, ends[-1]
    return ends


def section_names(parsed: Response) -> list[tuple[str, Section]]:
    """The sections in order, reflections numbered where there are several; the last may be cut off."""
    found = [*parsed.sections, *([parsed.unclosed] if parsed.unclosed else [])]
    looks = [section for section in found if section.tag == "REFLECTION"]
    names = []
    for section in found:
        number = f" {looks.index(section) + 1}" if section.tag == "REFLECTION" and len(looks) > 1 else ""
        names.append((section.tag + number, section))
    return names


def sections_of_tokens(parsed: Response, ends: Sequence[int]) -> tuple[list[str], list[int]]:
    """Names of the sections, and per token the index of its own; -1 for tokens that add no text.

    Tags belong to their section. Text outside all sections is a section of its own, OUTSIDE, last and only if there is
    any besides blanks.
    """
    named = section_names(parsed)
    names, spans = [name for name, _ in named], [_with_tags(section) for _, section in named]
    found = []
    for i, end in enumerate(ends):
        start = ends[i - 1] if i else 0
        inside = [index for index, (low, high) in enumerate(spans) if low < end <= high]
        blank = not parsed.text[start:end].strip()
        found.append(inside[0] if end > start and inside else -1 if blank else len(names))
    return names + [OUTSIDE] * (len(names) in found), found


def _with_tags(section: Section) -> tuple[int, int]:
    return section.start - len(open_tag(section.tag)), section.end + len(close_tag(section.tag))
