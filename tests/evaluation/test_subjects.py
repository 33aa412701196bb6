"""A checkpoint as the model under test: batches change nothing, bad items cost only themselves."""

from __future__ import annotations

from collections import Counter

import pytest
from PIL import Image

from look_again.core.families import find_family
from look_again.core.reattention import Reattention
from look_again.evaluation.benchmark import BenchmarkItem
from look_again.evaluation.subjects import (
    PREFIX_FACT,
    LocalSubject,
    NotPossibleError,
    describe_settings,
    wrong_images,
)
from look_again.loading import Checkpoint
from look_again.model import LookAgain
from look_again.tabletop.clips.clip_samples import ClipVideo
from look_again.tabletop.tiny import build_image_processor

PREFIX = "<SUMMARY> count balls</SUMMARY><CAPTION> a2 red ball</CAPTION><REFLECTION>"


@pytest.fixture(scope="module")
def looker(model, tokenizer):
    family = find_family(model.config)
    return LookAgain(Checkpoint("random", model, tokenizer, build_image_processor(), family, trained=True))


@pytest.fixture(scope="module")
def items():
    pictures = [Image.effect_noise(size, 90).convert("RGB") for size in ((84, 56), (112, 84), (56, 56))]
    return [
        BenchmarkItem(id="0", images=(pictures[0],), prompt="How many?", facts={PREFIX_FACT: PREFIX}),
        BenchmarkItem(id="1", images=(pictures[1],), prompt="Is there a red ball?"),
        BenchmarkItem(
            id="2", images=(pictures[2], pictures[0]), prompt="Compare both.", facts={PREFIX_FACT: "<REFLECTION>"}
        ),
        BenchmarkItem(id="3", prompt="Two and two?", facts={PREFIX_FACT: "<REFLECTION>"}),
        BenchmarkItem(id="4", images=(pictures[1],), prompt="Where is it, and why?"),
    ]


def subject(looker, batch: int, **policy) -> LocalSubject:
    return LocalSubject(looker, Reattention(**policy), max_new_tokens=30, batch=batch)


def said(outputs) -> dict:
    return {index: (o.text, o.tokens, o.looks, o.reflections, o.error) for index, o in outputs}


@pytest.mark.parametrize(
    "policy", [{}, {"mode": "route"}, {"control": "wrong-image"}, {"control": "random-place", "within": 25}], ids=str
)
def test_batches_change_no_answer(looker, items, policy):
    """Would catch an item whose answer depends on its neighbours, under any control."""
    one = said(subject(looker, 1, **policy).answers(items, ()))
    assert said(subject(looker, 2, **policy).answers(items, ())) == one
    assert said(subject(looker, 5, **policy).answers(items, ())) == one
    assert one[0][0].startswith(PREFIX)
    assert one[0][2] >= 1


def test_a_resumed_run_decodes_the_same_batches(looker, items, monkeypatch):
    """Would catch batches cut from what is left: in bfloat16 another batch may round another way."""
    asked = []
    real = looker.ask_batch
    monkeypatch.setattr(
        looker, "ask_batch", lambda r, **k: (asked.append([one.question for one in r]), real(r, **k))[1]
    )
    answers = subject(looker, 2).answers(items, {"0", "2", "3"})
    assert [index for index, _ in answers] == [1, 4]
    assert asked == [[items[0].prompt, items[1].prompt], [items[4].prompt]]


def test_a_bad_item_costs_only_itself(looker, items, tmp_path):
    """Would catch a run that stops, or neighbours that are lost, at a missing image or a question without end."""
    bad = [
        items[1],
        BenchmarkItem(id="gone", images=(tmp_path / "gone.png",), prompt="What is here?"),
        BenchmarkItem(id="long", images=items[1].images, prompt="x" * 30_000),
        items[4],
    ]
    outputs = dict(subject(looker, 4).answers(bad, ()))
    alone = dict(subject(looker, 1).answers([items[1], items[4]], ()))
    assert (outputs[0].text, outputs[3].text) == (alone[0].text, alone[1].text)
    assert "gone.png" in outputs[1].error
    assert "30000 characters" in outputs[2].error
    assert outputs[2].text == ""


def test_wrong_images_are_another_items_and_shared_by_none(items):
    """Would catch a control that shows the right image, as when neighbours ask about the same one."""
    a, b = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    shared = [BenchmarkItem(id=str(i), images=(a if i < 3 else b,), prompt="?") for i in range(5)]
    assert [wrong_images(shared, i)[0] for i in range(5)] == [b, b, b, a, a]
    assert [len(wrong_images(items, i)) for i in range(5)] == [1, 1, 2, 0, 1]
    with pytest.raises(NotPossibleError, match="of 3, none has one that item '0' does not show"):
        wrong_images(shared[:3], 0)


def test_videos_have_no_wrong_image(looker, monkeypatch):
    """Would catch a whole benchmark of videos whose every item is asked, and fails."""
    monkeypatch.setattr(looker, "ask_batch", None)
    items = [BenchmarkItem(id=str(i), images=(ClipVideo("test", 1, i),), prompt="?") for i in range(3)]
    with pytest.raises(NotPossibleError, match="shows images alone, and item '0' shows a video"):
        next(subject(looker, 1, control="wrong-image").answers(items, ()))


def test_a_control_that_is_not_possible_fails_before_anything_is_asked(looker, monkeypatch):
    """Would catch a run that ends at the item in the middle that shows every image there is."""
    a, b = (Image.new("RGB", (84, 56), colour) for colour in ("red", "blue"))
    shown = [(a,), (b,), (a, b)]
    monkeypatch.setattr(looker, "ask_batch", None)
    items = [BenchmarkItem(id=str(i), images=pictures, prompt="?") for i, pictures in enumerate(shown)]
    answers = subject(looker, 1, control="wrong-image").answers(items, ())
    with pytest.raises(NotPossibleError, match="item '2'"):
        next(answers)


def test_wrong_images_are_spread_over_the_list():
    """Would catch all items shown the same wrong image."""
    items = [BenchmarkItem(id=str(i), images=(Image.new("RGB", (8, 8), (i, 0, 0)),), prompt="?") for i in range(10)]
    used = Counter(wrong_images(items, i)[0].getpixel((0, 0)) for i in range(10))
    assert set(used.values()) == {1}


def test_a_bound_on_the_reasoning_brings_a_conclusion_and_is_a_setting(looker, items):
    """Would catch a run whose answers are cut off although a bound was asked for, or that does not say so."""
    bounded = LocalSubject(looker, Reattention(), max_new_tokens=30, max_reasoning_tokens=20, batch=2)
    texts = [output.text for index, output in bounded.answers(items, ()) if index in (1, 4)]
    assert all("<CONCLUSION>" in text for text in texts)
    assert bounded.settings["max_reasoning_tokens"] == 20
    assert "max_reasoning_tokens" not in subject(looker, 2).settings


def test_settings_tell_policies_apart(looker):
    settings = [
        subject(looker, 2, **p).settings for p in ({}, {"mode": "route", "keep": 25}, {"control": "wrong-image"})
    ]
    assert [describe_settings(one) for one in settings] == [
        "random, copy",
        "random, route 25%",
        "random, copy, wrong-image",
    ]
    assert subject(looker, 2).settings == subject(looker, 5).settings  # a batch size is no setting
    with pytest.raises(ValueError, match="batch"):
        subject(looker, 0)
