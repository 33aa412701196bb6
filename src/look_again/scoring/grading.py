"""Grading answers against references in batches: the scorer of evaluation, with free-form mathematics where needed.

The paper's accuracy reward matches the content of CONCLUSION to the reference by regular expressions it does not give.
A row is never skipped: a reference that cannot be used is an error, since a trainer would drop a None in silence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from look_again.extras import require
from look_again.scoring.conclusion import boxed
from look_again.scoring.extraction import answer_kind, extract, score
from look_again.scoring.mathematics import is_closed_form, is_mathematics, same_mathematics

logger = logging.getLogger(__name__)

MAX_REFERENCE = 500  # characters; no answer repeats a longer text, and the reward would be 0 for ever
SHOWN_ROWS = 5  # in an error message


class UnusableReferenceError(ValueError):
    """Rows whose reference no answer can be graded against; the message names each row and the reason."""


def grade(
    answers: Sequence[str | None],
    references: Sequence[Any],
    options: Sequence[Sequence[str] | None] | None = None,
    ids: Sequence[Any] | None = None,
) -> list[bool]:
    r"""Whether each answer (None: there is none) agrees with its reference, a string or a finite number.

    Of a reference that is a worked solution only the last `\boxed{…}` counts. `options`: per row, the texts of choices
    A, B, ... `ids`: per row, what an error calls it. Raises UnusableReferenceError, once for all rows, and
    MissingExtraError where a reference is free-form mathematics and math-verify is not installed: then whatever the
    answers are, so that a run stops at once or not at all.
    """
    choices = options or [None] * len(references)
    texts, free_form = _check(references, choices, ids)
    if any(free_form):
        require("math_verify", extra="eval")
    right = [
        answer is not None and score(answer, text, options=choice)
        for answer, text, choice in zip(answers, texts, choices, strict=True)
    ]
    open_rows = [
        i
        for i, answer in enumerate(answers)
        if answer and not right[i] and (free_form[i] or _is_open(answer, texts[i]))
    ]
    pairs = [(answers[i] or "", texts[i]) for i in open_rows]
    for i, same in zip(open_rows, same_mathematics(pairs) if pairs else [], strict=True):
        right[i] = same
    return right


def _is_open(answer: str, reference: str) -> bool:
    r"""Whether an answer such as `\sqrt{4}` may be the number that the reference is, and can be compared."""
    if not is_closed_form(answer) or answer_kind(reference) != "number" or extract(answer, "number") is not None:
        return False
    return _math_verify_is_installed()


@cache
def _math_verify_is_installed() -> bool:
    installed = find_spec("math_verify") is not None
    if not installed:
        logger.warning(
            "answers such as \\sqrt{4} are not compared with numbers, as math-verify is not installed: "
            "pip install 'look-again-vlm[eval]'"
        )
    return installed


def _check(
    references: Sequence[Any], options: Sequence[Sequence[str] | None], ids: Sequence[Any] | None
) -> tuple[list[str], list[bool]]:
    """References as texts, and which are free-form mathematics."""
    texts, free_form, faults = [], [], []
    for row, (reference, choices) in enumerate(zip(references, options, strict=True)):
        try:
            texts.append(_reference_text(reference))
            free_form.append(is_mathematics(texts[-1], choices))
        except ValueError as error:
            faults.append(f"row {row}{'' if ids is None else f' (id {ids[row]!r})'}: {error}")
    if faults:
        more = "" if len(faults) <= SHOWN_ROWS else f"; and {len(faults) - SHOWN_ROWS} more"
        raise UnusableReferenceError("; ".join(faults[:SHOWN_ROWS]) + more)
    return texts, free_form


def _reference_text(reference: Any) -> str:
    if isinstance(reference, str):
        text = boxed(reference) or reference
        if len(text) > MAX_REFERENCE:
            raise ValueError(
                f"reference of {len(text)} characters, {text[:40]!r}…: give the answer, not its derivation"
            )
        return text
    if isinstance(reference, int | float) and not isinstance(reference, bool) and math.isfinite(reference):
        return str(reference)
    raise ValueError(f"reference {reference!r} is no text or number: give the expected answer or drop the example")
