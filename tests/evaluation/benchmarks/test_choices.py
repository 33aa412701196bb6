"""Reading a letter, worked by hand: strictly, and by the rules of MMMU and of VLMEvalKit with their quirks."""

from __future__ import annotations

import pytest

from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import BenchmarkItem, ItemScore, ModelReply
from look_again.evaluation.benchmarks.choices import (
    accuracies,
    by_group,
    guess,
    lmms_letter,
    matched_letter,
    mmmu_letter,
    reference_letter,
    score_choice,
    strict_letter,
)

COLOURS = ["red", "blue", "green", "cat"]

READINGS = [  # reply, strict, MMMU-Pro and lmms-eval, VLMEvalKit
    ("B", "B", "B", "B"),
    ("(B)", "B", "B", "B"),
    ("B.", "B", "B", "B"),
    ("B)", "B", None, "B"),  # MMMU's parser looks for "B " and "B." alone
    ("**B**", "B", None, "B"),
    ("[B]", "B", None, "B"),
    ("b", "B", None, None),
    ("(b)", "B", None, None),
    ("Option B", "B", "B", "B"),
    ("The answer is B", "B", "B", "B"),
    ("The answer is B because A is wrong", "B", "A", None),  # MMMU's parser takes the last letter
    ("The answer is (B) because A is wrong", "B", "B", None),
    ("Answer: B", "B", "B", "B"),
    ("Final answer: c", "C", None, None),
    (r"\boxed{C}", "C", None, "C"),
    (r"It could be A, but \boxed{\text{C}}", "C", None, None),
    ("blue", "B", None, "B"),
    ("It is blue.", "B", None, "B"),
    ('The thing is "blue", I think', "B", "B", "B"),
    ("The animal is a cat and it sleeps", "D", "D", None),
    ("A cat sits on the mat", "D", "A", "D"),  # an article, not option A
    ("A", "A", "A", "A"),
    ("red or blue", None, None, None),
    ("A or B", None, "B", None),
    ("A, B", None, "B", None),
    ("(A) or (B)", None, "B", None),
    ("not B", None, "B", "B"),
    ("It is a dog", None, None, None),
    ("E", None, None, None),  # there is no fifth option
    ("DNA is the key to it", None, "A", None),  # "DNA " ends in the letter A and a blank
    ("I cannot tell.", None, None, None),
    ("", None, None, None),
    ("Ｂ", "B", None, None),  # full width
    ("（Ｂ）", "B", None, None),
    ("Ⓑ", "B", None, None),
    ("𝐁", "B", None, None),
    ("В", None, None, None),  # a Cyrillic letter
    ("Β", None, None, None),  # a Greek one
    ("ª", None, None, None),  # a superscript
]


@pytest.mark.parametrize(("reply", "strict", "mmmu", "matched"), READINGS)
def test_readings(reply: str, strict: str | None, mmmu: str | None, matched: str | None) -> None:
    """A usual way to answer that is missed, a hedge that hits, an article taken for A; or an official rule bent."""
    assert strict_letter(reply, COLOURS) == strict
    assert lmms_letter(reply, COLOURS) == mmmu
    assert matched_letter(reply, COLOURS) == matched


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("red is not it, it has to be the green one", "C"),  # texts in more than five words, the last one
        ("it is the green one, not red", "A"),
        ("it is green, not red", None),  # five words
        ("(A) is wrong, B is right", "A"),  # brackets come first
        ("(C) (A)", "A"),
        ("A B C", "C"),
        ("'A.'", "A"),
        ("X.A.Y", "A"),
    ],
)
def test_lmms_letter_order_of_rules(reply: str, letter: str | None) -> None:
    """The official score bent by a rule out of order, or by the first candidate where it takes the last."""
    assert lmms_letter(reply, COLOURS) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) red", "B"),
        ("I take B now", "B"),
        ("The answer is B because A is wrong", "A"),  # the last one
        ("B. red", None),  # MMMU-Pro and lmms-eval read B
        ("DNA is the key to it", None),
        ("it is the green one, not red", "A"),
    ],
)
def test_mmmus_own_letter(reply: str, letter: str | None) -> None:
    """MMMU's rule taken from one of its successors."""
    assert mmmu_letter(reply, COLOURS) == letter


@pytest.mark.parametrize(
    ("reply", "before", "since"),
    [
        ("The correct answer is **B**. Here is why: A and C are too small", None, "B"),
        ("the answer is b, as far as one can see in this picture", None, "B"),
        ("The answer is not B but something that is green, I would say now", None, None),
        ("Failed to obtain answer via API B", None, None),
        ("It is blue", "B", "B"),
    ],
)
def test_the_two_versions_of_vlmevalkits_matching(reply: str, before: str | None, since: str | None) -> None:
    """Results of one version compared with those of another without knowing it."""
    assert matched_letter(reply, COLOURS) == before
    assert matched_letter(reply, COLOURS, verbose=True) == since


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("So, all in all, I take B", "B"),
        ("B is what I take, all in all", None),  # not among the last five words
        ("I take option B now", "B"),
        ("I choose B: blue", "B"),
        ("the red and the blue", None),
        ("I'm sorry, but without the image provided B", "Z"),
        ("Z", "Z"),
        ("the blue one" + "." * 40, None),  # longer than twice all options
    ],
)
def test_matched_letter_rules(reply: str, letter: str | None) -> None:
    """VLMEvalKit's matching read too kindly: a letter anywhere, or an option's text in an essay."""
    assert matched_letter(reply, COLOURS) == letter


def test_options_in_the_strict_reading() -> None:
    """Options that are numbers, or contain one another, matched by a piece of them."""
    assert strict_letter("It is 12 cm.", ["2 cm", "12 cm"]) == "B"
    assert strict_letter("the ice cream van", ["ice", "ice cream", "ice cream van"]) == "C"
    assert strict_letter("D", ["", "", "", ""]) == "D"
    assert strict_letter("E", ["", "", "", ""]) is None


def test_guess_is_the_same_each_time() -> None:
    """A score that changes from run to run, or a guess that is the same letter for all items."""
    ids = [f"validation_Art_{number}" for number in range(60)]
    letters = [guess(name, COLOURS) for name in ids]
    assert letters == [guess(name, COLOURS) for name in ids]
    assert set(letters) == set("ABCD")
    assert guess("validation_Art_1", ["red"]) == "A"


def test_letter_of() -> None:
    """A reference that no reply can match, found only in the score."""
    assert reference_letter(" B ", COLOURS, "r") == "B"
    for value, options in (("E", COLOURS), ("b", COLOURS), (1, COLOURS), (None, COLOURS), ("?", COLOURS)):
        with pytest.raises(SampleError, match=r"row 'r': answer is .*one of the letters A to D"):
            reference_letter(value, options, "r")
    for options in (["red"], ["x"] * 11):
        with pytest.raises(SampleError, match="options: 2 to 10"):
            reference_letter("A", options, "r")


def item(name: str, reference: str, **facts: str) -> BenchmarkItem:
    return BenchmarkItem(id=name, prompt="Q?", reference=reference, facts={"options": COLOURS, **facts})


def test_score_choice_counts_the_unparsed() -> None:
    """No answer as right, or as wrong but unseen; the CONCLUSION passed over for a letter in the reasoning."""
    one = score_choice(item("1", "B"), ModelReply("A A A", conclusion="B"), "A", guessed=False)
    assert (one.official, one.strict, one.extracted, one.unparsed) == (0.0, 1.0, "B", False)
    assert one.facts == {"official_answer": "A", "guessed": False}
    none = score_choice(item("2", "B"), ModelReply("B", conclusion=""), "B")
    assert (none.official, none.strict, none.extracted, none.unparsed) == (1.0, 0.0, None, True)


def test_accuracies_and_groups() -> None:
    """Unparsed items left out of the denominator; groups mixed up; a division by zero."""
    points = [ItemScore(official=1.0, strict=1.0), ItemScore(official=1.0, strict=0.0, unparsed=True)]
    points += [ItemScore(official=0.0, strict=0.0), ItemScore(official=0.0, strict=0.0)]
    assert accuracies(points) == {"accuracy": 0.5, "strict_accuracy": 0.25, "items": 4, "unparsed": 1}
    assert accuracies([]) == {"accuracy": None, "strict_accuracy": None, "items": 0, "unparsed": 0}
    items = [item(str(at), "A", subject=name) for at, name in enumerate(["b", "a", "b", "a"])]
    groups = by_group(items, points, ["subject"])
    assert list(groups) == ["subject/a", "subject/b"]
    assert groups["subject/a"] == {"accuracy": 0.5, "strict_accuracy": 0.0, "items": 2, "unparsed": 1}
    assert groups["subject/b"] == {"accuracy": 0.5, "strict_accuracy": 0.5, "items": 2, "unparsed": 0}
