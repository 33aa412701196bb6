"""Properties of readings: harmless wrapping changes none, and no wrapping or second answer turns a wrong one right."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.scoring.extraction import answer_kind, extract, score
from look_again.scoring.grading import grade

WRAPPERS = [
    "{}",
    "{}.",
    "**{}**",
    "**{}.**",
    "The answer is {}.",
    "The answer is {}",
    "The answer is **{}**.",
    "the correct answer is: {}",
    "Answer: {}",
    "**Answer:** {}",
    "Final answer: {}.",
    "The final answer is therefore {}.",
    "So the answer is {}, because the picture shows it.",
    "The answer is {}. The picture shows it.",
    "{}\nExplanation: the picture shows it.",
    "{}\n\nReasoning: it is so.",
    "<think>perhaps something else, 17 or Q</think>\n\n{}",
    "<think>The answer is 17</think>The answer is {}.",
    "<answer>{}</answer>",
    "答案是{}",
    "答案：{}。",
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$.",
    r"The answer is $\boxed{{{}}}$.",
    r"\boxed{{\text{{{}}}}}",
    "“{}”",
    "`{}`",
    " {} \n",
]
UNITS = ["cm", "m", "kg", "%", "seconds", "cm^2", "m/s", "cm²", "years", "degrees"]
OPTIONS = ["red cube", "blue ball", "2 A", "vitamin C", "None of the above"]

wrappers = st.sampled_from(WRAPPERS)
integers = st.integers(-999_999, 999_999)


def spellings(number: Fraction) -> list[str]:
    """Ways to write a number."""
    if number.denominator != 1:
        sign = "-" if number < 0 else ""
        a, b = abs(number.numerator), number.denominator
        return [f"{sign}{a}/{b}", rf"{sign}\frac{{{a}}}{{{b}}}", rf"{sign}\dfrac{{{a}}}{{{b}}}", f"{sign}{a}⁄{b}"]
    value = number.numerator
    plain = [str(value), f"{value}.0", f"{value:,}", f"{value:,}".replace(",", "'"), f"{value:,}".replace(",", "{,}")]
    plain += [f"{value:,}".replace(",", "\u2009"), f"{value:,}".replace(",", r"\,"), f"${value}$"]
    return plain + [text.replace("-", dash) for text in plain[:2] for dash in "–−－‑"]


@st.composite
def numbers(draw: st.DrawFn) -> tuple[Fraction, str]:
    value = draw(st.one_of(integers.map(Fraction), st.fractions(-50, 50, max_denominator=60)))
    return value, draw(st.sampled_from(spellings(value)))


@settings(max_examples=400, deadline=None)
@given(numbers(), wrappers)
def test_a_wrapped_number_is_that_number(number: tuple[Fraction, str], wrapper: str) -> None:
    """A sign, a digit group or a fraction lost between a wrapper and the reading."""
    value, text = number
    assert extract(wrapper.format(text), "number") == str(value)
    assert score(wrapper.format(text), str(value))


@settings(max_examples=300, deadline=None)
@given(numbers(), st.sampled_from(UNITS), wrappers)
def test_a_unit_that_the_reference_has_too_changes_nothing(
    number: tuple[Fraction, str], unit: str, wrapper: str
) -> None:
    value, text = number
    assert score(wrapper.format(f"{text} {unit}"), f"{value} {unit}")


@settings(max_examples=300, deadline=None)
@given(numbers(), numbers(), wrappers)
def test_a_wrong_number_stays_wrong(one: tuple[Fraction, str], other: tuple[Fraction, str], wrapper: str) -> None:
    right = one[0] == other[0] or (
        (one[0].denominator, other[0].denominator) != (1, 1) and abs(one[0] - other[0]) <= abs(other[0]) / 10**6
    )
    assert score(wrapper.format(one[1]), str(other[0])) == right


@settings(max_examples=300, deadline=None)
@given(
    integers,
    integers,
    st.sampled_from(
        [" or ", "; ", " / ", " & ", "、", ", ", " or maybe ", " and ", " | ", " to ", "–", "\n", ". Or ", "或"]
    ),
    wrappers,
)
def test_two_numbers_are_no_answer(one: int, other: int, link: str, wrapper: str) -> None:
    """A hedge that hits whatever the answer is."""
    if link == " / " or (link == "–" and other < 0) or one == other:
        return  # a fraction
    reply = wrapper.format(f"{one}{link}{other}")
    assert not score(reply, str(one)), reply
    assert not score(reply, str(other)), reply


LETTER_FORMS = ["{}", "({})", "{}.", "{})", "option {}", "[{}]", "({}).", "{}:"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"), st.sampled_from(LETTER_FORMS), wrappers)
def test_a_wrapped_letter_is_that_letter(letter: str, reference: str, form: str, wrapper: str) -> None:
    reply = wrapper.format(form.format(letter))
    assert extract(reply, "letter", OPTIONS) == letter, reply
    assert extract(reply, "letter") == letter, reply
    assert score(reply, reference, options=OPTIONS) == (letter == reference)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(["{1}", "({0}) {1}", "{0}. {1}", "{0}: {1}", "{0}) {1}", "{1} ({0})"]),
    wrappers,
)
def test_a_wrapped_option_is_that_option(at: int, reference: int, form: str, wrapper: str) -> None:
    """Content letters, and denials, in the options' texts."""
    reply = wrapper.format(form.format("ABCDE"[at], OPTIONS[at]))
    assert extract(reply, "letter", OPTIONS) == "ABCDE"[at], reply
    assert score(reply, OPTIONS[reference], options=OPTIONS) == (at == reference)


@settings(max_examples=200, deadline=None)
@given(
    st.permutations("ABCDE"), st.sampled_from([" or ", ", ", " and ", "/", " & ", "、", ". Or ", "\n", "或"]), wrappers
)
def test_two_letters_are_no_answer(letters: list[str], link: str, wrapper: str) -> None:
    reply = wrapper.format(f"{letters[0]}{link}{letters[1]}")
    assert extract(reply, "letter", OPTIONS) is None, reply
    assert extract(reply, "letter") is None, reply


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["yes", "no", "Yes", "No", "YES"]), wrappers)
def test_a_wrapped_yes_or_no(answer: str, wrapper: str) -> None:
    assert extract(wrapper.format(answer), "yesno") == answer.lower()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["red", "a red ball", "Eiffel Tower", "blue-green", "St Louis", "two dogs"]), wrappers)
def test_wrapped_words(words: str, wrapper: str) -> None:
    assert score(wrapper.format(words), words)
    assert not score(wrapper.format(words), "green")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms(), wrappers)
def test_bare_lists_are_sets_and_tuples_are_not(items: list[int], random: object, wrapper: str) -> None:
    """The order of a list's items paid, or that of a tuple's not."""
    shuffled = sorted(items)
    reference = ", ".join(map(str, items))
    assert score(wrapper.format(", ".join(map(str, shuffled))), reference)
    assert score(wrapper.format(r"\{" + ",".join(map(str, shuffled)) + r"\}"), reference)
    assert not score(wrapper.format(", ".join(map(str, [*shuffled[1:], 99]))), reference)
    if shuffled != items:
        assert not score(f"({', '.join(map(str, shuffled))})", f"({reference})")
        assert not score(f"[{', '.join(map(str, shuffled))}]", f"[{reference}]")


EXPRESSIONS = [r"2\sqrt{3}", r"x^2+1", r"\frac{x+1}{2}", r"(3, 4)", r"[0, 1)", r"e^{2}", r"\frac{\pi}{4}"]


@pytest.mark.parametrize("wrapper", [w for w in WRAPPERS if "text" not in w and "“" not in w and "`" not in w])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_wrapped_expressions(expression: str, wrapper: str) -> None:
    """Free-form mathematics lost, or made right, by words around it."""
    pytest.importorskip("math_verify")
    reply = wrapper.format(f"${expression}$" if "boxed" not in wrapper else expression)
    assert grade([reply, reply], [expression, r"7\sqrt{5}"]) == [True, False], reply


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["letter", "yesno", "number", "words"]))
def test_any_text_is_read_and_read_again_the_same(text: str, kind: str) -> None:
    found = extract(text, kind)  # type: ignore[arg-type]
    assert found is None or kind == "words" or extract(found, kind) == found  # type: ignore[arg-type]
    if found and kind == "number":
        assert answer_kind(found) == "number"
