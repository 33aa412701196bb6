"""Questions as people ask them: what they ask is what the rows ask, and what nobody can answer is answered so."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from look_again.data.image_files import open_image, restore_image
from look_again.evaluation.benchmark import DataLocation, ModelReply
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.people.foreign_images import KINDS as FOREIGN_KINDS
from look_again.tabletop.people.foreign_images import ForeignImage, draw_foreign
from look_again.tabletop.people.more_questions import MORE_QUESTIONS
from look_again.tabletop.people.phrased_benchmark import load_phrased, score_phrased
from look_again.tabletop.people.phrased_samples import FORMS, make_phrased
from look_again.tabletop.people.unknown_questions import SENTENCES, draw_unknown
from look_again.tabletop.people.unknown_questions import UNSEEN as UNSEEN_QUESTIONS
from look_again.tabletop.people.wordings import UNSEEN, WORDINGS, as_typed, reword
from look_again.tabletop.questions import KINDS
from look_again.tabletop.samples import make_sample
from look_again.tabletop.seeing import UnseenError, see
from look_again.text.grammar import parse

ROWS_SHA256 = "ebecfd36ee90ad7cfc9eb8889b7398fe819f79b3902d8b59a30fca910237cc8e"
IMAGES_SHA256 = "5fd0bf7afac41a71db9d230cc764057abeced0eefec17a267b0c3a8519ebae5f"


def test_rows_are_the_same_on_every_machine():
    """A draw that changes would change what the shipped model was trained on, unseen."""
    rows = [make_phrased("test", 7, index, dict.fromkeys(FORMS, 1.0)) for index in range(60)]
    text = "\n".join(f"{row.prompt} {row.answer} {row.written.text}" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == ROWS_SHA256


def test_foreign_images_are_the_same_every_time():
    digest = hashlib.sha256()
    for kind in sorted(set(FOREIGN_KINDS) - {"page"}):  # a page's letters are the platform's
        digest.update(draw_foreign(kind, 3).tobytes())
    assert digest.hexdigest() == IMAGES_SHA256


@pytest.mark.parametrize("kind", [*KINDS, *MORE_QUESTIONS])
def test_every_kind_has_six_wordings_and_more(kind):
    assert len(set(WORDINGS[kind])) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_from_training_is_not_in_it(kind):
    assert len(set(UNSEEN[kind])) >= 6
    assert not set(UNSEEN[kind]) & set(WORDINGS[kind])


def test_a_wording_keeps_colours_shapes_and_places():
    """A wording that lost what is asked for would teach to guess."""
    for index in range(300):
        question = make_sample("train", 1, index).question
        words = {"red", "green", "blue", "yellow", "purple", "black", "ball", "cube", "cone", "star", "ring"}
        asked = {word for word in words if word in question.text}
        text = reword(random.Random(index), question)
        assert all(word in text.lower() for word in asked), (question.text, text)
        if question.kind == "attribute":
            assert question.text[-3:-1] in text


@pytest.mark.parametrize("form", FORMS)
def test_responses_are_well_formed_and_end_with_the_answer(form):
    for index in range(40):
        row = make_phrased("train", 2, index, {form: 1.0}, error_rate=0.3)
        response = parse(row.written.text)
        assert response.well_formed, (row.prompt, response.problems)
        assert response.conclusion == row.answer


def test_the_rows_own_form_is_the_row():
    """What was learned before has to be seen again as it was."""
    for index in range(30):
        row, made = make_sample("train", 5, index), make_phrased("train", 5, index, {"made": 1.0})
        assert (made.prompt, made.answer, made.written.text) == (row.prompt, row.answer, row.written.text)


def test_an_answer_belongs_to_the_scene_that_is_shown():
    for form in ("bare", "reworded", "unseen"):
        for index in range(30):
            row, phrased = make_sample("train", 6, index), make_phrased("train", 6, index, {form: 1.0})
            assert phrased.answer == row.answer
            assert phrased.image == SceneImage(row.scene, phrased.id)


def test_fewer_turns_the_comparison_round():
    """Fewer cubes than balls are more balls than cubes: the first of the goal is the one that has to be more."""
    question = next(
        q for q in (make_sample("train", 0, i, kind="compare").question for i in range(50)) if "balls than" in q.text
    )
    texts = {reword(random.Random(seed), question) for seed in range(200)}
    (fewer,) = {text for text in texts if text.startswith("Are there fewer")}
    assert fewer.endswith(" than balls?")
    assert question.goal.startswith("compare every ball and every ")


def test_unknown_questions_are_none_of_the_kinds():
    rng = random.Random(0)
    asked = {draw_unknown(rng) for _ in range(500)}
    known = {wording for wordings in (*WORDINGS.values(), *UNSEEN.values()) for wording in wordings}
    assert not asked & known
    assert not set(UNSEEN_QUESTIONS) & (asked | set(SENTENCES))


def test_typing_changes_no_word_that_matters():
    for seed in range(400):
        typed = as_typed(random.Random(seed), "How many purple cones are there?").lower()
        assert "purple cones" in typed


@pytest.mark.parametrize("kind", FOREIGN_KINDS)
def test_a_foreign_image_is_no_scene(kind):
    for seed in range(3):
        image = draw_foreign(kind, seed)
        assert image.mode == "RGB"
        with pytest.raises(UnseenError):
            see(image if image.size != (168, 168) or kind != "other-table" else image.resize((100, 100)))


def test_a_foreign_image_can_be_stored():
    image = ForeignImage("face", 3)
    assert restore_image(image.stored()) == image
    assert open_image(image).tobytes() == draw_foreign("face", 3).tobytes()


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="unknown forms \\['loud'\\]; known: made, lower"):
        make_phrased("train", 0, 0, {"loud": 1.0})
    with pytest.raises(ValueError, match="unknown kind of image 'cat'"):
        draw_foreign("cat", 0)


def test_the_benchmark_asks_each_question_in_every_form():
    items = list(load_phrased(DataLocation(path="seed=3", split="test", limit=2 * len(FORMS))))
    assert [item.facts["form"] for item in items] == [*FORMS, *FORMS]
    assert items[1].prompt == items[0].prompt.lower()
    assert {item.reference for item in items[:5]} == {items[0].reference}


def test_not_to_know_is_right_where_nothing_can_be_known():
    """By hand: a refusal counts for the unknown question alone, an answer for the known one, a list in any order."""
    items = list(load_phrased(DataLocation(path="seed=3", split="test", limit=len(FORMS))))
    by_form = {item.facts["form"]: item for item in items}
    refusal = "I do not know: this is no question that I learned"
    listed = replace(by_form["more"], reference="a1 red ball, b2 blue cube", facts={"form": "more", "kind": "list"})
    asked = [by_form["unknown"], by_form["unknown"], by_form["made"], by_form["made"], listed]
    said = [refusal, "3", refusal, by_form["made"].reference, "b2 blue cube, a1 red ball"]
    scores = score_phrased(asked, [ModelReply(text, text) for text in said])
    assert [score.strict for score in scores.items] == [1.0, 0.0, 0.0, 1.0, 1.0]
