"""Scores of the Tabletop evaluation, worked out by hand."""

from __future__ import annotations

from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.oracle import Mistake
from look_again.tabletop.samples import make_sample
from look_again.tabletop.tabletop_benchmark import is_mended, list_quality, planted_prefix
from look_again.tabletop.world import Scene, Thing

SCENE = Scene((Thing("a1", "red", "ball"), Thing("b2", "blue", "cube")))


def test_list_quality_by_hand():
    """One of three listed is wrong in colour, one is invented; one of two real objects is found."""
    text = "a1 red ball, b2 green cube, c3 black ring"
    assert list_quality([(SCENE, text)]) == {"hallucinated": 2 / 3, "recall": 1 / 2, "empty": 0}


def test_list_quality_of_nothing_divides_by_nothing():
    assert list_quality([(SCENE, "I see nothing.")]) == {"hallucinated": None, "recall": 0.0, "empty": 1}


def test_mended_means_true_of_that_place():
    wrong_colour = Mistake("colour", "a1", Thing("a1", "green", "ball"))
    invented = Mistake("object", "c3", Thing("c3", "black", "ring"))
    assert is_mended(wrong_colour, SCENE, "a1 red ball 1, b2 blue cube 1, so 1")
    assert not is_mended(wrong_colour, SCENE, "a1 green ball 1, b2 blue cube 1")
    assert not is_mended(wrong_colour, SCENE, "b2 blue cube 1")
    assert is_mended(invented, SCENE, "a1 red ball 1, b2 blue cube 1")
    assert not is_mended(invented, SCENE, "c3 black ring 1")


def test_an_empty_reflection_mends_nothing():
    """Listing nothing must not count as having removed an invented object."""
    assert not is_mended(Mistake("object", "c3", Thing("c3", "black", "ring")), SCENE, "")


def test_planted_prefix_ends_with_the_last_reflection_tag():
    row = make_sample("test", 0, 3, length="long", reflections=3, error_rate=0.5)
    prefix = planted_prefix(row)
    assert prefix.endswith("<REFLECTION>")
    assert prefix.count("<REFLECTION>") == 3
    assert row.written.text.startswith(prefix)


def test_wilson_interval_by_hand():
    """z = 2, 8 of 10: centre 10/14, half-width 2 sqrt(0.16/10 + 4/400) / 1.4."""
    low, high = wilson_interval(8, 10, z=2.0)
    assert abs((low + high) / 2 - 10 / 14) < 1e-12
    assert abs((high - low) / 2 - 2 * 0.026**0.5 / 1.4) < 1e-12
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(5, 5)[1] == 1.0
