"""Rows of the long world for studies of their own: an attribute that nothing states, and an image that was exchanged.

Scores are shares of answers. Where the image was exchanged, an answer follows the picture (what the prompt shows), what
was described (CAPTION and the work on it) or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import accuracies
from look_again.scoring.extraction import score
from look_again.tabletop.long_world.long_benchmark import DESCRIBED, TABLETOP_LONG, load_long
from look_again.tabletop.tabletop_benchmark import answer_score


def score_answers(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Exact answers alone."""
    scores = [answer_score(item, reply) for item, reply in zip(items, replies, strict=True)]
    return Scores(items=scores, metrics=accuracies(scores))


def score_followed(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """What each answer follows: "picture", "described" or "neither"."""
    scores = []
    for item, reply in zip(items, replies, strict=True):
        made = answer_score(item, reply)
        described = not made.unparsed and score(reply.final, str(item.facts[DESCRIBED]))
        follows = "picture" if made.strict else "described" if described else "neither"
        scores.append(replace(made, facts={"follows": follows}))
    shares = {
        name: sum(one.facts["follows"] == name for one in scores) / len(scores) if scores else None
        for name in ("picture", "described", "neither")
    }
    return Scores(items=scores, metrics=shares)


TABLETOP_UNWRITTEN = replace(
    TABLETOP_LONG,
    name="tabletop-unwritten",
    load=partial(load_long, kind="unwritten"),
    score=score_answers,
    primary="accuracy",
    paired="strict",
)
TABLETOP_SWAP = replace(
    TABLETOP_LONG,
    name="tabletop-swap",
    load=partial(load_long, kind="swap"),
    score=score_followed,
    primary="picture",
    paired="strict",
)
LONG_BENCHMARKS: dict[str, Benchmark] = {
    "listed": TABLETOP_LONG,
    "unwritten": TABLETOP_UNWRITTEN,
    "swap": TABLETOP_SWAP,
}
"""The benchmark of each kind of long rows."""
