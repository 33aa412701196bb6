"""Tabletop's clips as a benchmark: exact answers to what moved, what moved first or last, and how often.

The location of the data is a stream, not a folder: its path is "seed=N". Two figures stand beside the accuracy: the
share of moves that the last REFLECTION names, and of those that it names the share that happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from look_again.evaluation.benchmark import (
    Benchmark,
    BenchmarkItem,
    DataLocation,
    ItemScore,
    Judge,
    ModelReply,
    Scores,
)
from look_again.evaluation.benchmarks.choices import accuracies, by_group
from look_again.tabletop.clips.clip_samples import ClipVideo
from look_again.tabletop.clips.moves import make_clip
from look_again.tabletop.world import COLOURS, SHAPES
from look_again.text.grammar import parse

SPLITS = ("test", "heldout", "validation")
DEFAULT_ITEMS = 200
FOLLOWED = re.compile(rf"([a-f][1-6]) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ([a-f][1-6])")


def load_clips(location: DataLocation) -> Iterator[BenchmarkItem]:
    """The clips of a stream; 200 unless `location.limit` says otherwise. ValueError for any other place."""
    found = re.fullmatch(r"seed=([0-9]+)", location.path)
    if found is None:
        raise ValueError(f"Tabletop's clips are drawn: their place is a stream, 'seed=0', not {location.path!r}")
    for index in range(DEFAULT_ITEMS if location.limit is None else location.limit):
        clip = make_clip(location.split, int(found[1]), index)
        moves = [[move.before, move.after, *move.pair] for move in clip.moves]
        yield BenchmarkItem(
            id=clip.id,
            images=(ClipVideo(location.split, int(found[1]), index),),
            prompt=clip.prompt,
            reference=clip.question.answer,
            facts={"kind": clip.question.kind, "moves": moves},
        )


def score_clips(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Exact answers, by kind of question, and the moves that the last REFLECTION names."""
    scores, named_total, true_total, right_total = [], 0, 0, 0
    for item, reply in zip(items, replies, strict=True):
        answer = " ".join(reply.final.lower().split()).rstrip(".")
        right = float(answer == item.reference)
        section = parse(reply.text).get("REFLECTION")
        named = _named_moves(section.text if section else "")
        true = [tuple(move) for move in item.facts["moves"]]
        named_total, true_total = named_total + len(named), true_total + len(true)
        right_total += sum(move in named for move in true)
        scores.append(ItemScore(official=right, strict=right, extracted=answer or None, unparsed=not answer, facts={}))
    return Scores(
        items=scores,
        metrics={
            **accuracies(scores),
            "moves_named": right_total / true_total if true_total else None,
            "named_moves_true": right_total / named_total if named_total else None,
        },
        subsets=by_group(items, scores, ("kind",)),
        notes={"answers": "the CONCLUSION, word for word"},
    )


def _named_moves(text: str) -> list[tuple[str, ...]]:
    """Objects that change their place in a REFLECTION, as (before, after, colour, shape)."""
    followed = FOLLOWED.findall(text)
    return [(before, after, *pair) for before, *pair, after in followed if before != after]


TABLETOP_CLIPS = Benchmark(
    name="tabletop-clips",
    hub="seed=0",
    splits=SPLITS,
    load=load_clips,
    score=score_clips,
    primary="accuracy",
    paired="strict",
    max_new_tokens=256,
)
