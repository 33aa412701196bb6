"""The one scorer of answers, for evaluation and for the accuracy reward alike (paper, "BRPO": accuracy).

The paper matches "the content of CONCLUSION" with regular expressions it does not give; these rules are ours. The
prediction is that content alone. The reference decides which kind of answer is expected, and the prediction is
read as that kind or not at all: where a reading would need a guess, it is None (unparsed) and never a hit.

- letter: one option A-J: a capital standing alone, or any single letter that is the whole answer or in brackets.
  "A" or "I" before a word is an article or a pronoun ("A red ball"), unless that word is one like "because".
- yesno: a leading yes or no, else the only one; contradiction ("yes or no") and negation ("not yes") are None.
- number: the first after the last "answer is", or after "="; else the last one. One that is part of a list, a range
  or an expression ("3 or 4", "2x + 1") is None. Units are ignored, percent too: 50% equals 50 and not 0.5.
- words: equal without case, articles, punctuation and space. Mathematics in symbols ends up here and must be
  written as in the reference.

Time is linear in the text: no repeat in the expressions below can be cut in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal

Kind = Literal["letter", "yesno", "number", "words"]

LETTERS = "ABCDEFGHIJ"
RELATIVE_TOLERANCE = Fraction(1, 10**6)  # unless both numbers are integers, which are compared exactly
MAX_NUMERAL = 64  # characters; longer ones are not read, as converting them is not linear
SPELLED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
UNITS = frozenset(
    "% percent degree degrees c f mm cm m km in inch inches ft feet yd mi miles g kg mg lb lbs oz s sec seconds "
    "min minutes h hr hours days years l ml mph km/h m/s unit units dollars cents cm^2 m^2 cm^3 m^3".split()
)

_ANY_SPELLED = "|".join(SPELLED)
_PLAIN = [  # markdown and LaTeX dressing, rewritten in this order
    (r"−", "-"),
    (r"\\?\$|\*\*|__|`|\\[()\[\],;!]|\\(?:left|right|displaystyle)\b|\^ ?\{?\\circ\b ?\}?|°", ""),
    (r"\\%", "%"),
    (r"(?<=[0-9]) ?(?=\\[dt]?frac)", " "),
    (r"\\[dt]?frac ?\{ ?(-?[0-9.]+) ?\} ?\{ ?([0-9.]+) ?\}", r"\1/\2"),
    (r"\\[dt]?frac ?([0-9]) ?([0-9])(?![0-9])", r"\1/\2"),
    (r"\\(?:boxed|text|textbf|textit|mathrm|mathbf) ?\{([^{}]*)\}", r"\1"),
    (r" ?(?:\\times|\\cdot|[×·*x]) ?10 ?\^ ?\{? ?(-?[0-9]{1,3})(?![0-9]) ?\}?", r"e\1"),
    (rf"(?i)\b(?:minus|negative) (?=[0-9]|(?:{_ANY_SPELLED})\b)", "-"),
]
_CUE = re.compile(r"(?i)\banswer(?: ?[:=]| (?:is|would be|should be)\b ?:?)[ \n]?")
_CLAUSE_END = re.compile(r"(?i)[;\n]|\.(?: |\Z)|\b(?:because|since)\b")
_NEGATION = re.compile(r"(?i)\b(?:not|never|neither|nor|none|cannot|except|wrong|incorrect)\b|n['’]t\b")
_EDGES = " \n.,:;!?\"'“”‘’*_()[]{}"

_WHOLE_LETTER = re.compile(r"(?i)(?:(?:option|choice) )?[(\[{]?([A-J])")
_LEADING_LETTER = re.compile(r"(?i)[(\[{]?([A-J])[)\]}.:](?!\S)")
_LETTER = re.compile(r"\(([A-Ja-j])\)|(?<![\w'’^\\-])([A-J])(?![\w'’^-])")
_WORD_AFTER = re.compile(r" (?!(?:because|since|as|is|and|or|but)\b)\w")

_YES_NO = re.compile(r"(?i)\b(?:yes|no)\b")
_STANDS_ALONE = re.compile(r"(?i) ?(?:[.,;:!?)\"'/|\n]|\Z|(?:or|and)\b)")

_NUMBER = re.compile(
    r"(?i)(?<![a-z0-9_.^])(?<![_^]\{)(?P<sign>[-+]?)"
    r"(?:(?:(?P<whole>[0-9]++) (?=[0-9]++ ?/ ?[0-9]))?"
    r"(?P<value>(?:(?>[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
    r"(?:e[-+]?[0-9]{1,3}(?![0-9]))?)"
    r"(?: ?/ ?(?P<divisor>[0-9]++(?:\.[0-9]++)?))?"
    rf"|(?P<word>{_ANY_SPELLED})(?![a-z0-9]))"
)
_LINK = re.compile(  # what stands between two numbers of one list, range or expression
    r"(?i)[ \n]?|(?: ?[a-z%]{1,12})? ?(?:,? ?(?:or|and|to)\b|[,:/x×*+^±–-]|\\(?:times|cdot|div|pm)\b) ?(?:[a-z] ?= ?)?"
)
_OPERATOR_BEFORE = re.compile(
    r"(?:[-+*/^_√×·<≤≥±]|(?<![-=])>|\\(?:[A-Za-z]+ ?\{|(?:sqrt|times|cdot|div|pm|[lg]eq?))|\}\{) ?\Z"
)
_OPERATOR_AFTER = re.compile(
    r"(?i)(?:st|nd|rd|th|[dknixyz])\b|\(|\.[0-9]|-[a-z]| ?(?:[\^√π+*/×·]|- ?[b-z]\b|\\[a-z]|-?(?:hundred|thousand|"
    r"million|billion|trillion|dozen|half|halves|thirds?|quarters?|fourths?|fifths?|tenths?)\b)"
)
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_])|(?<=[^\W\d_])-(?=[^\W\d_]{2})")


def score(prediction: str, reference: str, *, options: Sequence[str] | None = None) -> bool:
    """Whether the answer `prediction` (the text of CONCLUSION) agrees with `reference`.

    `options` are the texts of A, B, ... (at most ten; none or an empty list: no choices); with them, `reference`
    is a letter or the text of one option, and an answer may quote the option instead of its letter.
    Example: `score("The answer is 3.0 cm.", "3")` is True. Raises what `kind_of` raises.
    """
    kind = kind_of(reference, options)
    expected = _option_of(reference, options) if kind == "letter" else extract(reference, kind)
    found = extract(prediction, kind, options)
    return found is not None and expected is not None and _equal(kind, found, expected)


def kind_of(reference: str, options: Sequence[str] | None = None) -> Kind:
    """The kind of answer that `reference` asks for.

    A lone capital A-J is a letter; with `options`, any case, and so is the text of exactly one of them. Raises
    ValueError for a blank reference, more than ten options, and a letter beyond the options.
    """
    if not reference.strip():
        raise ValueError(f"reference {reference!r} is blank: give the expected answer or drop the example")
    if _option_of(reference, options):
        return "letter"
    text = _plain(reference)
    if _words(text) in ("yes", "no"):
        return "yesno"
    number = _NUMBER.match(text)
    if number and _number(text) and text[number.end() :].strip(" .").casefold() in UNITS | {""}:
        return "number"
    return "words"


def extract(prediction: str, kind: Kind, options: Sequence[str] | None = None) -> str | None:
    """The answer that `prediction` gives, read as `kind`; None where it gives none or more than one.

    A capital letter; "yes" or "no"; an exact number as "3", "-2" or "1/2"; normalised words. ValueError for an
    unknown kind.
    """
    text = _plain(prediction)
    match kind:
        case "letter":
            return _letter(text, options or ())
        case "yesno":
            return _yes_no(text)
        case "number":
            return _number(text)
        case "words":
            return _words(text)
    raise ValueError(f"unknown kind of answer {kind!r}: use letter, yesno, number or words")


def _equal(kind: Kind, found: str, expected: str) -> bool:
    if kind != "number":
        return found == expected
    a, b = Fraction(found), Fraction(expected)
    return a == b or (not a.denominator == b.denominator == 1 and abs(a - b) <= RELATIVE_TOLERANCE * abs(b))


def _plain(text: str) -> str:
    """`text` without markdown and LaTeX dressing, single-spaced, blank lines dropped."""
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    for pattern, replacement in _PLAIN:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def _after_cue(text: str) -> int | None:
    """Where the text after the last "answer is" begins."""
    return max((match.end() for match in _CUE.finditer(text)), default=None)


def _clause(text: str) -> tuple[int, int] | None:
    """Start and end of the clause after the last "answer is"."""
    start = _after_cue(text)
    if start is None:
        return None
    end = _CLAUSE_END.search(text, start)
    return start, end.start() if end else len(text)


def _option_of(reference: str, options: Sequence[str] | None) -> str | None:
    """The letter that a reference stands for, by itself or as the text of exactly one option."""
    if len(options or ()) > len(LETTERS):
        raise ValueError(f"{len(options or ())} options: at most {len(LETTERS)} can be named by a letter")
    text = _plain(reference)
    lone = text.strip(_EDGES)
    if not options:
        return lone if lone and lone in LETTERS else None
    quoted = [letter for letter, option in zip(LETTERS, options, strict=False) if _words(_plain(option)) == _words(text)]
    if len(lone) == 1 and lone.upper() in LETTERS[: len(options)]:
        return lone.upper()
    if len(lone) == 1 and lone in LETTERS and not quoted:
        raise ValueError(f"reference {reference!r} names none of the {len(options)} options: check the example")
    return quoted[0] if len(quoted) == 1 else None


def _letter(text: str, options: Sequence[str]) -> str | None:
    allowed = LETTERS[: len(options)] if options else LETTERS
    whole = _WHOLE_LETTER.fullmatch(text.strip(_EDGES))
    leading = _LEADING_LETTER.match(text)
    clause = _clause(text)
    if whole:
        letters = {whole[1].upper()}
    elif clause and len(named := _named(text[slice(*clause)])) == 1:
        letters = named
    elif leading:
        letters = {leading[1].upper()} | {m[1].upper() for m in _LETTER.finditer(text) if m[1]}
    elif exact := _exact_option(text, options):
        letters = {exact}
    else:
        letters = _named(text) | _quoted(text, options)
    return letters.pop() if len(letters) == 1 and letters <= set(allowed) else None
