"""Tabletop's streams, questions, images and oracle."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from look_again.scoring.extraction import score
from look_again.tabletop.oracle import LENGTHS, Mistake
from look_again.tabletop.questions import KINDS, Question, sample_question
from look_again.tabletop.render import SIDE_PIXELS, render
from look_again.tabletop.samples import make_sample, make_samples, write_samples
from look_again.tabletop.seeing import LISTED
from look_again.tabletop.world import HELDOUT_PAIRS, PLACES, SPLITS, Scene, Thing, allowed_pairs, stream
from look_again.text.grammar import open_tag, parse

THINGS = (
    Thing("a1", "red", "ball"),
    Thing("b2", "blue", "cube"),
    Thing("c3", "red", "cube"),
    Thing("f6", "red", "ball"),
)


def test_rows_are_the_same_on_every_machine():
    """A change of any draw, or a platform that draws differently, would silently change every published figure."""
    text = "\n".join(f"{row.prompt} {row.answer} {row.written.text}" for row in make_samples("test", 20261121, 50))
    assert hashlib.sha256(text.encode()).hexdigest() == ROWS_SHA256


def test_images_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for row in make_samples("test", 20261121, 10):
        digest.update(render(row.scene).tobytes())
    assert digest.hexdigest() == IMAGES_SHA256


def test_streams_differ_by_split_seed_and_index():
    draws = {stream(split, seed, index).random() for split in SPLITS for seed in (0, 1) for index in (0, 1)}
    assert len(draws) == len(SPLITS) * 4


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        stream("dev", 0, 0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_heldout_pairs_never_occur(split):
    """Neither in the image nor in what a planted mistake claims."""
    for row in make_samples(split, 3, 300):
        said = {(colour, shape) for _, colour, shape in LISTED.findall(row.written.text)}
        assert not HELDOUT_PAIRS & ({thing.pair for thing in row.scene.things} | said)


def test_heldout_scenes_show_a_heldout_pair():
    for row in make_samples("heldout", 3, 100):
        assert HELDOUT_PAIRS & {thing.pair for thing in row.scene.things}


def test_scenes_hold_two_to_eight_objects_on_places_of_their_own():
    sizes = Counter()
    for row in make_samples("train", 5, 400):
        places = [thing.place for thing in row.scene.things]
        assert places == sorted(set(places))
        sizes[len(places)] += 1
    assert set(sizes) == set(range(2, 9))


def answer(kind: str, wanted: str, things=THINGS) -> str:
    """The answer to the first sampled question of `kind` with text `wanted`, about given things."""
    return question(kind, wanted).conclude(things)


def question(kind: str, wanted: str) -> Question:
    for index in range(5000):
        _, found = sample_question(stream("heldout", 9, index), kind, allowed_pairs("heldout"))
        if found.text == wanted:
            return found
    raise AssertionError(f"no question {wanted!r} was drawn")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("count", "How many balls are there?", "2"),
        ("count", "How many red objects are there?", "3"),
        ("count", "How many red balls are there?", "2"),
        ("count", "How many stars are there?", "0"),
        ("subtract", "Subtract all balls. How many objects are left?", "2"),
        ("subtract", "Subtract all red objects. How many objects are left?", "1"),
        ("exist", "Is there a blue cube?", "yes"),
        ("exist", "Is there a blue ball?", "no"),
        ("compare", "Are there more red objects than blue objects?", "yes"),
        ("compare", "Are there more balls than cubes?", "no"),
        ("compare", "Are there more cubes than balls?", "no"),
        ("attribute", "What colour is the object at b2?", "blue"),
        ("attribute", "What shape is the object at f6?", "ball"),
        ("odd", "All objects but one have the same colour. Which colour is the odd one out?", "blue"),
    ],
)
def test_answers_worked_out_by_hand(kind, text, expected):
    assert answer(kind, text) == expected


def test_running_states_worked_out_by_hand():
    assert question("count", "How many red objects are there?").states(THINGS) == ["1", "1", "2", "3"]
    assert question("compare", "Are there more balls than cubes?").states(THINGS) == ["1 0", "1 1", "1 2", "2 2"]
    assert question("attribute", "What colour is the object at b2?").states(THINGS) == ["no", "blue", "blue", "blue"]
    assert question("exist", "Is there a blue cube?").states(THINGS) == ["no", "yes", "yes", "yes"]


def test_marks_worked_out_by_hand():
    """What stands behind each word of an object; states follow from marks one by one."""
    yes, no = ("", "yes", ""), ("", "no", "")
    assert question("count", "How many red objects are there?").marks(THINGS) == [yes, no, yes, yes]
    yes, no = ("", "", "yes"), ("", "", "no")
    assert question("subtract", "Subtract all balls. How many objects are left?").marks(THINGS) == [yes, no, no, yes]
    assert question("exist", "Is there a blue ball?").marks(THINGS)[:2] == [("", "no", "yes"), ("", "yes", "no")]
    more, than = ("", "", "more"), ("", "", "than")
    assert question("compare", "Are there more balls than cubes?").marks(THINGS) == [more, than, than, more]
    at = question("attribute", "What colour is the object at b2?")
    assert at.marks(THINGS) == [("no", "", ""), ("yes", "", ""), ("no", "", ""), ("no", "", "")]
    odd = question("odd", "All objects but one have the same colour. Which colour is the odd one out?")
    assert odd.marks(THINGS) == [("", "1", ""), ("", "1", ""), ("", "2", ""), ("", "3", "")]
    assert odd.states(THINGS) == ["red 1", "red 1 blue 1", "red 2 blue 1", "red 3 blue 1"]


def test_a_plan_says_of_every_word_whether_it_counts():
    goal = question("count", "How many red balls are there?").goal
    assert goal == (
        "count every red ball: red yes green no blue no yellow no purple no black no "
        "ball yes cube no cone no star no ring no"
    )
    goal = question("compare", "Are there more balls than cubes?").goal
    assert goal == "compare every ball and every cube: ball more cube than cone no star no ring no"


def test_marks_and_states_stand_in_the_lines():
    row = next(r for r in make_samples("train", 4, 50) if r.question.kind == "count")
    last = parse(row.written.text).reflections[-1].text
    for thing, marks, state in zip(
        row.scene.things, row.question.marks(row.scene.things), row.question.states(row.scene.things), strict=True
    ):
        said = [thing.place, marks[0], thing.colour, marks[1], thing.shape, marks[2], state]
        assert " ".join(part for part in said if part) in last


def test_odd_one_out_when_the_odd_one_comes_first():
    things = (Thing("a1", "red", "ball"), Thing("a2", "blue", "ball"), Thing("a3", "blue", "cube"))
    assert answer("odd", "All objects but one have the same colour. Which colour is the odd one out?", things) == "red"


def test_every_kind_occurs_and_answers_are_balanced():
    """A model that always says the commonest answer must not do well."""
    answers: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for row in make_samples("train", 11, 1200):
        answers[row.question.kind][row.answer] += 1
    for kind, counts in answers.items():
        assert sum(counts.values()) == 200
        assert counts.most_common(1)[0][1] / 200 < 0.65, (kind, counts)


@pytest.mark.parametrize("length", LENGTHS)
def test_responses_are_well_formed_and_right(length):
    for index in range(60):
        row = make_sample("train", 2, index, length=length, error_rate=0.5)
        response = parse(row.written.text)
        assert response.well_formed, response.problems
        assert score(response.conclusion, row.answer)
        assert 1 <= len(response.reflections) <= 3
        assert response.reflections[-1].text


def test_the_last_reflection_lists_exactly_what_is_there():
    for index in range(60):
        row = make_sample("train", 4, index, error_rate=0.5)
        listed = LISTED.findall(parse(row.written.text).reflections[-1].text)
        assert listed == [(t.place, t.colour, t.shape) for t in row.scene.things]


def test_without_mistakes_the_caption_is_the_scenes_own():
    row = make_sample("train", 4, 0, error_rate=0.0)
    assert parse(row.written.text).get("CAPTION").text == row.scene.caption
    assert row.written.planted_spans == []


def test_zero_reflections_only_on_request():
    row = make_sample("train", 4, 0, reflections=0)
    assert open_tag("REFLECTION") not in row.written.text
    assert parse(row.written.text, min_reflections=0).well_formed


def test_planted_spans_cover_what_is_wrong_and_nothing_else():
    """In CAPTION, the words outside the spans must be true and the planted ones false."""
    seen = Counter()
    for index in range(120):
        row = make_sample("train", 6, index, error_rate=0.4)
        text, truth = row.written.text, {thing.place: thing for thing in row.scene.things}
        caption = parse(text).get("CAPTION")
        planted = {text[a:b].strip() for a, b in row.written.planted_spans if caption.start <= a < caption.end}
        expected = set()
        for mistake in row.written.mistakes:
            seen[mistake.kind] += 1
            said = mistake.said
            expected |= {said.place, said.colour, said.shape} if mistake.kind == "object" else set()
            expected |= {said.colour} - {truth.get(said.place, said).colour}
            expected |= {said.shape} - {truth.get(said.place, said).shape}
        assert planted == expected
    assert set(seen) == {"object", "colour", "shape"}


def test_scene_and_question_do_not_depend_on_the_response():
    """Evaluation plants mistakes at another rate than training; it must still ask about the same scenes."""
    first, second = make_sample("test", 1, 7, error_rate=0.0), make_sample("test", 1, 7, error_rate=0.9, reflections=1)
    assert (first.scene, first.prompt, first.answer) == (second.scene, second.prompt, second.answer)


def test_every_image_is_the_promised_size_and_shows_its_objects():
    row = make_sample("test", 1, 0)
    empty = np.asarray(render(Scene((), row.scene.noise_seed)), dtype=int)
    shown = np.asarray(render(row.scene), dtype=int)
    assert shown.shape == (SIDE_PIXELS, SIDE_PIXELS, 3)
    changed = np.abs(shown - empty).max(-1) > 40
    for thing in row.scene.things:
        y, x = divmod(PLACES.index(thing.place), 6)
        assert changed[28 * y : 28 * y + 28, 28 * x : 28 * x + 28].sum() > 40, thing


def test_write_rows_makes_relative_paths_that_exist(tmp_path):
    rows = list(write_samples(tmp_path, "test", 0, 3))
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(rows) == len(lines) == 3
    assert (tmp_path / "images" / f"{rows[0].id}.png").is_file()


@pytest.mark.parametrize("bad", [{"length": "huge"}, {"error_rate": 1.5}, {"kind": "why"}])
def test_bad_choices_are_named(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        make_sample("train", 0, 0, **bad)


def test_mistakes_name_what_was_said():
    row = next(r for r in make_samples("train", 6, 50) if r.written.mistakes)
    mistake = row.written.mistakes[0]
    assert isinstance(mistake, Mistake)
    assert mistake.said in row.written.caption


ROWS_SHA256 = "a0fc5882eb9c51c668805c895f8cd82dfd1672edcc30f4fb58253c264b8471ab"
IMAGES_SHA256 = "589c1fc1dda6d78ea3e3f9ff9c1f24b5806bc653da09004191258c8f0ac8c43e"
