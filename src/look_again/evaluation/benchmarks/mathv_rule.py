r"""MATH-V's own rule (evaluation/evaluate.py and utils.py at a1f5cc3): which answer it takes, and what equals a target.

An answer is right if it is written as the target is, or if both have a value and the values are equal to two decimals.
What has no value, such as `9 cm`, `**100**` or an expression with a variable, is right only as it is written. The paper
names no rule. MATH-V takes values by latex2sympy2, which cannot be installed beside math-verify; here they are taken by
the grammar that math-verify stands on (extra "eval"), which `docs/evaluation.md` compares with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from look_again.extras import require

_LETTERS = "ABCDE"
_CUES = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_BOX = "oxed{"
_BOXED = re.compile(r"oxed\{(.*)\}", re.DOTALL)
_DROPPED = (" ", r"\,", "\n", r"\text", r"\mbox", r"\left", r"\right", r"^{\circ}", r"^\circ")
_DROPPED_UNITS = ("{m}^3", "m^3", "{units}", "units", "{km}", "km")
_FRACTION = re.compile(r"-?\d+/-?\d+")
_NUMERAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
_PLAIN_SUM = re.compile(r"\\frac\{(-?\d+)\}\{(-?\d+)\}")
_AFTER_STOP = re.compile(r"(?<=\S)\.(?!\d).*\Z", re.DOTALL)  # what follows a full stop is not read by that grammar
_LOOSE_BRACES = re.compile(r"(?<![\\A-Za-z}\]^_])\{([^{}]*)\}")
_RATIO = re.compile(r"(\d):(\d)")
MAX_LATEX = 200  # characters of what is evaluated


def mathv_answer(reply: str) -> str:
    r"""The answer that MATH-V takes from a reply, in lower case and cleaned of dressing, units and blanks.

    The first that applies: a letter A to E at the very end or on the first line alone; a number behind the last "is";
    what stands in the last `\boxed{`; the first sentence behind "the answer is" and its like; the whole reply.
    """
    text = _lettered(reply.strip())
    number = text.rpartition("is ")[2].rstrip(".")
    text = number if _is_float(number) else text
    if _BOX not in text:
        text = _behind_cues(text)
    elif text.count(_BOX) > 1:
        text = "\\b" + _BOX + text.rpartition(_BOX)[2]
    answer = _cleaned(_boxed_part(text.lower().replace("{}", "")))
    for letter in "abcde":
        answer = answer.replace(f"({letter})", letter).replace(f"{{{letter}}}", letter)
    return answer.rstrip(".").lstrip(":").strip()


def mathv_right(answer: str, targets: Sequence[str]) -> bool:
    """Whether an answer of `mathv_answer` equals one of the targets as MATH-V compares them.

    MissingExtraError without math-verify, whatever the answer is.
    """
    require("math_verify", extra="eval")
    return any(_equal(target, answer) for target in targets)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lettered(text: str) -> str:
    for letter in _LETTERS:
        ends = (f" {letter}.", f" ({letter}).")
        if text.endswith(ends) or text.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")):
            return letter
    return text


def _behind_cues(text: str) -> str:
    for cue in _CUES:
        for spelled in (cue, cue.replace("the", "The")):
            cued = spelled in text
            text = text.rpartition(spelled)[2].strip()
            text = text.split("\n")[0].split(". ")[0] if cued else text
    return text


def _boxed_part(text: str) -> str:
    """From the first box to the last brace, cut where a brace closes that was not opened."""
    boxed = _BOXED.search(text)
    part = boxed[1] if boxed else text
    closing, opening = part.find("}"), part.find("{")
    return part[:closing] if closing >= 0 and (opening < 0 or closing < opening) else part


def _cleaned(text: str) -> str:
    text = text.rpartition("=")[2].rpartition(r"\approx")[2]
    for piece in _DROPPED[:2]:
        text = text.replace(piece, "")
    text = text.replace("∞", r"\infty").replace(r"+\infty", r"\infty").replace(r"\\", "\\")
    for piece in (*_DROPPED[2:5], *_DROPPED[5:], *_DROPPED_UNITS):
        text = text.replace(piece, "")
    text = text.replace("bmatrix", "pmatrix")
    return _normalised(text)


def _normalised(text: str) -> str:
    for old, new in ((r"\!", ""), (r"\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\$", ""), ("$", "")):
        text = text.replace(old, new)
    text = text.replace(r"\%", "").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    if "sqrt" in text:
        text = _braced_fractions(_braced_roots(text))
    if text == "0.5":
        return r"\frac{1}{2}"
    numerator, _, denominator = text.partition("/")
    written = _FRACTION.fullmatch(text) and text == f"{int(numerator)}/{int(denominator)}"
    return rf"\frac{{{numerator}}}{{{denominator}}}" if written else text


def _braced_roots(text: str) -> str:
    return re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)


def _braced_fractions(text: str) -> str:
    r"""`\frac12` with braces; a `\frac` with less than two characters behind it leaves the whole text as it is."""
    first, *pieces = text.split(r"\frac")
    if any(not piece.startswith("{") and len(piece) < 2 for piece in pieces):
        return text
    braced = [
        piece
        if piece.startswith("{")
        else f"{{{piece[0]}}}{piece[1:]}"
        if piece[1] == "{"
        else f"{{{piece[0]}}}{{{piece[1]}}}{piece[2:]}"
        for piece in pieces
    ]
    return first + "".join(rf"\frac{piece}" for piece in braced)


def _equal(target: str, answer: str) -> bool:
    target, answer = target.lower(), answer.lower()
    if not target.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if target.strip() == answer.strip():
        return True
    target, answer = _rounded_items(target), _rounded_items(answer)
    if target == answer:
        return True
    values = _value(target), _value(answer)
    return None not in values and round(values[0], 2) == round(values[1], 2)  # type: ignore[arg-type]


def _rounded_items(text: str) -> str:
    """A tuple or list with each item's value to two decimals; the text itself where an item has none."""
    items = text[1:-1].split(",")
    if len(items) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    rounded = []
    for item in items:
        value = None if "infty" in item or item in ("a", "-a") else _value(item)
        if value is None and not ("infty" in item or item in ("a", "-a")):
            return text
        rounded.append(item if value is None else str(round(value, 2)))
    return f"{text[0]}{','.join(rounded)}{text[-1]}"


@lru_cache(maxsize=4096)  # a target is compared with many answers
def _value(latex: str) -> int | float | None:
    """The value of an expression without variables but e; None where it has none or cannot be read."""
    text = _RATIO.sub(r"\1/\2", _LOOSE_BRACES.sub(r"(\1)", _AFTER_STOP.sub("", latex.strip())))
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    if _NUMERAL.fullmatch(text):
        return float(text) if "." in text else int(text)
    if whole := _PLAIN_SUM.fullmatch(text):
        return int(whole[1]) / int(whole[2]) if int(whole[2]) else None
    if len(text) > MAX_LATEX or not any(char.isdigit() or char == "e" for char in text.replace(r"\pi", "3")):
        return None
    return _evaluated(text)


def _evaluated(latex: str) -> float | None:
    from latex2sympy2_extended import latex2sympy
    from sympy import E, Symbol

    try:
        expression: Any = latex2sympy(latex)
        value = complex(expression.subs(Symbol("e"), E).evalf())
    except Exception:  # of its grammar, of sympy: whatever it is, there is no value
        return None
    return value.real if abs(value.imag) < 1e-12 and math.isfinite(value.real) else None
