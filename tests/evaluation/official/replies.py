"""Replies that the official rules were compared on: drawn from pieces in which those rules differ, by a fixed seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

N = 6_000  # replies per benchmark and kind of question

OPTIONS = ("red", "a blue ball", "Green", "none of them")
TEN_OPTIONS = tuple(f"item {number}" for number in range(10))
OPEN_ANSWERS = ("12", "3.50", "1000", "red", "x", "a blue ball", "-2.0")

_LETTERS = [
    "A",
    "B",
    "C",
    "D",
    "(A)",
    "(B)",
    "(D)",
    "A.",
    "C.",
    "B)",
    "b",
    "a",
    "DNA",
    "I",
    "E",
    "Z",
    "**B**",
    "[C]",
    "B:",
]
_TEXTS = [
    "red",
    "a blue ball",
    "green",
    "None of them",
    "ball",
    "item 3",
    "12",
    "3.5",
    "1,000",
    "-2",
    "1e3",
    "$5$",
    "0.5",
]
_WORDS = [
    "is",
    "the answer",
    "The answer is",
    "because",
    "not",
    "final",
    "so",
    "could be",
    "option",
    "Answer:",
    "answer is",
]
_WORDS += [
    "correct answer is",
    "it",
    "=",
    "Sorry, I can't help with images of people yet.",
    "Cannot determine the answer",
]
_MARKS = [".", ",", "\n", ":", "!", "'", "x", "#", "**", ";"]
_YES_NO = [
    "Yes",
    "No",
    "yes",
    "no",
    "not",
    "NO",
    "YES",
    "None",
    "know",
    "It is",
    "there",
    ".",
    ",",
    "a dog",
    "\n",
    "**Yes**",
    "'",
]
_NUMBERS = ["6", "6.00", "6.004", "6.01", "0.5", "1/2", ".5", "12", "100", "-3", "1,000", "7", "60", "1e3", "2.5"]
_LATEX = [
    r"\frac{1}{2}",
    r"\frac12",
    r"\dfrac{1}{2}",
    r"2\sqrt{3}",
    r"\sqrt{12}",
    r"3\pi",
    r"\sqrt 4",
    r"\sqrt{2}",
    "x+1",
    "2x",
]
_LATEX += [r"(1,2)", r"(1, 2)", r"[1,2]", r"\pi", r"2^3", r"\frac{\sqrt{3}}{2}", r"3:2", r"1:2", r"\text{6}", "e"]
_UNITS = ["", "", "", " cm", "km", " units", r"\%", "%", r"^\circ", r"^{\circ}", r"\text{ cm}", " m^3", r"\,", "."]
_FORMS = [
    "{}",
    "{}",
    "{}.",
    "${}$",
    r"\boxed{{{}}}",
    r"The answer is {}.",
    "the final answer is {}",
    "x = {}",
    "**{}**",
]
_FORMS += [
    r"so \boxed{{{}}}.",
    r"The answer is $\boxed{{{}}}$.",
    "It is {}.",
    "({})",
    "The answer should be {}. Really",
    "{}\nok",
]
_FORMS += [r"\boxed{{1}} no, \boxed{{{}}}", "= {}", r"\approx {}", "the correct answer is {}", " {} "]
_NOUNS = [
    "dog",
    "dogs",
    "couch",
    "sofa",
    "couch/sofa",
    "hot dog",
    "dining table",
    "toilet seat",
    "toilet",
    "seat",
    "men",
]
_NOUNS += [
    "women",
    "baby bear",
    "bus",
    "buses",
    "wine glass",
    "wine glasses",
    "knives",
    "man/woman",
    "tv",
    "laptop computer",
]
_NOUNS += [
    "cats",
    "stop sign",
    "traffic lights",
    "bow tie",
    "passenger train",
    "well-known",
    "sky",
    "red",
    "the",
    "a",
    "and",
]
_NOUNS += [
    "cell phones",
    "bicycle",
    "chair",
    "chairs",
    "table",
    "orange",
    "person's",
    "child",
    "children",
    "sheep",
    "train",
]


def _joined(pieces: Sequence[str], seed: int, longest: int = 8) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(pieces, k=draw.randint(0, longest))) for _ in range(N)]


def choice_replies() -> list[str]:
    """Replies to questions with options."""
    return _joined([*_LETTERS, *_TEXTS, *_WORDS, *_MARKS], 1)


def open_replies() -> list[str]:
    """Replies to open questions."""
    return _joined([*_TEXTS, *_WORDS, *_MARKS, *_LETTERS[:4]], 2)


def yes_no_replies() -> list[str]:
    """Replies to questions of yes or no, as they stand in a file of results: stripped."""
    return [reply.strip() for reply in _joined(_YES_NO, 3, 6)]


def caption_replies() -> list[str]:
    """Captions of listed nouns, pairs and words in between."""
    draw = random.Random(4)
    marks = ["", "", "", ",", "."]
    return [" ".join(draw.choice(_NOUNS) + draw.choice(marks) for _ in range(draw.randint(0, 12))) for _ in range(N)]


def mathvision_rows() -> list[tuple[str, str, tuple[str, ...]]]:
    """(reply, answer, options): free-form, and every third with five options."""
    draw = random.Random(5)
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for at in range(N):
        values = [*_NUMBERS, *_LATEX, "red", "ABCDE"[at % 5]]
        reply = draw.choice(_FORMS).format(draw.choice(values) + draw.choice(_UNITS))
        options = tuple(draw.sample([*_NUMBERS, *_LATEX], 5)) if at % 3 == 0 else ()
        rows.append((reply, draw.choice("ABCDE") if options else draw.choice([*_NUMBERS, *_LATEX, "red"]), options))
    return rows


REPLIES: dict[str, Callable[[], list[Any]]] = {
    "mmmu": choice_replies,
    "mmmu_open": open_replies,
    "lmms_mmmu": choice_replies,
    "mmmu_pro": choice_replies,
    "mmbench_2026_02": choice_replies,
    "mmbench_2026_06": choice_replies,
    "mmstar": choice_replies,
    "pope": yes_no_replies,
    "mme": yes_no_replies,
    "mathvision": mathvision_rows,
    "chair": caption_replies,
}
"""Name of the recorded readings -> the replies that they are of."""


def digest(replies: Sequence[Any]) -> str:
    """What recorded readings name their replies by."""
    return hashlib.sha256(json.dumps(replies, ensure_ascii=False).encode()).hexdigest()


def summary(names: Sequence[str]) -> str:
    """Four characters for a list of classes, in order."""
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:4]
