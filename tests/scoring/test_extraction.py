"""The scorer, by hand-worked tables: what counts, what does not, and what is not read at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.scoring.extraction import answer_kind, extract, score
from look_again.scoring.normalisation import plain_text

COLOURS = ["blue cube", "red cube", "cube"]


@pytest.mark.parametrize(
    ("reference", "options", "kind"),
    [
        ("B", None, "letter"),
        ("(B)", None, "letter"),
        ("J.", None, "letter"),
        ("b", None, "words"),  # a variable, unless there are options
        ("b", ["1", "2"], "letter"),
        ("K", None, "words"),
        ("AB", None, "words"),
        ("red cube", COLOURS, "letter"),
        ("2", ["1", "2"], "letter"),
        ("2", ["2", "2"], "number"),  # names no single option
        ("B", [], "letter"),  # data sets give [] for "no choices"
        ("Yes.", None, "yesno"),
        ("no", None, "yesno"),
        ("Yes, it is", None, "words"),
        ("12", None, "number"),
        ("12 cm", None, "number"),
        ("50%", None, "number"),
        (r"50\%", None, "number"),
        ("three", None, "number"),
        (r"$\frac{1}{2}$", None, "number"),
        ("x = 3", None, "number"),
        ("two dogs", None, "words"),
        ("12 apples", None, "words"),
        (r"2\sqrt{3}", None, "words"),
        ("(3, 4)", None, "words"),
        ("3:30", None, "words"),
        ("3 or 4", None, "words"),
        ("?", None, "words"),
    ],
)
def test_kind_of(reference: str, options: list[str] | None, kind: str) -> None:
    """A reference read as the wrong kind, so that right answers are scored by the wrong rule."""
    assert answer_kind(reference, options) == kind


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("[b]", "B"),
        ("**B**", "B"),
        (r"$\boxed{B}$", "B"),
        ("Option B", "B"),
        ("option (b)", "B"),
        ("The answer is B", "B"),
        ("The correct answer is (B) red cube.", "B"),
        ("Answer: B\nBecause A is blue", "B"),
        ("The answer is B, since C is blue.", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("B) red cube", "B"),
        ("B. red cube", "B"),
        ("b: a red cube", "B"),
        ("B, the red cube", "B"),
        ("B. It is larger than A.", "B"),
        ("I think it is B", "B"),
        ("a", "A"),
        ("A", "A"),
        ("The answer is A because it is red", "A"),
        ("A is correct", "A"),
        # not letters: articles, pronouns, parts of words and formulas
        ("A red ball", None),
        ("The answer is a red ball", None),
        ("I see nothing", None),
        ("Banana", None),
        ("f(b) is larger", None),
        ("the A-frame", None),
        ("b is it", None),
        ("ı", None),  # dotless i, an I to a case-insensitive match
        # more than one, or denied
        ("A or B", None),
        ("The answer is A or B", None),
        ("A, B", None),
        ("A) red B) blue", None),
        ("Option A, not B", None),
        ("The answer is not B", None),
        ("neither B", None),
        ("It isn’t B", None),
        ("A. B. C. D.", None),
        ("A: red\nB: blue", None),
        ("K", None),
        ("", None),
    ],
)
def test_letters(prediction: str, letter: str | None) -> None:
    """The article read as option A, a hedge that always hits, a common way to answer that is missed."""
    assert extract(prediction, "letter") == letter


@pytest.mark.parametrize(
    ("prediction", "options", "letter"),
    [
        ("Red cube.", COLOURS, "B"),
        ("the answer is a red cube", COLOURS, "B"),
        ("It is the red cube.", COLOURS, "B"),  # "cube" occurs only inside the longer option
        ("A red cube", COLOURS, "B"),
        ("the cube", COLOURS, "C"),
        ("red cube or blue cube", COLOURS, None),
        ("not the red cube", COLOURS, None),
        ("Option A, the red cube", COLOURS, None),  # contradicts itself
        ("D", COLOURS, None),  # there is no D
        ("Vitamin C", ["vitamin B", "vitamin C"], "B"),
        ("3.0 cm", ["2 cm", "3 cm"], "B"),
        ("The answer is -2", ["2", "-2"], "B"),
        ("4", ["2", "3"], None),
        ("No, it isn't", ["Yes", "No"], "B"),
        ("x", ["x", "x"], None),
        ("see x there", ["x", "x"], None),
        ("", ["", " "], None),
    ],
)
def test_letters_with_options(prediction: str, options: list[str], letter: str | None) -> None:
    """An answer in the option's words missed, or one that fits several options counted."""
    assert extract(prediction, "letter", options) == letter


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Yes", "yes"),
        ("**yes**, there is", "yes"),
        ("No.", "no"),
        ("No, there is no dog", "no"),
        ("Yes, there is no doubt", "yes"),
        ("Yes, it is not moving", "yes"),
        ("No dog is there", "no"),
        ("The answer is no because it is empty", "no"),
        ("Is there a dog? No", "no"),
        ("I would say yes", "yes"),
        ("not", None),
        ("There is not a dog", None),
        ("The answer is not yes", None),
        ("I can't say yes", None),
        ("There is no dog", None),
        ("yes or no", None),
        ("No or yes", None),
        ("Yes/No", None),
        ("Yes. No.", None),
        ("yes\nno", None),
        ("Yesterday in Norway", None),
        ("", None),
    ],
)
def test_yes_no(prediction: str, answer: str | None) -> None:
    """A denial, a hedge or a word that only begins like "yes" counted as an answer."""
    assert extract(prediction, "yesno") == answer


@pytest.mark.parametrize(
    ("prediction", "number"),
    [
        ("3", "3"),
        ("3.0", "3"),
        ("-2", "-2"),
        ("−2", "-2"),
        ("minus two", "-2"),
        ("+4", "4"),
        (".5", "1/2"),
        ("1,234", "1234"),
        ("$1,234.50", "2469/2"),
        ("1e3", "1000"),
        (r"3 \times 10^{4}", "30000"),
        ("12 cm", "12"),
        ("12cm^2", "12"),
        ("12 m^{2}", "12"),
        (r"$12\text{ cm}^2$", "12"),
        (r"90^\circ", "90"),
        ("50%", "50"),
        ("The answer is 3.", "3"),
        ("The answer is 3. 4 are blue.", "3"),
        ("The answer is 3, since 5 - 2 = 3", "3"),
        ("The answer is:\n$$x = 12$$", "12"),
        ("3 + 4 = 7", "7"),
        ("x = 3 for all 4 balls", "3"),
        ("The answer is 3 of the 4 balls", "3"),
        ("Figure 2 shows 5", "5"),
        ("5 is the larger one", "5"),
        ("Three.", "3"),
        ("1/2", "1/2"),
        (r"$-\frac{1}{2}$", "-1/2"),
        (r"\dfrac12", "1/2"),
        ("1 1/2", "3/2"),
        (r"1\frac{1}{2}", "3/2"),
        (r"\boxed{12}", "12"),
        ("x_1 = 3", "3"),
        ("12 345", "12345"),
        ("10^4", "10000"),
        # several, part of an expression, denied, or no number at all
        ("3 or 4", None),
        (r"\sqrt{36} or 5", None),
        ("3 or four", None),
        ("The answer is 3 or 4", None),
        ("x = 2 or x = 3", None),
        ("3, 4", None),
        ("1,23", None),
        ("3-4", None),
        ("2:30", None),
        ("2023-05-01", None),
        ("1.2.3", None),
        ("2x + 1", None),
        ("x - 2", None),
        ("x > 3", None),
        (r"2\sqrt{3}", None),
        (r"\sqrt{3}", None),
        ("3π", None),
        ("3 million", None),
        ("twenty-one", None),
        ("two thirds", None),
        ("the 2nd", None),
        ("It is not 3", None),
        ("1/0", None),
        ("H2O", None),
        ("ſix", None),  # a long s, which a case-insensitive match takes for s
        ("fİve", None),
        ("9" * 65, None),
        ("1e999999999", None),
        ("", None),
    ],
)
def test_numbers(prediction: str, number: str | None) -> None:
    """A number picked out of a list, an expression or a hedge; a notation missed; a reading that crashes."""
    assert extract(prediction, "number") == number


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("1000001", "1000000", False),  # within the tolerance, but integers are exact
        ("0.333333", "1/3", True),
        ("0.333332", "1/3", False),
        ("3.1415926", "3.14159265", True),
        ("0.0000001", "0", False),
        ("0.5", r"\frac{1}{2}", True),
        ("50%", "0.5", False),
        ("50", "50%", True),
        ("12", "12 cm", True),
        ("three", "3", True),
        ("3", "-3", False),
        ("12345678901234567890", "12345678901234567891", False),  # equal as floats
        ("Red ball.", "a red ball", True),
        ("**The** “red” ball!", "red ball", True),
        ("The answer is red.", "Red", True),
        ("black-and-white", "black and white", True),
        ("a red", "a red ball", False),
        ("redball", "red ball", False),
        ("vitamin A", "vitamin", False),
        ("line A B", "line B", False),
        ("grade A student", "grade student", False),
        ("A x", "x", False),
        ("x+1", "x-1", False),
        ("(0,1)", "[0,1]", False),
        ("[0, 1]", "[0,1]", True),
        ("n!", "n", False),
        ("-x", "x", False),
        ("STRASSE", "straße", True),
        ("", "red", False),
        ("...", "?", False),
        ("The answer is", "red", False),
    ],
)
def test_scores_without_options(prediction: str, reference: str, same: bool) -> None:
    """Different answers made equal by rounding or by normalising, or equal ones kept apart."""
    assert score(prediction, reference) is same


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "same"),
    [
        ("B", "red cube", COLOURS, True),
        ("red cube", "b", COLOURS, True),
        ("(A)", "B", COLOURS, False),
        ("A red cube", "A", COLOURS, False),  # the article, again
        ("3", "B", ["2", "3"], True),
        ("2", "B", ["2", "3"], False),
        ("B", "3", ["2", "3"], True),
        ("A", "A", ["C", "A", "B"], True),  # a lone letter names, it does not quote
        ("Yes", "B", ["Yes", "No"], False),
        ("red", "red", [], True),
    ],
)
def test_scores_with_options(prediction: str, reference: str, options: list[str], same: bool) -> None:
    """Letter and option text not brought to the same name before they are compared."""
    assert score(prediction, reference, options=options) is same


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        (" \n", None, "blank"),
        ("$$", None, "blank"),
        ("E", ["1", "2"], "'E' is none of the 2 options"),
        ("A", ["x"] * 11, "11 options"),
    ],
)
def test_unusable_references_are_errors(reference: str, options: list[str] | None, message: str) -> None:
    """A broken data row that silently scores 0 for every answer."""
    with pytest.raises(ValueError, match=message):
        score("B", reference, options=options)


def test_unknown_kind_is_an_error() -> None:
    """A misspelt kind that falls through to some default."""
    with pytest.raises(ValueError, match="'digits'"):
        extract("3", "digits")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("piece", "reference"),
    [
        ("1,", "7"),
        ("1,111,1111,", "7"),
        ("1/", "7"),
        ("1 ", "7"),
        ("- ", "7"),
        ("=", "7"),
        (r"\frac{1}{", "7"),
        (r"\text{", "red"),
        ("a-b-", "red"),
        ("yes ", "no"),
        ("(A", "B"),
        ("answer is ", "B"),
    ],
)
def test_long_repetitions_are_linear(piece: str, reference: str) -> None:
    """Backtracking: quadratic work on 200,000 characters takes minutes."""
    assert not score(piece * (200_000 // len(piece)) + " z", reference)


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from([*"AaBI()/.,-+=^{}0123456789 \n", " or ", "answer is ", "yes", "no", "not ", "six", r"\frac"])
    ).map("".join),
)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_is_scored_and_equals_itself_when_read(prediction: str, reference: str) -> None:
    """Odd input that crashes the reward, and readings that change when they are read again."""
    if not plain_text(reference.translate(dict.fromkeys(map(ord, "$`*_°\\")))):
        return
    assert score(prediction, reference) in (True, False)
    assert score(reference, reference)
    for kind in ("letter", "yesno", "number"):
        found = extract(prediction, kind)
        assert found is None or extract(found, kind) == found


QUANTITIES = [  # answer, reference, whether it agrees
    ("5 m", "5 cm", False),
    ("5cm", "5 m", False),
    ("500 cm", "5 m", True),
    ("5", "5 m", True),
    ("5 m", "5", True),
    ("5 kg", "5 m", False),
    ("5 m^2", "5 m", False),
    ("5 square meters", "5 m²", True),
    ("9 cm²", "9 cm^{2}", True),
    ("The area is 9 cm", "9 cm²", False),
    ("12 in total", "12 cm", True),
    ("12 in.", "12 cm", False),
    ("12 in", "12 inches", True),
    ("50%", "50", True),
    ("50 cm", "50%", False),
    ("20 degrees", "20 °C", True),
    ("20 degrees Fahrenheit", "20 degrees Celsius", False),
    ("60 minutes", "1 hour", True),
    ("1/2 hour", "30 min", True),
    ("36 km/h", "10 m/s", True),
    ("10 km/h", "10 m/s", False),
    ("3 m/s", "3 m/s²", False),
    ("2 l", "2000 ml", True),
    ("1 L", "1000 cm^3", True),
    ("12 months", "1 year", True),
    ("5 years", "5 days", False),
    (r"$5 \text{ cm}$", "5 m", False),
    (r"\boxed{9\,\text{cm}}", "9 cm", True),
    ("5 apples", "5 m", True),
]


@pytest.mark.parametrize(("answer", "reference", "agrees"), QUANTITIES)
def test_two_units_are_converted_or_disagree(answer: str, reference: str, agrees: bool) -> None:
    """A right number in a wrong unit is a wrong answer, and a reward for it teaches to drop units."""
    assert score(answer, reference) is agrees


@pytest.mark.parametrize(
    ("answer", "reference", "agrees"),
    [
        ("是", "是", True),
        ("是的。", "是", True),
        ("答案是否", "否", True),
        ("不是", "否", True),
        ("否", "是", False),
        ("是的", "yes", True),
        ("没有, 图中只有猫", "no", True),
        ("是否有狗", "yes", False),
    ],
)
def test_yes_and_no_in_chinese(answer: str, reference: str, agrees: bool) -> None:
    assert score(answer, reference) is agrees
