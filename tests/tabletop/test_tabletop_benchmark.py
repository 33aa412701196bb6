"""Tabletop as a benchmark: the figures of `look-again eval tabletop`, from texts alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import look_again
from look_again.core.reattention import Reattention
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.subjects import PREFIX_FACT, LocalSubject
from look_again.tabletop.figures import EvalConfig, evaluate
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.tabletop.tabletop_benchmark import (
    TABLETOP,
    TABLETOP_PLANTED,
    score_free,
    score_planted,
)
from look_again.text.grammar import parse

PLACE = DataLocation(path="seed=0", split="test", limit=8)


def test_the_figures_are_those_of_the_command():
    """Would catch a second definition of accuracy, hallucination or mending that drifts from the first."""
    model = look_again.load(device="cpu")
    before = evaluate(model, EvalConfig(n=8, seed=0, batch=8), Reattention())
    subject = LocalSubject(model, Reattention(), max_new_tokens=512, batch=8)
    free, planted = (list(benchmark.load(PLACE)) for benchmark in (TABLETOP, TABLETOP_PLANTED))
    replies = [[o.reply for _, o in sorted(subject.answers(items, ()))] for items in (free, planted)]
    made = score_free(free, replies[0]).metrics
    assert (made["accuracy"], made["unparsed"]) == (before["accuracy"], before["unanswered"])
    assert made["well_formed"] == before["well_formed"]
    for tag in ("caption", "reflection"):
        assert {name: made[f"{tag}_{name}"] for name in before[tag]} == before[tag]
    mended = score_planted(planted, replies[1]).metrics
    assert (mended["mistakes"], mended["mended"]) == (before["planted"]["mistakes"], before["planted"]["share"])
    assert mended["accuracy"] == before["planted"]["accuracy"]
    assert {kind: mended[f"mended_{kind}"] for kind in before["planted"]["per_kind"]} == before["planted"]["per_kind"]


def said(item: BenchmarkItem, conclusion: str, *, tagged: bool = True) -> ModelReply:
    text = f"<CAPTION>none</CAPTION><CONCLUSION>{conclusion}</CONCLUSION>" if tagged else conclusion
    return ModelReply(text, parse(text).conclusion)


def test_only_a_conclusion_answers_in_the_format():
    """Would catch an answer read out of unfinished reasoning; a model without tags is read whole."""
    item = BenchmarkItem(id="a", prompt="?", reference="3", facts={"kind": "count", "objects": [["a1", "red", "ball"]]})
    replies = [said(item, "3"), said(item, "3", tagged=False), ModelReply("<REASONING> so 3"), ModelReply("")]
    scores = score_free([item] * 4, replies).items
    assert [(s.official, s.strict, s.extracted, s.unparsed) for s in scores] == [
        (1.0, 1.0, "3", False),
        (1.0, 1.0, "3", False),
        (0.0, 0.0, None, True),
        (0.0, 0.0, None, True),
    ]


def test_each_list_is_scored_for_itself():
    """By hand: one of two listed objects is wrong, the one real object is recalled; nothing listed is no share."""
    item = BenchmarkItem(id="a", prompt="?", reference="1", facts={"kind": "count", "objects": [["a1", "red", "ball"]]})
    text = "<CAPTION> a1 red ball, b2 blue cube</CAPTION><REFLECTION> nothing</REFLECTION>"
    facts = score_free([item], [ModelReply(text)]).items[0].facts
    assert facts == {"caption_hallucinated": 0.5, "reflection_hallucinated": None, "reflection_recall": 0.0}


def test_mended_shares_by_hand():
    """Of two mistakes the reflection mends the invented object and repeats the wrong colour."""
    facts = {
        "kind": "count",
        "objects": [["a1", "red", "ball"]],
        "mistakes": [{"kind": "colour", "place": "a1"}, {"kind": "object", "place": "c3"}],
    }
    item = BenchmarkItem(id="a", prompt="?", reference="1", facts=facts)
    reply = ModelReply("<REFLECTION> a1 green ball</REFLECTION><CONCLUSION>1</CONCLUSION>", "1")
    scores = score_planted([item], [reply])
    assert scores.items[0].facts == {"mistakes": 2, "mended": 1, "mended_share": 0.5}
    assert scores.metrics["mended_colour"] == 0.0
    assert scores.metrics["mended_object"] == 1.0
    assert scores.metrics["accuracy"] == 1.0


def test_items_are_the_rows_of_the_stream():
    items = list(TABLETOP.load(PLACE))
    row = make_sample("test", 0, 3, reflections=1, error_rate=0.3)
    assert len(items) == 8
    assert (items[3].id, items[3].prompt, items[3].reference) == (row.id, row.prompt, row.answer)
    assert items[3].images[0] == SceneImage(row.scene, row.id) != items[4].images[0]
    from look_again.data.image_files import open_image

    assert open_image(items[3].images[0]).tobytes() == render(row.scene).convert("RGB").tobytes()
    planted = list(TABLETOP_PLANTED.load(PLACE))
    assert all(item.facts[PREFIX_FACT].endswith("<REFLECTION>") and item.facts["mistakes"] for item in planted)
    json.dumps([dict(item.facts) for item in planted])
    assert len(list(TABLETOP.load(replace(PLACE, limit=None)))) == 200


@pytest.mark.parametrize("path", ["0", "seed=", "seed=x", "seed=-1", "tabletop"])
def test_a_place_that_is_no_stream_is_refused(path):
    with pytest.raises(ValueError, match="seed=0"):
        next(iter(TABLETOP.load(replace(PLACE, path=path))))
