r"""Answers to MathVision's questions: a verified reading after MATH-V's rule, one without a guess, comparisons.

The verified reading takes the answer as MATH-V's evaluate.py does (`mathv_rule` is that rule itself), with two
departures: a `\boxed{…}` is read to its matching brace, and what is left without its unit is compared by math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

from look_again.evaluation.benchmarks.choices import strict_letter
from look_again.evaluation.benchmarks.open_answers import rounded
from look_again.scoring.extraction import Kind, answer_kind, extract
from look_again.scoring.grading import boxed
from look_again.scoring.mathematics import expression, is_mathematics, same_mathematics

_LETTERS = "ABCDE"
_CUES = ("final answer is", "answer is", "correct answer is", "answer should be")
_DROPPED = re.compile(
    r"\s|\{\}|\\[,!]|\\(?:text|mbox|left|right)|\^\{?\\circ\}?|\{m\}\^3|m\^3|\{?units\}?|\{?km\}?|\\?\$|\\%"
)
_BRACKETED = (re.compile(r"\(([a-e])\)"), re.compile(r"\{([a-e])\}"))
_ANSWER = re.compile(r"(?is)\A.*\banswer(?:\s+is\b|\s*:)\s*:?\s*")


@dataclass(frozen=True)
class Match:
    """A comparison. right: so far. undecided: pairs of which one being equal as mathematics makes it right."""

    right: bool
    undecided: tuple[tuple[str, str], ...] = ()


def settled(matches: Sequence[Match]) -> list[bool]:
    """Whether each is right; all undecided pairs are compared at once. MissingExtraError without math-verify."""
    same = iter(same_mathematics(list(chain.from_iterable(match.undecided for match in matches))))
    return [any([match.right, *(next(same) for _ in match.undecided)]) for match in matches]


def official_answer(text: str) -> str:
    r"""The part of a reply that MATH-V's rule takes for the answer.

    The first that applies: a letter A to E at the very end or on the first line alone; a number behind the last "is";
    the last `\boxed{…}`; the first sentence behind "the answer is" and its like; the whole reply.
    """
    text = text.strip()
    for letter in _LETTERS:
        if text.endswith((f" {letter}.", f" ({letter}).")) or text.startswith(
            (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        ):
            return letter
    number = text.rpartition("is ")[2].rstrip(".")
    if _is_float(number):
        return number.strip()
    if (content := boxed(text)) is not None:
        return content
    for cue in (f"{article} {cue}" for cue in _CUES for article in ("the", "The")):
        if cue in text:
            text = text.rpartition(cue)[2].strip().split("\n")[0].split(". ")[0].strip()
    return text


def cleaned(answer: str) -> str:
    """An answer as MATH-V compares it: lower case, behind the last "=", without dressing, units and blanks."""
    answer = answer.lower().rpartition("=")[2].rpartition(r"\approx")[2]
    answer = _DROPPED.sub("", answer).replace("tfrac", "frac").replace("dfrac", "frac")
    for brackets in _BRACKETED:
        answer = brackets.sub(r"\1", answer)
    return answer.rstrip(".").lstrip(":")


def official_match(answer: str, targets: Sequence[str]) -> Match:
    """Whether what `official_answer` took is one of the targets: the letter or its option's text, or the answer."""
    plain = cleaned(answer)
    if not plain:
        return Match(False)
    number = _number(plain)
    for target in targets:
        if plain == target.strip().lower() or (number is not None and number == _number(target)):
            return Match(True)
    open_targets = [target for target in targets if _worth_comparing(answer, target)]
    return Match(False, tuple((answer, target) for target in open_targets))


def strict_answer(text: str, reference: str, options: Sequence[str]) -> str | None:
    r"""The one answer that `text` gives, of the kind that is asked for: a letter, a number, an expression or words.

    The last `\boxed{…}` counts alone where there is one, else what follows the last "answer is". None for none,
    several, or a denial.
    """
    if options:
        return strict_letter(text, options)
    text = boxed(text) or _ANSWER.sub("", text)
    kind = _kind(reference)
    if kind in ("letter", "yesno") or (kind == "words" and not needs_mathematics(reference)):
        return extract(text, kind)
    number = extract(text, "number") if kind == "number" else None
    found = number or expression(text)
    return found if found and (_number(found) is not None or needs_mathematics(found)) else None


def strict_match(found: str | None, reference: str) -> Match:
    """Whether what `strict_answer` found is the reference; numbers to two decimals."""
    kind = _kind(reference)
    if found is None or kind is None:
        return Match(False)
    if (number := _number(found)) is not None and number == _number(reference):
        return Match(True)
    if _worth_comparing(found, reference):
        return Match(False, ((found, reference),))
    return Match(found == extract(reference, kind))


def needs_mathematics(text: str) -> bool:
    r"""Whether a text is an expression, not a letter, a number or words: `2\sqrt{3}`, `$6 \mathrm{~m}$`, `x+1`."""
    return _kind(text) == "words" and (is_mathematics(text) or "\\" in text or "$" in text)


def _worth_comparing(answer: str, target: str) -> bool:
    """Two texts of which one is an expression and the other one too, or a number: "red" is no product of letters."""
    kinds = [needs_mathematics(text) or (_number(text) is not None and "number") for text in (answer, target)]
    return all(kinds) and True in kinds


def _number(text: str) -> Fraction | None:
    found = extract(text, "number") if _kind(text) == "number" else None
    return None if found is None else rounded(found)


def _kind(text: str) -> Kind | None:
    """None for a text without any content."""
    try:
        return answer_kind(text)
    except ValueError:
        return None


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
