"""Free-form mathematics as an answer: which references need it, and whether two expressions say the same.

The paper matches answers by regular expressions, which cannot see that √12 is 2√3; here math-verify (extra "eval")
compares what `look_again.scoring.extraction` can only read as words. Where a reading needs a guess it is no hit, as
there.

math-verify bounds its time by signals, which exist in the main thread only. In any other thread the comparison runs in
a child process, on that one's main thread: `python -m look_again.scoring.mathematics`, pairs as JSON in, booleans out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from look_again.extras import require
from look_again.scoring.conclusion import concluding_part
from look_again.scoring.extraction import answer_kind, extract

MAX_CHARACTERS = 200  # of an expression; longer ones are no hit
TIMEOUT_S = 5  # of each parse and each comparison

_SYMBOL = r"(?<![a-z'’])[a-z](?![a-z'’])"  # a letter standing alone: a variable
_MATHEMATICS = re.compile(
    rf"\\[a-z{{]|[\^√π∞≤≥≠±∪∩<=]|(?<!-)>|{_SYMBOL}_"
    rf"|{_SYMBOL} ?[-+*/×·÷] ?(?:[\d(\\]|{_SYMBOL})|[\d)] ?[-+*/×·÷] ?(?:[(\\]|{_SYMBOL})|\d ?[+*×·÷] ?\d"
    r"|\d[abnrtxyz](?![a-z0-9])|\b(?:sin|cos|tan|log|ln|exp|sqrt) ?[(\d]"
    r"|\A[(\[{][^()\[\]{}]*[)\]}]\Z"
)
_CLOSED_FORM = re.compile(r"[√π^]|\\(?:[dt]?frac|sqrt|pi|log|ln|sin|cos|tan)(?![a-z])|\bsqrt ?\(")
_SEVERAL = re.compile(r"(?i)\b(?:or|and)\b|[,;<>≤≥±]|\\(?:pm|[lg]eq?|in|approx)(?![a-z])")
_LEAD = re.compile(r"(?is).*\b(?:is|are|equals|answer)\b ?[:=]?")
_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MORE_THAN_PROSE = re.compile(r"(?i)[\d\\^=√π]|\bor\b")
_NEGATION = re.compile(r"(?i)\b(?:not|never|neither|nor|cannot|except|wrong|incorrect)\b|n['’]t\b")
_LATEX = [
    (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\*\*", ""),
    (r"√ ?\(([^()]*)\)|(?<!\\)\bsqrt ?\(([^()]*)\)", r"\\sqrt{\1\2}"),
    (r"√ ?([0-9]+|[A-Za-z])|\\sqrt ?([0-9])", r"\\sqrt{\1\2}"),
    (r"[×·]", r"\\cdot "),
    (r"÷", "/"),
    (r"≤", r"\\leq "),
    (r"≥", r"\\geq "),
    (r"∞", r"\\infty "),
    (r"π", r"\\pi "),
    (r"±", r"\\pm "),
    (r"∪", r"\\cup "),
    (r"∩", r"\\cap "),
]


def is_mathematics(reference: str, options: Sequence[str] | None = None) -> bool:
    r"""Whether a reference is free-form mathematics: no letter, yes/no or number, and more than words.

    `2\sqrt{3}`, `(3, 4)` and `x-1` are; `12 cm`, `red`, `AC/DC` and `3-4` (a score, a range) are not.
    Raises what `look_again.scoring.extraction.answer_kind` raises.
    """
    return _is_mathematics(reference, tuple(options or ()))


@lru_cache(maxsize=4096)  # a group of answers has one reference
def _is_mathematics(reference: str, options: tuple[str, ...]) -> bool:
    if answer_kind(reference, options) != "words":
        return False
    return bool(_MATHEMATICS.search(extract(reference, "words") or ""))


def same_mathematics(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the prediction of each (prediction, reference) equals the reference as mathematics.

    A prediction of several expressions is their set, so naming right and wrong ones is no hit. A reference that
    math-verify cannot read equals nothing. Raises MissingExtraError where math-verify is not installed.
    """
    require("math_verify", extra="eval")
    if not pairs:
        return []
    if threading.current_thread() is threading.main_thread():
        return [_same(prediction, reference) for prediction, reference in pairs]
    return _in_child(pairs)


def is_closed_form(answer: str) -> bool:
    r"""Whether an answer writes one value with roots, powers, fractions or functions, such as `\sqrt{4}`.

    It may then equal a number that it does not spell. Lists, alternatives and inequalities are no single value.
    """
    return _CLOSED_FORM.search(answer) is not None and _SEVERAL.search(answer) is None


def expression(text: str) -> str | None:
    r"""The one expression that `text` gives, as LaTeX without delimiters; None where it is blank, too long or denied.

    Prose before the last "is" or "answer:" is dropped, and prose around a single $…$, \(…\) or \[…\]. All else stays,
    so that "$2$ or $3$" is read as a list, and "with $x=1$ we get $2$" as nonsense.
    """
    text = concluding_part(text)
    if len(text) > MAX_CHARACTERS or _NEGATION.search(text):
        return None
    text = _delimited(text) or _without_delimiters(_LEAD.sub("", text))
    for pattern, replacement in _LATEX:
        text = re.sub(pattern, replacement, text)
    return text.strip(" \n.,;") or None


def _delimited(text: str) -> str | None:
    """The content of the only delimited span, where nothing but words is around it and they offer no choice."""
    spans = {"".join(groups) for groups in _SPAN.findall(text)}
    if len(spans) != 1 or _MORE_THAN_PROSE.search(_SPAN.sub(" ", text)):
        return None
    return spans.pop()


def _without_delimiters(text: str) -> str:
    return re.sub(r"\$|\\[()\[\]]", "", text)


def _same(prediction: str, reference: str) -> bool:
    from math_verify import verify

    found, expected = expression(prediction), expression(reference)
    if found is None or expected is None:
        return False
    return bool(verify(_parsed(expected), _parsed(found), timeout_seconds=TIMEOUT_S))


def _parsed(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(normalization_config=NormalizationConfig(units=True))
    return parse(f"${latex}$", [config], extraction_mode="first_match", parsing_timeout=TIMEOUT_S)


def _in_child(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    command = [sys.executable, "-m", __name__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, input=json.dumps(pairs), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return list(json.loads(done.stdout))


if __name__ == "__main__":
    json.dump([_same(prediction, reference) for prediction, reference in json.load(sys.stdin)], sys.stdout)
