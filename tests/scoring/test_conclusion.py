"""What of a reply is its answer: reasoning, boxes, cues and explanations, by hand-worked tables."""

from __future__ import annotations

import pytest

from look_again.scoring.conclusion import conclude, concluding_part, without_reasoning
from look_again.scoring.normalisation import plain_characters, plain_text


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("No", "No"),
        ("<think>maybe yes, there is a dog</think>\n\nNo", "No"),
        ("<Thinking>yes</Thinking> No", "No"),
        ("<thought>yes</thought>No", "No"),
        ("◁think▷yes◁/think▷No", "No"),
        ("maybe yes</think>No", "No"),  # the template opened it
        ("No <think>or yes?</think>", "No"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("<think>yes, it never ends", ""),
        ("x < y and y > z", "x < y and y > z"),
        (" <b>No</b> ", " <b>No</b> "),
    ],
)
def test_inline_reasoning_is_no_answer(reply: str, rest: str) -> None:
    """A word of the model's reasoning paid, or counted, as its answer."""
    assert without_reasoning(reply) == rest


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *((f"{dash}3", "-3") for dash in "–—－‐‑﹣−‒―⁻⁃"),
        ("10⁴", "10^4"),
        ("10⁻³", "10^-3"),
        ("Na⁺", "Na+"),
        ("x₁", "x_1"),
        ("2½", "2 1/2"),
        ("-½", "-1/2"),
        ("3⁄4", "3/4"),
        ("12'345", "12345"),
        ("12’345", "12345"),
        ("1'000'000", "1000000"),
        ("12\u2009345", "12345"),
        ("12\u202f345", "12345"),
        ("12\u00a0345", "12345"),
        ("12{,}345", "12345"),
        (r"12\,345", "12345"),
        (r"12\ 345", "12345"),
        ("12'34", "12'34"),
        ("12'3456", "12'3456"),
        ("5'10", "5'10"),
        ("1{,}23", "1{,}23"),
        ("（Ｂ）", "(B)"),
        ("Ⓑ 𝐁 ⒝ 🅱️ 🅑", "B B (b) B B"),
        ("В Β ª ſ ı", "В Β ª ſ ı"),  # Cyrillic, Greek, a superscript, a long s, a dotless i
        ("３③𝟑", "333"),
        ("３，４", "3, 4"),
        ("B。", "B. "),
        ("12 ㎡", "12 m^2"),
        ("20 ℃", "20 °C"),
        ("B\u200b\ufeff", "B"),
        ("50％", "50%"),
        ("№ 5", "№ 5"),  # not "No 5"
    ],
)
def test_plain_characters(text: str, plain: str) -> None:
    """A minus sign lost to a look-alike, a digit group cut in two, a foreign letter taken for a Latin one."""
    assert plain_characters(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\boxed{\text{B}}", "B"),
        (r"$\mathbf{\text{(B)}}$", "(B)"),
        (r"5~\mathrm{cm}", "5 cm"),
        (r"3\,4", "3 4"),  # not 34
        (r"3\quad 4", "3 4"),
        (r"3 \times 10^{4}", "3e4"),
        (r"1\frac{1}{2}", "1 1/2"),
        ("a\n\n\n  b\tc", "a\nb c"),
        ("<answer> B </answer>", "B"),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    """Dressing that stays between an answer and its reading, or that fuses two tokens into one."""
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("reply", "clause"),
    [
        ("B", "B"),
        ("The answer is B.", "B"),
        ("ANSWER: B", "B"),
        ("The correct option is (B), because A is smaller.", "(B)"),
        ("My choice would be B; A is wrong", "B"),
        ("The answer to this question is therefore B.", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("The answer is 3; 4", "3; 4"),
        ("The answer is 3. Or 4.", "3. Or 4"),
        ("The answer is 3\n4", "3\n4"),
        ("The answer is 3. 4 are blue.", "3"),
        ("答案是B", "B"),
        ("因此答案是B，因为A太小", "B"),
        ("应选B", "B"),
        ("B\nExplanation: A is wrong.", "B"),
        ("B\nReasoning: the result is larger.", "B"),
        ("B\n解析：A错", "B"),
        (r"So x = 3, \boxed{4}", "4"),
        (r"\boxed{3} no, \boxed{4}", "4"),
        (r"\boxed{3} or \boxed{4}", "3, 4"),
        (r"\boxed{3}, \boxed{4}", "3, 4"),
        (r"\boxed{4} and again \boxed{4}", "4"),
        ("x <answer>B</answer> y", "B"),
    ],
)
def test_the_clause_of_a_conclusion(reply: str, clause: str) -> None:
    """An explanation read as the answer, a second answer cut off, a box passed over."""
    assert conclude(reply).clause.rstrip(" .") == clause


def test_the_concluding_part_keeps_its_latex() -> None:
    """An expression read with the reasons behind it, or its roots dressed down to words."""
    assert concluding_part(r"The answer is $2\sqrt{3}$, because it is.") == r"$2\sqrt{3}$"
    assert concluding_part("2\\sqrt{3}\nExplanation: 12 = 4 times 3") == r"2\sqrt{3}"
    assert concluding_part(r"<think>3</think>\boxed{2\sqrt{3}}") == r"2\sqrt{3}"


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        r"\boxed{",
        "<answer>",
        "answer is ",
        "3; ",
        "12'345",
        "½",
        "⁴",
        "\n\n",
        "答案",
        "~",
        "(",
        "no, ",
        "or ",
    ],
)
def test_long_repetitions_are_linear(piece: str) -> None:
    """Backtracking: quadratic work on 200,000 characters takes minutes."""
    conclude(piece * (200_000 // len(piece)) + "z")
    concluding_part(piece * (200_000 // len(piece)) + "z")
