"""The accuracy reward on every kind of reference, and the data sets and installations that must stop a run."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from look_again.extras import MissingExtraError
from look_again.rl.rewards import AccuracyReward, accuracy_reward
from look_again.scoring.grading import UnusableReferenceError


def concluding(answer: str) -> str:
    """A well-formed response with this answer."""
    return (
        "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING><REFLECTION>l</REFLECTION>"
        f"<CONCLUSION>{answer}</CONCLUSION>"
    )


GOOD = concluding("B")


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Yes, there is.", "yes", 1.0),
        ("No", "Yes", 0.0),
        ("yes and no", "yes", 0.0),
        ("The answer is 3.", "3", 1.0),
        ("3", 3, 1.0),
        ("0.5", 0.5, 1.0),
        ("3 or 4", "3", 0.0),
        ("Red.", "red", 1.0),
        ("red or blue", "red", 0.0),
        ("", "?", 0.0),
        ("12", r"So we add 5 to 7 and get \boxed{12}.", 1.0),
        ("1/2", r"\boxed{1}, or rather \boxed{\frac{1}{2}}, as above", 1.0),
    ],
)
def test_every_kind_gets_a_number(answer: str, reference: Any, right: float) -> None:
    """A kind of reference for which the reward is None, which TRL drops in silence; a worked solution never matched."""
    assert accuracy_reward([concluding(answer)], solution=[reference]) == [right]


def test_options_are_used() -> None:
    """The answer in the option's words missed, or the rows without choices broken by the column."""
    completions = [concluding("the red cube"), concluding("3")]
    options = [["blue cube", "red cube"], None]
    assert accuracy_reward(completions, reference=["B", "3"], options=options) == [1.0, 1.0]
    assert accuracy_reward(completions, reference=["A", "3"], options=options) == [0.0, 1.0]


def test_reference_columns() -> None:
    """A worked solution taken although the data set has the answer too; a named column ignored."""
    columns = {"solution": ["C"], "answer": ["B"], "key": ["D"]}
    assert accuracy_reward([GOOD], **columns) == [1.0]
    assert AccuracyReward("solution")([GOOD], **columns) == [0.0]
    with pytest.raises(ValueError, match="'gold' among"):
        AccuracyReward("gold")([GOOD], **columns)
    with pytest.raises(ValueError, match="'reference' or 'answer' or 'solution'"):
        accuracy_reward([GOOD], key=["B"])
    with pytest.raises(ValueError, match="'answer' has 2 entries for 1 "):
        accuracy_reward([GOOD], answer=["B", "B"])
    with pytest.raises(ValueError, match="'answer' has 1 entries for 1 "):
        accuracy_reward([GOOD], answer="B")


@pytest.mark.parametrize("reference", [None, "", " \n", "$$", float("nan"), True, ["B"], "word " * 101])
def test_unusable_references_are_named(reference: Any) -> None:
    """A row without a reference skipped in silence, or a run that dies without saying which row."""
    with pytest.raises(UnusableReferenceError, match=r"row 1 \(id 'q7'\): reference.*; row 2 \(id 'q8'\): "):
        accuracy_reward([GOOD] * 3, answer=["B", reference, reference], id=["q6", "q7", "q8"])


def test_many_unusable_references_make_one_short_error() -> None:
    """A page of errors, one for each row of the data set."""
    with pytest.raises(UnusableReferenceError, match=r"^row 0: .*; row 4: [^;]*; and 3 more$"):
        accuracy_reward([GOOD] * 8, answer=[None] * 8)


@pytest.mark.parametrize(
    ("reference", "needed"),
    [(r"2\sqrt{3}", True), ("(3, 4)", True), ("x - 1", True), ("B", False), ("yes", False), ("12 cm", False)]
    + [(word, False) for word in ("red", "AC/DC", "3-4", "12 apples", "black-and-white", "3:30", "H2O", r"\text{red}")],
)
def test_extra_is_needed_for_free_form_mathematics_only(
    reference: str, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """math-verify asked of people who train on choices and words, or its absence scored as a wrong answer."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if not needed:
        assert accuracy_reward([concluding("C")], answer=[reference]) == [0.0]
        return
    with pytest.raises(MissingExtraError, match=r"look-again-vlm\[eval\]"):
        accuracy_reward([""], answer=[reference])
