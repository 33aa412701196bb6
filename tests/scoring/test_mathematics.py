"""Free-form mathematics: which references count as such, what is read as an expression, and what math-verify says."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

from look_again.scoring.grading import boxed, grade
from look_again.scoring.mathematics import MAX_CHARACTERS, expression, is_mathematics, same_mathematics

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


MATHEMATICS = [
    r"2√3",
    r"$2\sqrt{3}$",
    r"sqrt(2)",
    r"(3, 4)",
    r"[0,1)",
    r"\{1,2\}",
    r"x-1",
    r"2x",
    r"x_1",
    r"a/b",
    r"e^x",
    r"3 + 4i",
    r"-π",
    r"x > 3",
    r"log(2)",
]
MATHEMATICS += [r"\frac{1}{2}\pi", r"AB = CD", r"\overrightarrow{AB}", r"(x+1)(x-1)", r"x=2 or x=3"]
OTHERS = [
    r"B",
    r"x",
    r"yes",
    r"12 cm",
    r"\frac{1}{2}",
    r"x = 3",
    r"red",
    r"A+",
    r"C++",
    r"and/or",
    r"T-shirt",
    r"x-ray",
    r"AC/DC",
    r"3D",
    r"3-4",
    r"2023-05-01",
    r"3:4",
]
OTHERS += [r"1/2 cup", r"12 apples", r"(a) and (b)", r"a tan cat", r"log cabin", r"H2O", r"A -> B", r"\text{red}"]


@pytest.mark.parametrize("reference", MATHEMATICS)
def test_mathematics(reference: str) -> None:
    """An expression compared as words: right answers that are written in another way get nothing."""
    assert is_mathematics(reference)


@pytest.mark.parametrize("reference", OTHERS)
def test_not_mathematics(reference: str) -> None:
    """math-verify asked for, or a range read as a difference: 3-4 is not -1."""
    assert not is_mathematics(reference)


def test_an_option_is_a_letter() -> None:
    """A choice between formulas graded as a formula instead of by its letter."""
    assert is_mathematics("2x")
    assert not is_mathematics("2x", ["2x", "3x"])


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (r"$2\sqrt{3}$", r"2\sqrt{3}"),
        (r"\(2\sqrt{3}\).", r"2\sqrt{3}"),
        (r"The length is $2\sqrt{3}$ metres.", r"2\sqrt{3}"),
        (r"The answer is 2\sqrt3.", r"2\sqrt{3}"),
        ("Answer: 2√3", r"2\sqrt{3}"),
        ("**2 sqrt(x+1)**", r"2 \sqrt{x+1}"),
        ("x**2", "x^2"),  # not x2, which is 2x
        ("$3$ or $4$", "3 or 4"),  # stays a choice
        (r"$2\sqrt{3}$ or 5", r"2\sqrt{3} or 5"),
        (r"$2\sqrt{3}$ or the other one", r"2\sqrt{3} or the other one"),
        (r"not $2\sqrt{3}$", None),
        (r"It isn't $2\sqrt{3}$", None),
        ("", None),
        (" . ", None),
        ("x+" * MAX_CHARACTERS, None),
    ],
)
def test_expression(text: str, latex: str | None) -> None:
    """A hedge or a denial reduced to the right half of it, or an everyday way to write an answer not read."""
    assert expression(text) == latex


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{", None),
        ("}{", None),
        (r"\boxed{" * 10_000, None),
    ],
)
def test_boxed(text: str, content: str | None) -> None:
    """The content cut at its first brace, or an open box that raises."""
    assert boxed(text) == content


PAIRS = [
    (r"2\sqrt{3}", r"$2\sqrt{3}$", True),
    (r"The answer is $\sqrt{12}$.", r"2\sqrt{3}", True),
    ("2√3 cm", r"2\sqrt{3}", True),
    (r"$\boxed{2\sqrt{3}}$", r"2\sqrt{3}", True),
    (r"AB = 2\sqrt{3}", r"2\sqrt{3}", True),
    (r"3\sqrt{2}", r"2\sqrt{3}", False),
    ("12", r"12\sqrt{3}", False),  # bare LaTeX read up to its first number
    (r"$2\sqrt{3}$ or $3\sqrt{2}$", r"2\sqrt{3}", False),
    (r"2\sqrt{3}, 3\sqrt{2}", r"2\sqrt{3}", False),
    (r"not $2\sqrt{3}$", r"2\sqrt{3}", False),
    ("(x+1)^2", "x^2 + 2x + 1", True),
    ("x**2", "2x", False),
    ("(3,4)", "(3, 4)", True),
    ("(4, 3)", "(3, 4)", False),
    ("x = 3 or x = 2", "x=2 or x=3", True),
    ("x = 2", "x=2 or x=3", False),
    ("0 = 0", "y = 2x + 1", False),
    ("", r"2\sqrt{3}", False),
    ("}{", r"2\sqrt{3}", False),
]


@needs_math_verify
def test_equal_expressions() -> None:
    """Equal expressions kept apart, different or hedged ones made equal."""
    got = same_mathematics([(prediction, reference) for prediction, reference, _ in PAIRS])
    assert got == [same for _, _, same in PAIRS]


@needs_math_verify
def test_outside_the_main_thread() -> None:
    """math-verify's timeouts use signals, which raise in any other thread."""
    pairs = [(r"\sqrt{12}", r"2\sqrt{3}"), (r"\sqrt{13}", r"2\sqrt{3}")]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(same_mathematics, pairs).result() == [True, False]


@needs_math_verify
def test_grading_mixes_kinds() -> None:
    """Answers and results of the free-form rows shifted against the others."""
    answers = ["B", r"\sqrt{12}", None, "2x", "3", r"\sqrt{5}"]
    references = ["B", r"2\sqrt{3}", "2x", "x*2", "4", r"2\sqrt{3}"]
    assert grade(answers, references) == [True, True, False, True, False, False]


@needs_math_verify
def test_what_is_equal_as_written_stays_right() -> None:
    """An answer that repeats the reference graded wrong because the reference is too long to be read."""
    long = " + ".join(["x^2"] * 60)
    assert same_mathematics([(long, long)]) == [False]
    assert grade([long], [long]) == [True]
