"""Cursory reflections of the oracle: where they occur, and that nothing else changes."""

from __future__ import annotations

from look_again.data.loaders import load_samples
from look_again.data.source import Source
from look_again.tabletop.oracle import CROWDED, REQUESTS
from look_again.tabletop.samples import make_sample
from look_again.text.grammar import parse


def test_cursory_reflections_look_at_nothing_where_images_are_crowded():
    """Would catch a start of BRPO whose reflections are all proper, or cursory where few objects would do."""
    rows = [make_sample("train", 5, index, length="brief", reflections=1, cursory=1.0) for index in range(40)]
    for row in rows:
        said = parse(row.written.text).reflections[0].text
        crowded = len(row.scene.things) >= CROWDED
        assert (said == f"so {row.answer}") == crowded
        assert parse(row.written.text).conclusion == row.answer


def test_other_rows_do_not_change():
    """Would catch a chance that draws a number where it is not asked: the shipped model's rows would be others."""
    for index in range(20):
        plain, asked = make_sample("train", 5, index), make_sample("train", 5, index, cursory=0.9)
        few = len(plain.scene.things) < CROWDED
        assert (plain.written.text == asked.written.text) or not few


def test_a_source_may_ask_for_one_length():
    rows = list(load_samples(Source(loader="tabletop", path="5:12:brief")))
    assert len(rows) == 12
    assert all(row.question.endswith(REQUESTS["brief"]) for row in rows)
