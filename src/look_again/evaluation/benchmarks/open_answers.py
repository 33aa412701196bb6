"""Open questions with a number or a short text as their answer: MMMU's rule, and one reading without a guess.

The paper has no rule. MMMU's takes every candidate that a reply might mean, so that a reply with the answer anywhere
behind an "is" is right; the strict reading takes the one answer that is given, and compares numbers as that rule does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from look_again.data.sample import SampleError
from look_again.scoring.extraction import answer_kind, extract

DECIMALS = 2  # to which numbers are compared, by MMMU's and by MathVision's rule

OPEN_INSTRUCTION = "Give a single number, word or short phrase as the final answer."

_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_MARKS = {":", ",", ".", "!", "?", ";", "'"}
_NUMBERS = (  # with thousands separators, in scientific notation, plain
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_open(text: str, answers: Sequence[str]) -> bool:
    """Whether a reply is right by MMMU's rule: a candidate contains one of the answers, or equals it as a number.

    Candidates are the shortest piece behind a cue word on each line, or the whole reply without one, and all numbers
    in them. Case does not count, numbers are rounded to two decimals. (MMMU, eval_utils.py.)
    """
    pieces = _key_pieces(text.strip().strip(".").lower())
    numbers = [number for piece in pieces for pattern in _NUMBERS for number in pattern.findall(piece)]
    candidates = [form for candidate in (*pieces, *numbers) for form in _forms(candidate)]
    expected = [form for answer in answers for form in _forms(answer)]
    texts = [form for form in expected if isinstance(form, str)]
    return any(
        any(answer in candidate for answer in texts) if isinstance(candidate, str) else candidate in expected
        for candidate in candidates
    )


def _key_pieces(text: str) -> list[str]:
    """Per line the shortest text behind the last of each cue; "=" is a cue on the last line."""
    pieces = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        shortest = ""
        for cue in (*_CUES, "=") if number == len(lines) else _CUES:
            piece = line.rpartition(cue)[2].strip() if cue in line else None
            if piece is not None and (not shortest or len(piece) < len(shortest)):
                shortest = piece
        if shortest and shortest not in _MARKS:
            pieces.append(shortest)
    return pieces or [text]


def _forms(text: str) -> list[str | float]:
    """A number, rounded; or the text in lower case, a lone letter with a blank on either side of it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), DECIMALS)]
    except ValueError:
        lower = text.lower()
    return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def usable_answer(text: str, row_id: str) -> str:
    """The reference itself; SampleError where nothing but marks is left of it, so that no reply could be right."""
    try:
        answer_kind(text)
    except ValueError as error:
        raise SampleError(row_id, f"answer: {error}") from error
    return text


def read_answer(text: str, reference: str) -> str | None:
    r"""The one answer that `text` gives, read as the kind that `reference` is; None for none or several.

    As `look_again.scoring.extraction.extract` writes it; the last `\boxed{…}` counts alone where there is one.
    """
    return extract(text, answer_kind(reference))


def same_answer(found: str, reference: str) -> bool:
    """Whether what `read_answer` found is the reference; numbers to two decimals, other kinds exactly."""
    kind = answer_kind(reference)
    expected = extract(reference, kind)
    if kind != "number" or expected is None:
        return found == expected
    return rounded(found) == rounded(expected)


def rounded(number: str) -> Fraction:
    """A number as `extract` writes it, "3" or "1/2", to two decimals."""
    return round(Fraction(number), DECIMALS)
