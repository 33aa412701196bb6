"""The one scorer of answers, for evaluation, data checks and the accuracy reward alike (paper, "BRPO": accuracy).

The paper matches "the content of CONCLUSION" by regular expressions that it does not give; these rules are
ours. The prediction is that content alone. The reference decides which kind of answer is expected, and the
prediction is read as that kind or not at all: where a reading needs a guess it is None (unparsed), not a hit.

A text is brought to plain characters (`normalisation`), its conclusion's clause is taken (`conclusion`), and read as a

- letter: one option A-J (`option_letters`): the whole clause is compared with the options' texts, then a letter
  counts where nothing but brackets, marks or its own option's text stands beside it.
- yesno: a leading yes or no, else the only one, or 是 or 否 as a whole; contradiction ("yes or no") and negation ("not
  yes"): None.
- number: the one number that is given (`numerals`). One that is part of a list, a range or an expression ("3 or 4",
  "2x + 1") is None. A unit on one side alone changes nothing, percent too: 50% is 50, not 0.5; of two units those of
  one dimension are converted, and others do not agree (`units`).
- words: equal without case, articles, punctuation and space. Mathematics in symbols ends up here and must be
  written as in the reference (`grading` compares expressions). Lists are sets, but for those in ( ) and [ ].

Time is linear in the text: no repeat in the expressions can be cut in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from look_again.scoring.conclusion import Conclusion, conclude
from look_again.scoring.normalisation import plain_text
from look_again.scoring.numerals import NUMBER, UNIT, read_number, read_quantity
from look_again.scoring.option_letters import EDGES, LETTERS, denies, read_letter
from look_again.scoring.units import Unit, conversion

Kind = Literal["letter", "yesno", "number", "words"]

RELATIVE_TOLERANCE = Fraction(1, 10**6)  # unless both numbers are integers, which are compared exactly
MAX_LIST = 400  # characters of a list; longer ones are compared as they are written

_YES_NO = re.compile(r"(?i)\b(?:yes|no)\b")
_CHINESE_YES_NO = {
    **dict.fromkeys(("是", "是的", "对", "对的", "正确", "有"), "yes"),
    **dict.fromkeys(("否", "不", "不是", "不是的", "不对", "错误", "没有"), "no"),
}
_STANDS_ALONE = re.compile(r"(?i) ?(?:[.,;:!?)\"'/|\n]|\Z|(?:or|and)\b)")
_VARIABLE = re.compile(r"\A[A-Za-z] ?= ?")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_])|(?<=[^\W\d_])-(?=[^\W\d_]{2})")
_SEPARATORS = re.compile(r"[\s,;]+")
_BRACES = re.compile(r"\A\s*\\?\{([^{}\\]*)\\?\}\s*\.?\s*\Z")
_BRACKETS = re.compile(r"[(){}\[\]|]|\b(?:or|not)\b")
_COMMAS = re.compile(r"[,;]")
_AND = re.compile(r"(?i)\band\b|&|和")


def score(prediction: str, reference: str, *, options: Sequence[str] | None = None) -> bool:
    """Whether the answer `prediction` (the text of CONCLUSION) agrees with `reference`.

    `options` are the texts of A, B, ... (at most ten; None or empty: no choices); with them, `reference` may
    be a letter or the text of one option, and an answer may quote the option instead of its letter.
    Example: `score("The answer is 3.0 cm.", "3")` is True. Raises what `answer_kind` raises.
    """
    choices = tuple(options or ())
    kind, expected = _expected(reference, choices)
    if expected is None:
        return False
    conclusion = conclude(prediction)
    if kind == "words":
        return _says_words(conclusion, reference, expected)
    if kind == "number":
        return _is_quantity(read_quantity(conclusion), expected, _expected_unit(reference))
    found = _read(conclusion, kind, choices)
    return found is not None and equal(kind, found, expected)


def _is_quantity(found: tuple[str, Unit | None] | None, expected: str, unit: Unit | None) -> bool:
    """Whether a number with its unit is the expected number, in the expected unit if both have one."""
    if found is None:
        return False
    factor = conversion(found[1], unit)
    number = found[0] if factor in (None, 1) else str(Fraction(found[0]) * factor)
    return factor is not None and equal("number", number, expected)


@lru_cache(maxsize=4096)
def _expected_unit(reference: str) -> Unit | None:
    quantity = read_quantity(conclude(reference))
    return None if quantity is None else quantity[1]


@lru_cache(maxsize=4096)  # a group of answers has one reference
def _expected(reference: str, options: tuple[str, ...]) -> tuple[Kind, str | None]:
    """The kind of answer that a reference asks for, and that answer."""
    kind = answer_kind(reference, options)
    return kind, _named_option(reference, options) or extract(reference, kind)


def answer_kind(reference: str, options: Sequence[str] | None = None) -> Kind:
    """The kind of answer that `reference` asks for.

    A lone capital A-J is a letter; with `options`, any case, and so is the text of exactly one of them.
    Raises ValueError for a blank reference, more than ten options, and a letter beyond the options.
    """
    text = plain_text(reference)
    if not text:
        raise ValueError(f"reference {reference!r} is blank: give the expected answer or drop the example")
    if _named_option(reference, options or ()):
        return "letter"
    text = _VARIABLE.sub("", text)  # "x = 3" asks for 3
    part = conclude(reference).part
    if (answer := _yes_no(part)) and answer in (_words(part), _CHINESE_YES_NO.get(_words(part) or "")):
        return "yesno"
    number = NUMBER.match(text)
    if number and read_number(_as_it_stands(text)) and UNIT.fullmatch(text[number.end() :].strip(" .")):
        return "number"
    return "words"


def extract(prediction: str, kind: Kind, options: Sequence[str] | None = None) -> str | None:
    """The answer that `prediction` gives, read as `kind`; None where it gives none or more than one.

    A capital letter; "yes" or "no"; an exact number as "3", "-2" or "1/2"; normalised words. ValueError for
    an unknown kind.
    """
    if kind not in ("letter", "yesno", "number", "words"):
        raise ValueError(f"unknown kind of answer {kind!r}: use letter, yesno, number or words")
    return _read(conclude(prediction), kind, tuple(options or ()))


def _read(conclusion: Conclusion, kind: Kind, options: tuple[str, ...]) -> str | None:
    if kind == "letter":
        return read_letter(conclusion, options, _same_options, _quoted_options)
    if kind == "number":
        return read_number(conclusion)
    return _yes_no(conclusion.part) if kind == "yesno" else _words(conclusion.part) or _words(conclusion.text)


def equal(kind: Kind, found: str, expected: str) -> bool:
    """Whether two answers, as `extract` writes those of a kind, are the same."""
    if kind != "number" or found == expected:
        return found == expected
    a, b = Fraction(found), Fraction(expected)
    return a == b or (not a.denominator == b.denominator == 1 and abs(a - b) <= RELATIVE_TOLERANCE * abs(b))


def _as_it_stands(text: str) -> Conclusion:
    return Conclusion(text, text, text, False)


def _named_option(reference: str, options: Sequence[str]) -> str | None:
    """The letter that a reference stands for, by itself or as the text of exactly one option."""
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options: at most {len(LETTERS)} can be named by a letter")
    lone = plain_text(reference).strip(EDGES)
    if len(lone) == 1 and (lone.upper() if options else lone) in LETTERS[: len(options) or None]:
        return lone.upper()
    quoted = _same_options(conclude(reference).part, options)
    if len(lone) == 1 and lone in LETTERS and not quoted:
        raise ValueError(f"reference {reference!r} is none of the {len(options)} options: check the example")
    return quoted.pop() if len(quoted) == 1 else None


@lru_cache(maxsize=1024)  # a group of answers has the same options
def _read_options(options: tuple[str, ...], kind: Kind) -> tuple[str | None, ...]:
    return tuple(extract(option, kind) for option in options)


@lru_cache(maxsize=1024)
def _kind_of_options(options: tuple[str, ...]) -> Kind | None:
    """The kind, number or yesno, that all options are of; None of words, or where they differ."""
    kinds = {answer_kind(option) for option in options if plain_text(option)}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"number", "yesno"} else None


def _same_options(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options that the whole of a plain text says the same words as."""
    return _equal_options("words", _words(text), tuple(options))


def _equal_options(kind: Kind, found: str | None, options: tuple[str, ...]) -> set[str]:
    values = zip(LETTERS, _read_options(options, kind), strict=False)
    return {letter for letter, value in values if found and value and equal(kind, found, value)}


def _quoted_options(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options whose text occurs in `text` outside of any longer option; none where it denies."""
    options = tuple(options)
    if kind := _kind_of_options(options):
        return _equal_options(kind, _read(_as_it_stands(text), kind, ()), options)
    quotes = _read_options(options, "words")
    rest, found = f" {_words(text)} ", set[str]()
    for quote in sorted(filter(None, set(quotes)), key=len, reverse=True):
        if f" {quote} " in rest:
            found |= {letter for letter, same in zip(LETTERS, quotes, strict=False) if same == quote}
            rest = rest.replace(f" {quote} ", " | ")
    return set() if found and denies(rest) else found


def _yes_no(text: str) -> str | None:
    text = text.lstrip(EDGES)
    if answer := _CHINESE_YES_NO.get(text.partition(",")[0].strip(EDGES)):
        return answer
    if not _YES_NO.match(text) and denies(text):
        return None
    answers = {
        match[0].casefold()
        for match in _YES_NO.finditer(text)  # "no" before a noun denies the noun and answers nothing
        if match.start() == 0 or match[0].casefold() == "yes" or _STANDS_ALONE.match(text, match.end())
    }
    return answers.pop() if len(answers) == 1 else None


def _says_words(conclusion: Conclusion, reference: str, expected: str) -> bool:
    """Whether the whole part, or its first clause, says the words, or the same list, that a reference gives."""
    if expected in (_read(conclusion, "words", ()), _words(conclusion.clause)):
        return True
    items = _listed(reference)
    return items is not None and items in (_items(conclusion.part), _items(conclusion.clause))


@lru_cache(maxsize=4096)
def _listed(reference: str) -> tuple[str, ...] | None:
    return _items(conclude(reference).part)


def _items(text: str) -> tuple[str, ...] | None:
    """The items of a bare list or a set in braces, normalised and sorted; None of anything else.

    Items stand between commas, semicolons or "and"; of words alone, commas are needed. Of a set each counts once.
    """
    if len(text) > MAX_LIST:
        return None
    text = text.strip(" .\n\"'")
    braced = _BRACES.match(text)
    inner = braced[1] if braced else text
    commas = _COMMAS.search(inner) is not None
    pieces = (
        [piece for part in _COMMAS.split(inner) for piece in _AND.split(part)]
        if commas or _AND.search(inner)
        else [inner]
    )
    if _BRACKETS.search(inner) or (len(pieces) < 2 and not braced):
        return None
    items = [_item(piece) for piece in pieces if piece.strip(" .")]
    if not all(items) or not (commas or braced or all(item and item[:1] in "-0123456789" for item in items)):
        return None
    kept = [item for item in items if item]
    return tuple(sorted(set(kept) if braced else kept))


def _item(text: str) -> str | None:
    text = text.strip(" .")
    if "=" in text or not (number := NUMBER.match(text)) or not UNIT.fullmatch(text[number.end() :].strip(" .")):
        return _words(text)
    return read_number(_as_it_stands(text)) or _words(text)


def _words(text: str) -> str | None:
    tokens = list(filter(None, map(_trim, _SEPARATORS.split(text))))
    kept = [token for i, token in enumerate(tokens) if not _is_article(tokens, i)]
    return _HYPHEN.sub(" ", " ".join(kept)).casefold() or text.strip().casefold() or None


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
