"""One spelling for what looks or means the same: characters first, then the dressing of Markdown and LaTeX.

The paper matches answers by regular expressions that it does not give; these rules are ours. Characters: dashes and the
minus sign become "-", full-width, circled and mathematical letters and digits become plain ones, superscripts become
"^2", vulgar fractions "1/2", spaces of any width " ", and digits grouped by an apostrophe, a thin space, `{,}` or `\\,`
are joined. Look-alikes of other scripts, such as a Cyrillic В, stay what they are.

Time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_PLAIN_FORMS = ("<wide>", "<circle>", "<font>", "<small>", "<square>", "<narrow>")
_MARKS = {  # what stands for a mark of ASCII, or is invisible
    **dict.fromkeys("−⁃˗➖", "-"),
    **dict.fromkeys("‘’‛ʼ", "'"),
    **dict.fromkeys("“”„‟", '"'),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("⋅∙•", "·"),
    **dict.fromkeys("≦⩽", "≤"),
    **dict.fromkeys("≧⩾", "≥"),
    **dict.fromkeys("，、､", ", "),
    **dict.fromkeys("。｡", ". "),
    **dict.fromkeys("：∶", ": "),
    **dict.fromkeys("\ufe0f\u20e3", ""),
    "；": "; ",
    "？": "? ",
    "！": "! ",
    "℃": "°C",
    "℉": "°F",
    "º": "°",
    "˚": "°",
}
_JOINERS = "'’٬\u00a0\u2007\u2008\u2009\u200a\u202f"  # of groups of three digits, beside `{,}` and `\,`

_GROUPED = re.compile(
    r"(?<![A-Za-z0-9_.,'’])[0-9]{1,3}"
    rf"(?:(\{{,\}}|\\[,;: ]|[{_JOINERS}])[0-9]{{3}}(?:\1[0-9]{{3}})*+)(?![0-9]|['’,][0-9])"
)
_FRACTION = re.compile("([0-9A-Za-z]?)([¼-¾⅐-⅞↉])")
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = re.compile(f"[{_SUBSCRIPTS}]+")
_NO_DIGIT = re.compile("[^0-9]")

_DRESSING = [  # Markdown and LaTeX, rewritten in this order
    (re.compile(r"\\[,;: ]|\\q?quad\b ?|(?<=\S)~(?=\S)"), " "),
    (re.compile(r"</?(?:answer|b|strong|i|em|u|p|br|span|code)(?: ?/)?>|<\|[a-z_]{1,32}\|>"), " "),
    (re.compile(r"\\?\$|\*\*|__|`|\\[()\[\]!]|\\(?:left|right|displaystyle)\b|\^ ?\{?\\circ\b ?\}?|\\degree\b|°"), ""),
    (re.compile(r"\\([%&#])"), r"\1"),
    (re.compile(r"(?<=[0-9]) ?(?=\\[dt]?frac)"), " "),
    (re.compile(r"\\[dt]?frac ?\{ ?(-?[0-9.]+) ?\} ?\{ ?([0-9.]+) ?\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac ?([0-9]) ?([0-9])(?![0-9])"), r"\1/\2"),
]
_WRAPPER = re.compile(
    r"\\(?:[fm]?box|boxed|text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb)|"
    r"operatorname|emph) ?\{((?:[^{}\\]|\\.)*+)\}"
)
_POWER_OF_TEN = re.compile(r" ?(?:\\times|\\cdot|[×·*x]) ?10 ?\^ ?(?:\{ ?)?(-?[0-9]{1,3})(?![0-9])(?: ?\})?")
_MINUS = re.compile(
    r"(?i)\b(?:minus|negative) (?=[0-9.]|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty)\b)"
)
_DRESSED = re.compile(r"(?i)[\\$*_`°^~<×·]|minus|negative")  # one of these is in whatever those patterns match
MAX_NESTING = 4  # of wrappers such as `\boxed{\text{…}}`


class _PlainCharacters(dict[int, str]):
    """Code point -> its plain spelling, found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = plain = _plain_character(chr(code))
        return plain


def _plain_character(char: str) -> str:
    if char.isascii() or char in _SUPERSCRIPTS or char in _SUBSCRIPTS:
        return char
    if char in _MARKS:
        return _MARKS[char]
    category = unicodedata.category(char)
    if category in ("Pd", "Cf"):
        return "-" if category == "Pd" else ""
    if 0x1F130 <= ord(char) <= 0x1F189:  # letters in squares and filled circles, which have no decomposition
        return chr(ord("A") + (ord(char) - 0x1F130) % 0x20) if (ord(char) - 0x1F130) % 0x20 < 26 else char
    form, _, codes = unicodedata.decomposition(char).partition(" ")
    decomposed = "".join(chr(int(code, 16)) for code in codes.split())
    bracketed = form == "<compat>" and decomposed[:1] == "("  # "⑵", "⒝"
    return decomposed if bracketed or (form in _PLAIN_FORMS and decomposed.strip("²³°").isascii()) else char


_CHARACTERS = _PlainCharacters()


def plain_characters(text: str) -> str:
    """`text` in plain characters, digit groups joined; lines and spacing between words stay.

    Examples: "–3" is "-3", "Ｂ" is "B", "10⁴" is "10^4", "2½" is "2 1/2", "12'345" is "12345".
    """
    if not text.isascii():
        text = _FRACTION.sub(_spell_fraction, text.translate(_CHARACTERS))
        text = _RAISED.sub(_spell_raised, text)
        text = _LOWERED.sub(lambda lowered: "_" + _spell_digits(lowered[0], _SUBSCRIPTS), text)
    return _GROUPED.sub(lambda number: _NO_DIGIT.sub("", number[0]), text)


def _spell_fraction(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("⁄", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


def _spell_raised(match: re.Match[str]) -> str:
    """ "⁻²" as "^-2"; a sign that stands alone is no power."""
    spelled = _spell_digits(match[0], _SUPERSCRIPTS)
    return spelled if spelled.strip("+-") == "" else "^" + spelled.removeprefix("+")


def _spell_digits(text: str, alphabet: str) -> str:
    return "".join("0123456789+-"[alphabet.index(char)] for char in text)


def plain_text(text: str) -> str:
    """`text` in plain characters, without Markdown and LaTeX dressing, single-spaced, blank lines dropped."""
    text = plain_characters(text)
    if "\n" in text or "\r" in text:
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    else:
        text = " ".join(text.split())
    return _undressed(text) if _DRESSED.search(text) else text


def _undressed(text: str) -> str:
    for pattern, replacement in _DRESSING:
        text = pattern.sub(replacement, text)
    for _ in range(MAX_NESTING):
        text, found = _WRAPPER.subn(r"\1", text)
        if not found:
            break
    text = _POWER_OF_TEN.sub(r"e\1", text)
    return _MINUS.sub("-", text).strip()
