"""The long world: rows worked out by hand, lengths, and what depends on what."""

from __future__ import annotations

import hashlib

import pytest

from look_again.evaluation.benchmark import DataLocation, ModelReply
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.loading import load_checkpoint
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.long_world.long_benchmark import TABLETOP_LONG, load_long
from look_again.tabletop.long_world.long_studies import TABLETOP_SWAP, TABLETOP_UNWRITTEN
from look_again.tabletop.long_world.long_work import LongSample, count_pieces, make_long_sample
from look_again.tabletop.render import render
from look_again.tabletop.seeing import LISTED
from look_again.tabletop.world import WORLD_SIZES
from look_again.text.grammar import parse

BY_HAND = (
    "<SUMMARY> count every ring: ball no cube no cone no star no ring yes</SUMMARY>"
    "<CAPTION> a6 red ball, b5 red cube, c3 blue cone, d6 red ring</CAPTION>"
    "<REASONING> find the shape at c3, a6 no red ball no, b5 no red cube no, c3 yes blue cone cone, "
    "d6 no red ring cone, so cone, again a6 red ball no 0, b5 red cube no 0, c3 blue cone no 0, d6 red ring yes 1, "
    "so 1"
    "</REASONING><REFLECTION> a6 black ball no 0, b5 red cube no 0, c3 blue cone no 0, d6 red ring yes 1, so 1, "
    "as before"
    "</REFLECTION><CONCLUSION> 1</CONCLUSION>"
)
"""Four objects, the first of which is black; the list says red. One sub-question, its pass, then the question's own."""


def test_a_row_by_hand():
    row = make_long_sample("validation", 4, 0, pieces=110)
    assert row.prompt == "How many rings are there? Think at length."
    assert row.written.text == BY_HAND
    assert [(m.kind, m.place) for m in row.mistakes] == [("colour", "a6")]
    assert [question.text for question in row.sub_questions] == ["What shape is the object at c3?"]
    assert (row.answer, row.pieces) == ("1", 95)


def test_pieces_are_words_places_numbers_marks_and_tags():
    assert count_pieces("<CAPTION> a6 red ball, b5 red cube</CAPTION>") == 9


@pytest.mark.parametrize("pieces", [100, 800, 4000])
@pytest.mark.parametrize("size", ["small", "wide"])
def test_work_is_as_long_as_asked_for(pieces, size):
    """To half of the longest sub-question; a wide table's shortest answer alone is longer than 100."""
    rows = [make_long_sample("test", 1, index, pieces=pieces, size=size) for index in range(12)]
    for row in rows:
        bound = 50 if size == "small" else 100
        assert abs(row.pieces - pieces) <= bound or (not row.sub_questions and row.pieces > pieces)
        assert parse(row.written.text).well_formed


def test_pieces_are_the_tokens_of_the_tiny_model():
    tokenizer = load_checkpoint().tokenizer
    for index in range(12):
        row = make_long_sample("test", 1, index, pieces=800)
        assert abs(len(tokenizer(row.beginning)["input_ids"]) - 1 - row.pieces) <= 8


def test_longer_work_begins_with_shorter_work_on_the_same_row():
    """Lengths are compared on the same scene, mistakes and question, and nothing before is replaced."""
    for index in range(8):
        short, long = (make_long_sample("test", 2, index, pieces=pieces) for pieces in (300, 1500))
        assert (short.scene, short.question.text, short.mistakes) == (long.scene, long.question.text, long.mistakes)
        assert [q.text for q in long.sub_questions][: len(short.sub_questions)] == [q.text for q in short.sub_questions]


def test_every_answer_of_the_work_follows_from_the_list():
    """Valid work, not filler: each sub-question's answer is that of the caption as it was written."""
    for index in range(8):
        row = make_long_sample("test", 3, index, pieces=600)
        answers = [question.conclude(row.written.caption) for question in (*row.sub_questions, row.question)]
        work = row.written.text[row.written.text.index("<REASONING>") : row.written.text.index("</REASONING>")]
        assert [part.split(",")[0] for part in work.split(", so ")[1:]] == answers


@pytest.mark.parametrize("size", ["small", "wide"])
def test_an_unwritten_attribute_is_stated_by_no_token_before_the_reflection(size):
    rows = [make_long_sample("test", 4, index, pieces=300, size=size, kind="unwritten") for index in range(20)]
    assert {row.answer for row in rows} == {"small", "large"}
    for row in rows:
        assert not {"small", "large"} & set(row.beginning.replace(",", " ").split())
        assert row.written.text.endswith(f"so {row.answer}</REFLECTION><CONCLUSION> {row.answer}</CONCLUSION>")


SWAPPED_BY_HAND = (
    "<SUMMARY> find a red object: red yes green no blue no yellow no purple no black no</SUMMARY>"
    "<CAPTION> a2 red ring, b2 blue cone, c3 green ball, f6 blue star</CAPTION>"
    "<REASONING> count every green object: red no green yes blue no yellow no purple no black no, a2 red no ring 0, "
    "b2 blue no cone 0, c3 green yes ball 1, f6 blue no star 1, so 1, again a2 red yes ring yes, b2 blue no cone yes, "
    "c3 green no ball yes, f6 blue no star yes, so yes</REASONING>"
    "<REFLECTION> a2 black no ring no, b2 blue no cone no, c3 green no ball no, f6 blue no star no, so no, not yes"
    "</REFLECTION><CONCLUSION> no</CONCLUSION>"
)
"""The ring at a2 is black in the image and red in the list, so that the list has a red object and the image none."""


def test_a_swapped_row_by_hand():
    row = make_long_sample("validation", 4, 2, pieces=110, kind="swap")
    assert row.prompt == "Is there a red object? Think at length."
    assert row.written.text == SWAPPED_BY_HAND
    assert [(m.kind, m.place) for m in row.mistakes] == [("colour", "a2")]
    assert (row.answer, row.described) == ("no", "yes")


@pytest.mark.parametrize("size", ["small", "wide"])
def test_of_a_swapped_row_one_attribute_differs_and_decides_the_answer(size):
    for index in range(20):
        row = make_long_sample("test", 6, index, pieces=200, size=size, kind="swap")
        pairs = zip(row.scene.things, row.written.caption, strict=True)
        changed = [(true, said) for true, said in pairs if true != said]
        assert len(changed) == len(row.mistakes) == 1
        assert sum(a != b for a, b in zip(changed[0][0].pair, changed[0][1].pair, strict=True)) == 1
        assert row.answer != row.described
        work = row.written.text[: row.written.text.index("</REASONING>")]
        assert work.endswith(f"so {row.described}")


def test_an_answer_follows_the_picture_what_was_described_or_neither():
    items = list(TABLETOP_SWAP.load(DataLocation(path="seed=3,pieces=100", split="test", limit=3)))
    said = [items[0].reference, str(items[1].facts["answer_of_text"]), "nothing of the kind"]
    scores = TABLETOP_SWAP.score(items, [ModelReply(f"<CONCLUSION> {s}</CONCLUSION>", s) for s in said], None)
    assert [score.facts["follows"] for score in scores.items] == ["picture", "described", "neither"]
    assert scores.metrics == {"picture": 1 / 3, "described": 1 / 3, "neither": 1 / 3}


def test_rows_of_an_unwritten_attribute_need_no_mistake():
    items = list(TABLETOP_UNWRITTEN.load(DataLocation(path="seed=3,pieces=100", split="test", limit=100)))
    assert any(not item.facts["mistakes"] for item in items)
    scores = TABLETOP_UNWRITTEN.score(items, [ModelReply("small", "small")] * 100, None)
    assert sum(score.strict for score in scores.items) == sum(item.reference == "small" for item in items)


def test_wide_tables_are_twelve_by_twelve_with_eight_to_twenty_four_objects():
    rows = [make_long_sample("test", 5, index, pieces=400, size="wide") for index in range(30)]
    counts = [len(row.scene.things) for row in rows]
    assert min(counts) >= 8
    assert 18 < max(counts) <= 24
    assert all(render(row.scene).size == (336, 336) for row in rows[:2])
    assert len(WORLD_SIZES["wide"].places) == 144
    places = [thing.place for row in rows for thing in row.scene.things]
    assert any(place.endswith(("10", "11", "12")) for place in places)
    assert all(
        [*map(WORLD_SIZES["wide"].places.index, [t.place for t in row.scene.things])]
        == sorted(map(WORLD_SIZES["wide"].places.index, [t.place for t in row.scene.things]))
        for row in rows
    )


def test_rows_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for index in range(12):
        for size, kind in (("small", "listed"), ("wide", "listed"), ("small", "unwritten")):
            row = make_long_sample("test", 20261130, index, pieces=500, size=size, kind=kind)
            digest.update(f"{row.prompt} {row.answer} {row.written.text}\n".encode())
    assert digest.hexdigest() == ROWS_SHA256


def test_heldout_rows_show_a_heldout_pair_and_other_rows_say_none():
    from look_again.tabletop.world import HELDOUT_PAIRS, shows_heldout_pair

    assert all(shows_heldout_pair(make_long_sample("heldout", 0, i, pieces=200).scene) for i in range(12))
    for index in range(12):
        said = {
            (colour, shape)
            for _, colour, shape in LISTED.findall(make_long_sample("test", 0, index, pieces=900).beginning)
        }
        assert not said & HELDOUT_PAIRS


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pieces": 99}, "100 to 4000 pieces long, not 99"),
        ({"pieces": 4001}, "not 4001"),
        ({"pieces": 200, "size": "huge"}, "unknown size 'huge'; known: small, wide"),
        ({"pieces": 200, "kind": "odd"}, "unknown kind 'odd'; known: listed, unwritten"),
    ],
)
def test_what_the_long_world_does_not_have_is_named(options, error):
    with pytest.raises(ValueError, match=error):
        make_long_sample("test", 0, 0, **options)


def test_the_benchmark_asks_the_same_planted_rows_at_every_length():
    items = [list(load_long(DataLocation(path=f"seed=3,pieces={n}", split="test", limit=12))) for n in (100, 700)]
    assert [item.id for item in items[0]] == [item.id for item in items[1]]
    assert all(item.facts["mistakes"] and item.facts[PREFIX_FACT].endswith("<REFLECTION>") for item in items[0])
    with pytest.raises(ValueError, match="'seed=0,pieces=800'"):
        list(load_long(DataLocation(path="seed=3", split="test")))
    assert TABLETOP_LONG.primary == "mended"


@pytest.mark.parametrize("size", sorted(WORLD_SIZES))
def test_true_reflections_mend_everything_and_repeated_lists_nothing(size):
    items = list(load_long(DataLocation(path=f"seed=3,pieces=400,size={size}", split="test", limit=20)))
    rows = [make_long_sample("test", 3, int(item.id.rsplit("-", 1)[1]), pieces=400, size=size) for item in items]
    true = [ModelReply(row.written.text, row.answer) for row in rows]
    assert TABLETOP_LONG.score(items, true).metrics["mended"] == 1.0
    lists = [(row.beginning, parse(row.written.text).get("CAPTION").text) for row in rows]
    repeated = [
        ModelReply(f"{beginning}{said}, so 1</REFLECTION><CONCLUSION> 1</CONCLUSION>") for beginning, said in lists
    ]
    assert TABLETOP_LONG.score(items, repeated).metrics["mended"] == 0.0


def test_a_wide_scene_survives_being_stored():
    row: LongSample = make_long_sample("test", 5, 0, pieces=400, size="wide")
    image = SceneImage(row.scene, row.id)
    assert SceneImage.from_stored(image.stored()) == image
    assert "side" not in SceneImage(make_long_sample("test", 5, 0, pieces=400).scene, "x").stored()["scene"]


ROWS_SHA256 = "4ee554c89d70d78a9578c9fbecbaf34961399ebe8f69d59006f6ecf140afe9a7"
