"""Scenes are read back from their pixels and questions from their text, exactly: an endpoint's truth depends on it."""

from __future__ import annotations

import pytest
from PIL import Image

from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.tabletop.seeing import UnseenError, parse_question, see
from look_again.tabletop.world import Scene, Thing


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_objects_are_read_back_from_pixels(split):
    for index in range(60):
        scene = make_sample(split, 5, index).scene
        assert see(render(scene)).things == scene.things


def test_crowded_neighbours_of_one_colour():
    """Spilled pixels of a neighbour must not become an object of their own."""
    crowd = tuple(Thing(place, "red", shape, "large", dx, dy) for place, shape, dx, dy in (
        ("b2", "star", 5, 5), ("b3", "star", -5, 0), ("c2", "cube", 5, -5), ("c3", "ball", -5, -5),
    ))  # fmt: skip
    seen = see(render(Scene(crowd)))
    assert [(thing.place, thing.pair) for thing in seen.things] == [(thing.place, thing.pair) for thing in crowd]


def test_questions_are_read_back_from_text():
    for index in range(120):
        row = make_sample("test", 9, index)
        assert parse_question(row.prompt).conclude(row.scene.things) == row.answer


def test_what_is_not_of_this_world():
    with pytest.raises(UnseenError, match="40 x 40"):
        see(Image.new("RGB", (40, 40)))
    with pytest.raises(UnseenError, match="shows no scene"):
        see(Image.new("RGB", (168, 168), "white"))
    with pytest.raises(UnseenError, match="no question"):
        parse_question("Who painted this?")
