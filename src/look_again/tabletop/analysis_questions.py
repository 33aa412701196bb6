"""Tabletop as a set of questions for `look-again analyze`: images of known content, and lists judged against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from look_again.analysis.measured_answers import AnswerSection, ImageQuestion, QuestionSet
from look_again.tabletop.list_curves import against_length, summary
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample


def draw_questions(split: str, seed: int, n: int) -> list[ImageQuestion]:
    """The first n questions of a Tabletop stream. ValueError for n below 1."""
    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")
    rows = [make_sample(split, seed, index) for index in range(n)]
    return [ImageQuestion(render(row.scene), row.prompt, row.scene) for row in rows]


def summarise_lists(sections: Sequence[AnswerSection]) -> dict[str, Any]:
    """Hallucination and recall of all lists, and of bins by generated length."""
    return {"all": summary(sections), "bins": against_length(sections)}


TABLETOP = QuestionSet(draw_questions, summarise_lists)
