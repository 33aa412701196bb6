"""CircularEval, the score of MMBench: a question is right when every one of its copies is.

The paper reports one number. Here the official score reads replies as VLMEvalKit does without a judge, the strict one
as elsewhere; a question of which not all copies were asked, as in a part of a run, has no score and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from look_again.evaluation.benchmark import Item, ItemScore, Judge, Reply, Scores
from look_again.evaluation.benchmarks.choices import STRICT_RULE, Metrics, matched_letter, mean, score_choice

UNKNOWN_VERSION = "not told by the table's name; copies on the hub are of V1.0, which has other questions than V1.1"


@dataclass(frozen=True)
class Question:
    """A question's copies. first: place of its unrotated item, complete: whether all copies were asked."""

    first: int
    members: tuple[int, ...]
    complete: bool


def score(items: Sequence[Item], replies: Sequence[Reply], judge: Judge | None = None) -> Scores:
    """Circular accuracies of the whole, per category and subcategory; no judge is asked.

    Items of `question` belong together, `copies` says how many there are. ItemScore: points of the copy; `circular`
    and `strict_circular` of the question, 0 or 1, among the facts of its first item, None elsewhere.
    """
    scores = [
        score_choice(item, reply, matched_letter(reply.final, item.facts["options"]))
        for item, reply in zip(items, replies, strict=True)
    ]
    questions = grouped(items)
    scores = _with_circular(scores, questions)
    tables = sorted({str(item.facts["table"]) for item in items})
    notes = {
        "official": "CircularEval with VLMEvalKit's matching_util.py and no judge: a reply it cannot match is wrong",
        "strict": STRICT_RULE,
        "table": ", ".join(tables),
        "version": "V1.1" if all("V11" in table for table in tables) else UNKNOWN_VERSION,
    }
    return Scores(
        items=scores, metrics=circular(questions, scores), subsets=_subsets(items, questions, scores), notes=notes
    )


def _with_circular(scores: Sequence[ItemScore], questions: Sequence[Question]) -> list[ItemScore]:
    """The scores, with the question's points among the facts of its first copy, None among those of all others."""
    points: dict[int, dict[str, int]] = {}
    for question in questions:
        if question.complete:
            points[question.first] = {
                "circular": int(all(scores[member].official for member in question.members)),
                "strict_circular": int(all(scores[member].strict for member in question.members)),
            }
    undefined = dict.fromkeys(("circular", "strict_circular"))
    return [replace(one, facts={**one.facts, **points.get(at, undefined)}) for at, one in enumerate(scores)]


def grouped(items: Sequence[Item]) -> list[Question]:
    """The questions, in order of appearance."""
    members: dict[str, list[int]] = {}
    for at, item in enumerate(items):
        members.setdefault(item.facts["question"], []).append(at)
    return [
        Question(
            first=min(group, key=lambda at: items[at].facts["copy"]),
            members=tuple(group),
            complete=len(group) == items[group[0]].facts["copies"],
        )
        for group in members.values()
    ]


def circular(questions: Sequence[Question], scores: Sequence[ItemScore]) -> Metrics:
    """circular_accuracy and strict_circular_accuracy over complete questions; first_accuracy of unrotated copies.

    Also counts: questions, incomplete (without a score), items and unparsed (copies).
    """
    asked = [scores[member] for question in questions for member in question.members]
    firsts = [scores[question.first] for question in questions if question.complete]
    return {
        "circular_accuracy": mean([first.facts["circular"] for first in firsts]),
        "strict_circular_accuracy": mean([first.facts["strict_circular"] for first in firsts]),
        "first_accuracy": mean([first.official or 0.0 for first in firsts]),
        "questions": len(questions),
        "incomplete": len(questions) - len(firsts),
        "items": len(asked),
        "unparsed": sum(one.unparsed for one in asked),
    }


def _subsets(items: Sequence[Item], questions: Sequence[Question], scores: Sequence[ItemScore]) -> dict[str, Metrics]:
    groups: dict[str, list[Question]] = {}
    for fact in ("l2_category", "category"):
        for question in sorted(questions, key=lambda question: str(items[question.first].facts[fact])):
            groups.setdefault(f"{fact}/{items[question.first].facts[fact]}", []).append(question)
    return {name: circular(group, scores) for name, group in groups.items()}
