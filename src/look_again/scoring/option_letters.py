"""The one option that a conclusion names: by its text, or by its letter where that stands for an option.

The paper does not say how a letter is found. Letters are content more often than they look ("20 °C", "2 A", "vitamin
C", "point A", "A red ball"), so a letter counts only where nothing but brackets, marks, words of choosing or its own
option's text stands beside it. The whole clause is compared with the options' texts first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from look_again.scoring.conclusion import Conclusion

LETTERS = "ABCDEFGHIJ"
EDGES = " \n.,:;!?\"'“”‘’*_()[]{}#>|"

Same = Callable[[str, Sequence[str]], set[str]]
"""(text, options) -> the letters of the options that say the same as the whole text."""

_CHOSEN = r"(?:options?|choices?|answer|letter|选项?|选择)"
_HEDGE = r"\b(?:or|and|not|nor|maybe|perhaps|possibly|no|wait|actually|rather)\b|或|和"
_SURELY = r"(?:definitely |clearly |surely )?"

_WHOLE = re.compile(rf"(?ai)(?:the )?(?:(?:{_CHOSEN}) ?)?[(\[{{]?([A-J])(?:[)\]}}. ]* ?选?项)?")
_LEADING = re.compile(
    rf"(?ai)[\s#>*\"'-]*(?:{_CHOSEN} ?)?"
    r"(?:[(\[{]([A-J])[)\]}]|([A-J])(?:[)\]}.:,;](?!\S)|\)|(?=\n)| -(?= )))"
)
_MARKED = re.compile(
    r"(?a)(?<![A-Za-z0-9])(?:\(([A-Ja-j])\)|([A-J])(?:\)|(?:(?<=\n.)|(?<=[.:;] .))[.:](?!\S)|(?<=\n.)(?=\s*\Z|\n)))"
)
_LISTED = re.compile(  # another letter right behind the first: "A, B" and "A. B. C." name no option
    rf"(?i)(?:[ ,;/&|.\n]|{_HEDGE})*\(?(?-i:[A-J])(?![\w'’])(?! [a-z])"
)
_LETTER = re.compile(r"(?a)(?<![A-Za-z0-9])\(([A-Ja-j])\)|(?<![A-Za-z0-9_'^\\-])([A-J])(?![A-Za-z0-9_'^-])")
_ARTICLE_AFTER = re.compile(r"(?<=[AI]) (?!(?:because|since|as|is|and|or|but)\b)[^\W_]")
_LABELLED = re.compile(
    r"(?:[0-9]|(?i:\b(?:points?|vitamin|figure|angle|vertex|vertices|line|segment|side|hepatitis|type|group|grade|"
    r"degrees?)))[ (]*\Z"
)
_CHOOSING = re.compile(
    r"(?i)(?:\A|[:=,;.!?/&|\n(\[\"]|->|→|\b(?:is|be|it's|that's|options?|choices?|answer|letter|choose|chose|chosen|"
    r"choosing|pick|picked|select|selected|take|guess|say|go with|going with|went with|thus|so|hence|therefore|"
    r"conclusion|definitely|clearly|probably|surely|likely|obviously)|[选是为故项应或和])[ \"'*(\[]*\Z"
)
_FOLLOWED = re.compile(
    r"""(?i)[)\]"'*]*(?:\Z|[.,:;!?/&|\n)\]]|[^\x00-\x7f]| -+ | ?->|"""
    r" (?:because|since|as|and|or|but|for|due|given|nor|not|it is|here|now|then|instead|again|i think|"
    r"i believe|i guess|isn't|cannot|can't|must|seems|looks|is (?:not|n't|never|wrong|incorrect|"
    rf"{_SURELY}(?:the )?(?:most |only )?(?:correct|right|best|true|answer|one|choice|option|closest|accurate|"
    r"plausible|likely|appropriate)))\b)"
)
_REASON = re.compile(r"(?i)\b(?:because|since|as)\b|因为")
_DENIAL = re.compile(
    r"(?i)\b(?:not|never|neither|nor|none|cannot|except|wrong|incorrect|excluded|eliminated?|rule[sd]? out)\b|n['’]t\b|"
    r"不|没|非|错"
)
_DENIED_AFTER = re.compile(
    r"(?i)[ )\]}.:,*]*(?:(?:is|was|are|seems|must be|can be|could be|would be|should be) "
    rf"{_SURELY}(?:not|n't|never|wrong|incorrect|false|excluded|eliminated|ruled)|"
    r"isn't|wasn't|can't|cannot|couldn't|won't|不|是错|错)"
)


def read_letter(conclusion: Conclusion, options: Sequence[str], same: Same, quoted: Same) -> str | None:
    """The letter of the one option that a conclusion names, None for none, several, or one beyond the options.

    same: options that say the same as a whole text; quoted: options that a text quotes.
    """
    found = _letters(conclusion.clause, options, same, quoted, conclusion.cued)
    if not found and conclusion.cued:
        leading = _LEADING.match(conclusion.text)
        found = _led_by(leading, conclusion.text, options, quoted) if leading else set()
    letter = found.pop() if len(found) == 1 else ""
    return letter if letter and letter in LETTERS[: len(options) or None] else None


def _letters(clause: str, options: Sequence[str], same: Same, quoted: Same, cued: bool) -> set[str]:
    if whole := whole_letter(clause):
        return {whole}
    if options and (equal := same(clause, options)):
        return equal
    if leading := _LEADING.match(clause):
        return _led_by(leading, clause, options, quoted)
    if options and (own := _beside_own_text(clause, options, same)):
        return own
    if named := named_letters(clause, options):
        return named | quoted(clause, options) if options else named
    found = quoted(clause, options) if options else set()
    return found | _standing_beside(found, clause, options) if found else found


def _standing_beside(found: set[str], clause: str, options: Sequence[str]) -> set[str]:
    """Letters that stand in a clause outside of the option's text that it quotes."""
    rest = _without(clause, _own_text(min(found), options))
    return {(match[1] or match[2]).upper() for match in _LETTER.finditer(rest) if not _is_content(rest, match)}


def whole_letter(text: str) -> str:
    """The letter of a text that holds no more than it, its brackets and "option"; "" otherwise."""
    if len(text) > 40:
        return ""
    whole = _WHOLE.fullmatch(text.lstrip(EDGES + "-").rstrip(EDGES))
    return whole[1].upper() if whole else ""


def _led_by(leading: re.Match[str], text: str, options: Sequence[str], quoted: Same) -> set[str]:
    """The letter that a text begins with, and those that what follows contradicts it by."""
    letter, rest = (leading[1] or leading[2]).upper(), text[leading.end() :]
    own = _own_text(letter, options)
    has_own = bool(own) and own.casefold() in rest.casefold()
    if _LISTED.match(rest) or _DENIED_AFTER.match(_without(rest, own) if has_own else rest):
        return set()
    others = {(match[1] or match[2]).upper() for match in _MARKED.finditer(text)}
    if options and not has_own:
        first = re.split(r"(?i)[\n;]|\. |\b(?:because|since|not|than)\b", rest, maxsplit=1)[0]
        others |= quoted(first, options)
    return {letter} | others


def _beside_own_text(clause: str, options: Sequence[str], same: Same) -> set[str]:
    """The letter that stands, without a mark, before or behind its own option's text: "B red cube", "red cube B"."""
    text = clause.strip(EDGES)
    first, _, after = text.partition(" ")
    before, _, last = text.rpartition(" ")
    pairs = ((first.strip("()[]"), after), (last.strip("()[]"), before))
    return {
        letter for letter, other in pairs if letter in LETTERS and len(letter) == 1 and same(other, options) == {letter}
    }


def named_letters(text: str, options: Sequence[str] = ()) -> set[str]:
    """Letters that stand for options in `text`; none where it denies anything but in an option's own words."""
    reason = _REASON.search(text)
    if reason and (named := named_letters(text[: reason.start()], options)):
        return named
    found = [match for match in _LETTER.finditer(text) if not _is_content(text, match)]
    named = {(match[1] or match[2]).upper() for match in found if match[1] or _is_chosen(text, match)}
    if not named:
        return named
    named |= {(match[1] or match[2]).upper() for match in found}
    own = _own_text(next(iter(named)), options) if len(named) == 1 else ""
    rest = _without(text, own) if own else text
    return set() if _DENIAL.search(rest) else named


def _is_content(text: str, match: re.Match[str]) -> bool:
    """Whether a letter is an article or a pronoun, or belongs to a number or a label before it."""
    if not match[1] and _ARTICLE_AFTER.match(text, match.end()):
        return True
    return _LABELLED.search(text[max(0, match.start() - 12) : match.start()]) is not None


def _is_chosen(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 16) : match.start()]
    return bool(_CHOOSING.search(before) if match.start() else True) and _FOLLOWED.match(text, match.end()) is not None


def _own_text(letter: str, options: Sequence[str]) -> str:
    at = LETTERS.index(letter)
    return options[at].strip().rstrip(".") if at < len(options) else ""


def _without(text: str, part: str) -> str:
    """`text` with a word in place of an option's text, so that what stands beside it stays beside a word."""
    return re.sub(re.escape(part), "text", text, flags=re.IGNORECASE) if part else text


def denies(text: str) -> bool:
    """Whether a text denies anything."""
    return _DENIAL.search(text) is not None
