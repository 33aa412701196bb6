"""The one scorer of answers, for evaluation and for the accuracy reward alike (paper, "BRPO": accuracy).

The paper matches "the content of CONCLUSION" by regular expressions that it does not give; these rules are
ours. The prediction is that content alone. The reference decides which kind of answer is expected, and the
prediction is read as that kind or not at all: where a reading needs a guess it is None (unparsed), not a hit.

- letter: one option A-J: a capital standing alone, or any single letter as the whole answer or in brackets.
  "A" or "I" before a word is an article or a pronoun ("A red ball"), unless the word is one like "because".
- yesno: a leading yes or no, else the only one; contradiction ("yes or no") and negation ("not yes"): None.
- number: the first after the last "answer is", or after "="; else the last one. One that is part of a list, a
  range or an expression ("3 or 4", "2x + 1") is None. Units are ignored, percent too: 50% is 50, not 0.5.
- words: equal without case, articles, punctuation and space. Mathematics in symbols ends up here and must be
  written as in the reference.

Time is linear in the text: no repeat in the expressions below can be cut in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Kind = Literal["letter", "yesno", "number", "words"]

LETTERS = "ABCDEFGHIJ"
RELATIVE_TOLERANCE = Fraction(1, 10**6)  # unless both numbers are integers, which are compared exactly
MAX_NUMERAL = 64  # characters; longer ones are not read, as converting them is not linear

_SPELLED = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty"
)
_UNIT = re.compile(  # what a reference may carry and still be a number
    r"(?i)|%|percent|degrees?|[cf]|[cmk]?m(?:\^?[23]|[²³])?|in|inch(?:es)?|ft|feet|yd|mi|miles?|[mk]?g|lbs?|"
    r"oz|s|sec|seconds?|min|minutes?|h|hr|hours?|days?|years?|m?l|km/h|m/s|mph|units?|dollars?|cents?"
)
_PLAIN = [  # markdown and LaTeX dressing, rewritten in this order
    (r"−", "-"),
    (r"\\?\$|\*\*|__|`|\\[()\[\],;!]|\\(?:left|right|displaystyle)\b|\^ ?\{?\\circ\b ?\}?|°", ""),
    (r"\\%", "%"),
    (r"(?<=[0-9]) ?(?=\\[dt]?frac)", " "),
    (r"\\[dt]?frac ?\{ ?(-?[0-9.]+) ?\} ?\{ ?([0-9.]+) ?\}", r"\1/\2"),
    (r"\\[dt]?frac ?([0-9]) ?([0-9])(?![0-9])", r"\1/\2"),
    (r"\\(?:boxed|text|textbf|textit|mathrm|mathbf) ?\{([^{}]*)\}", r"\1"),
    (r" ?(?:\\times|\\cdot|[×·*x]) ?10 ?\^ ?\{? ?(-?[0-9]{1,3})(?![0-9]) ?\}?", r"e\1"),
    (rf"(?i)\b(?:minus|negative) (?=[0-9]|(?:{_SPELLED})\b)", "-"),
]
_DRESSED = re.compile(r"(?i)[−\\$*_`°^]|minus|negative")  # one of these is in whatever those patterns match
_CUE = re.compile(r"(?i)\banswer(?: ?[:=]| (?:is|would be|should be)\b ?:?)[ \n]?")
_CLAUSE_END = re.compile(r"(?i)[;\n]|\.(?: |\Z)|\b(?:because|since)\b")
_NEGATION = re.compile(r"(?i)\b(?:not|never|neither|nor|none|cannot|except|wrong|incorrect)\b|n['’]t\b")
_EDGES = " \n.,:;!?\"'“”‘’*_()[]{}"

_WHOLE_LETTER = re.compile(r"(?ai)(?:(?:option|choice) )?[(\[{]?([A-J])")
_LEADING_LETTER = re.compile(r"(?ai)[(\[{]?([A-J])[)\]}.:](?!\S)")
_MARKED_LETTER = re.compile(r"(?ai)(?<![a-z0-9])([A-J])(?:\)|(?:(?<=\n.)|(?<=[.:;] .))[.:](?!\S))")
_LETTER = re.compile(r"(?<![A-Za-z0-9])\(([A-Ja-j])\)|(?<![\w'’^\\-])([A-J])(?![\w'’^-])")
_ARTICLE_AFTER = re.compile(r"(?<=[AI]) (?!(?:because|since|as|is|and|or|but)\b)\w")

_YES_NO = re.compile(r"(?i)\b(?:yes|no)\b")
_STANDS_ALONE = re.compile(r"(?i) ?(?:[.,;:!?)\"'/|\n]|\Z|(?:or|and)\b)")

_NUMBER = re.compile(
    r"(?ai)(?<![a-z0-9_.^])(?<![_^]\{)(?P<sign>[-+]?)"
    r"(?:(?:(?P<whole>[0-9]++) (?=[0-9]++ ?/ ?[0-9]))?"
    r"(?P<value>(?:(?>[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
    r"(?:e[-+]?[0-9]{1,3}(?![0-9]))?)"
    r"(?: ?/ ?(?P<divisor>[0-9]++(?:\.[0-9]++)?))?"
    rf"|(?P<word>{_SPELLED})(?![a-z0-9]))"
)
_LINK = re.compile(  # what stands between two numbers of one list, range or expression
    r"(?i)[ \n]?|(?: ?[a-z%]{1,12}|[})\]]{1,4})? ?(?:,? ?(?:or|and|to)\b|[,:/x×*+^±–-]|\\(?:times|cdot|div|pm)\b) ?"
    r"(?:[a-z] ?= ?)?"
)
_OPERATOR_BEFORE = re.compile(
    r"(?:[-+*/^_√×·<≤≥±]|(?<![-=])>|\\(?:[A-Za-z]+ ?\{|(?:sqrt|times|cdot|div|pm|[lg]eq?))|\}\{) ?\Z"
)
_OPERATOR_AFTER = re.compile(
    r"(?i)(?:st|nd|rd|th|[dknixyz])\b|e[-+]?[0-9]|\(|\.[0-9]|-[a-z]| ?(?:[\^√π+*/×·]|- ?[b-z]\b|\\[a-z]|"
    r"-?(?:hundred|thousand|[mbtr]+illion|dozen|half|halves|thirds?|quarters?|fourths?|fifths?|tenths?)\b)"
)
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_])|(?<=[^\W\d_])-(?=[^\W\d_]{2})")


def score(prediction: str, reference: str, *, options: Sequence[str] | None = None) -> bool:
    """Whether the answer `prediction` (the text of CONCLUSION) agrees with `reference`.

    `options` are the texts of A, B, ... (at most ten; None or empty: no choices); with them, `reference` may
    be a letter or the text of one option, and an answer may quote the option instead of its letter.
    Example: `score("The answer is 3.0 cm.", "3")` is True. Raises what `kind_of` raises.
    """
    kind, expected = _expected(reference, tuple(options or ()))
    found = extract(prediction, kind, options)
    return found is not None and expected is not None and _equal(kind, found, expected)


@lru_cache(maxsize=4096)  # a group of answers has one reference
def _expected(reference: str, options: tuple[str, ...]) -> tuple[Kind, str | None]:
    """The kind of answer that a reference asks for, and that answer."""
    kind = kind_of(reference, options)
    return kind, _option_of(reference, options) or extract(reference, kind)


def kind_of(reference: str, options: Sequence[str] | None = None) -> Kind:
    """The kind of answer that `reference` asks for.

    A lone capital A-J is a letter; with `options`, any case, and so is the text of exactly one of them.
    Raises ValueError for a blank reference, more than ten options, and a letter beyond the options.
    """
    if not _plain(reference):
        raise ValueError(f"reference {reference!r} is blank: give the expected answer or drop the example")
    if _option_of(reference, options or ()):
        return "letter"
    text = re.sub(r"\A[A-Za-z] ?= ?", "", _plain(reference))  # "x = 3" asks for 3
    if (answer := _yes_no(text)) and answer == _words(text):
        return "yesno"
    number = _NUMBER.match(text)
    if number and _number(text) and _UNIT.fullmatch(text[number.end() :].strip(" .")):
        return "number"
    return "words"


def extract(prediction: str, kind: Kind, options: Sequence[str] | None = None) -> str | None:
    """The answer that `prediction` gives, read as `kind`; None where it gives none or more than one.

    A capital letter; "yes" or "no"; an exact number as "3", "-2" or "1/2"; normalised words. ValueError for
    an unknown kind.
    """
    if kind == "letter":
        return _letter(_plain(prediction), options or ())
    if kind not in _READERS:
        raise ValueError(f"unknown kind of answer {kind!r}: use letter, yesno, number or words")
    return _READERS[kind](_plain(prediction))


def _equal(kind: Kind, found: str, expected: str) -> bool:
    if kind != "number" or found == expected:
        return found == expected
    a, b = Fraction(found), Fraction(expected)
    return a == b or (not a.denominator == b.denominator == 1 and abs(a - b) <= RELATIVE_TOLERANCE * abs(b))


def _plain(text: str) -> str:
    """`text` without markdown and LaTeX dressing, single-spaced, blank lines dropped."""
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    if not _DRESSED.search(text):
        return text
    for pattern, replacement in _PLAIN:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def _answer_part(text: str) -> str:
    """What follows the last "answer is"; the whole text where nothing says so."""
    return text[max((cue.end() for cue in _CUE.finditer(text)), default=0) :]


def _clause(text: str) -> str | None:
    """The clause after the last "answer is", None where nothing says so."""
    part = _answer_part(text)
    return None if part == text else _CLAUSE_END.split(part, maxsplit=1)[0]


def _option_of(reference: str, options: Sequence[str]) -> str | None:
    """The letter that a reference stands for, by itself or as the text of exactly one option."""
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options: at most {len(LETTERS)} can be named by a letter")
    lone = _plain(reference).strip(_EDGES)
    if len(lone) == 1 and (lone.upper() if options else lone) in LETTERS[: len(options) or None]:
        return lone.upper()
    quoted = _equal_options("words", reference, options)
    if len(lone) == 1 and lone in LETTERS and not quoted:
        raise ValueError(f"reference {reference!r} is none of the {len(options)} options: check the example")
    return quoted.pop() if len(quoted) == 1 else None


def _equal_options(kind: Kind, text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options that, read as `kind`, say the same as `text`."""
    found = extract(text, kind)
    values = zip(LETTERS, (extract(option, kind) for option in options), strict=False)
    return {letter for letter, value in values if found and value and _equal(kind, found, value)}


def _letter(text: str, options: Sequence[str]) -> str | None:
    clause = _clause(text)
    if whole := _WHOLE_LETTER.fullmatch(text.strip(_EDGES)):
        letters = {whole[1].upper()}
    elif clause and len(named := _named_letters(clause)) == 1:
        letters = named
    elif leading := _LEADING_LETTER.match(text):
        letters = {letter.upper() for letter in [leading[1], *_MARKED_LETTER.findall(text)]}
    elif not (letters := _equal_options("words", text, options)):
        letters = _named_letters(text) | _quoted_options(text, options)
    letter = letters.pop() if len(letters) == 1 else ""
    return letter if letter and letter in LETTERS[: len(options) or None] else None


def _named_letters(text: str) -> set[str]:
    """Letters that stand for options in `text`; none where it denies anything."""
    if _NEGATION.search(text):
        return set()
    if whole := _WHOLE_LETTER.fullmatch(text.strip(_EDGES)):
        return {whole[1].upper()}
    found = [match for match in _LETTER.finditer(text) if not _ARTICLE_AFTER.match(text, match.end())]
    return {(match[1] or match[2]).upper() for match in found}


def _quoted_options(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options whose text occurs in `text` outside of any longer option."""
    kinds = {kind_of(option) for option in options if option.strip()}
    if kinds in ({"number"}, {"yesno"}):
        return _equal_options(kinds.pop(), text, options)
    if _NEGATION.search(text):
        return set()
    quotes = [_words(_plain(option)) for option in options]
    rest, found = f" {_words(text)} ", set()
    for quote in sorted(filter(None, set(quotes)), key=len, reverse=True):
        if f" {quote} " in rest:
            found |= {letter for letter, same in zip(LETTERS, quotes, strict=False) if same == quote}
            rest = rest.replace(f" {quote} ", " | ")
    return found


def _yes_no(text: str) -> str | None:
    text = _answer_part(text).lstrip(_EDGES)
    if not _YES_NO.match(text) and _NEGATION.search(text):
        return None
    answers = {
        match[0].casefold()
        for match in _YES_NO.finditer(text)  # "no" before a noun denies the noun and answers nothing
        if match.start() == 0 or match[0].casefold() == "yes" or _STANDS_ALONE.match(text, match.end())
    }
    return answers.pop() if len(answers) == 1 else None


def _number(text: str) -> str | None:
    clause = _clause(text)
    text = text if clause is None else clause
    equals = text.rfind("=")
    found = list(_NUMBER.finditer(text))
    usable = [i for i, match in enumerate(found) if match.start() > equals]
    usable = [i for i in usable if not found[i]["word"]] or usable  # "5 is the larger one" says 5
    if not usable or _NEGATION.search(text):
        return None
    at = usable[-1 if clause is None and equals < 0 else 0]
    near = pairwise(found[max(0, at - 1) : at + 2])
    if any(_LINK.fullmatch(text, a.end(), b.start()) for a, b in near) or _in_expression(text, found[at]):
        return None
    value = _value(found[at])
    return None if value is None or len(str(value)) > MAX_NUMERAL else str(value)  # "1e100" has 101 digits


def _in_expression(text: str, number: re.Match[str]) -> bool:
    before = text[max(0, number.start() - 16) : number.start()]
    return bool(_OPERATOR_BEFORE.search(before) or _OPERATOR_AFTER.match(text, number.end()))


def _value(number: re.Match[str]) -> Fraction | None:
    """The number exactly; None for one that is too long or divided by zero."""
    if len(number[0]) > MAX_NUMERAL:
        return None
    if number["word"]:
        value = Fraction(_SPELLED.split("|").index(number["word"].lower()))
    else:
        divisor = Fraction(number["divisor"] or 1)
        if not divisor:
            return None
        value = Fraction(number["value"].replace(",", "")) / divisor + int(number["whole"] or 0)
    return -value if number["sign"] == "-" else value


def _words(text: str) -> str | None:
    answer = _answer_part(text)
    tokens = list(filter(None, map(_trim, re.split(r"[\s,;]+", answer))))
    kept = [token for i, token in enumerate(tokens) if not _is_article(tokens, i)]
    return _HYPHEN.sub(" ", " ".join(kept)).casefold() or (answer.strip() or text).casefold() or None


def _trim(token: str) -> str:
    """A token without quotes and full stops; brackets go from around a word only, as (0,1) is not [0,1]."""
    token = token.strip("\"'“”‘’*").rstrip(".:?\"'”’")
    word = token.strip("()[]{}!.:?\"'”’")
    return word if _WORD.fullmatch(word) else token


def _is_article(tokens: list[str], i: int) -> bool:
    """Articles stand before a word: not at the end, not before a lone letter, no capital A later on."""
    if tokens[i].lower() not in ("a", "an", "the") or i + 1 == len(tokens) or (tokens[i] == "A" and i):
        return False
    return len(tokens[i + 1]) > 1 or not tokens[i + 1].isalpha()


_READERS = {"yesno": _yes_no, "number": _number, "words": _words}
