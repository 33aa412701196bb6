"""Stop strings: found wherever the stream was cut, and nothing given out that belongs to one."""

from __future__ import annotations

import random

import pytest

from look_again.serving.choice import StopStrings
from look_again.streaming import TextDelta


def said(stops, pieces):
    """The text given out, what was found, and every state on the way."""
    stopper, text, states = StopStrings(stops), "", []
    for piece in pieces:
        text += "".join(delta.text for delta in stopper.feed(TextDelta(piece, None)))
        states.append(text)
        if stopper.stopped_by:
            return text, stopper.stopped_by, states
    return text + "".join(delta.text for delta in stopper.rest()), None, states


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["STOP"], "say STOP now", ("say ", "STOP")),
        (["b", "abc"], "xabc", ("xa", "b")),  # the first to be complete, not the first to begin
        (["bc", "abc"], "xabc", ("x", "abc")),  # complete together: the longer
        (["aab"], "aaaab", ("aa", "aab")),  # a beginning within a beginning
        (["zz"], "z", ("z", None)),  # a beginning at the end of the text is text
        ([], "all of it", ("all of it", None)),
    ],
)
def test_any_cutting_gives_the_same_text(stops, text, expected):
    """A stop string that is looked for in each delta alone is missed when it spans two."""
    draw = random.Random(3)
    for _ in range(30):
        places = sorted(draw.sample(range(1, len(text)), draw.randint(0, len(text) - 1)))
        pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
        assert said(stops, pieces)[:2] == expected


def test_the_beginning_of_a_stop_string_is_held_back_and_no_more():
    _, _, states = said(["END."], list("the END, the END."))
    assert states[:8] == ["t", "th", "the", "the ", "the ", "the ", "the ", "the END,"]


def test_a_held_back_tag_stays_a_tag():
    """Cut apart, the opening of CONCLUSION would be text of the trace, and the answer empty."""
    stopper = StopStrings([">!"])
    given = stopper.feed(TextDelta("<CONCLUSION>", "CONCLUSION", "open"))
    given += stopper.feed(TextDelta("3", "CONCLUSION"))
    assert [(delta.text, delta.kind) for delta in given] == [("<CONCLUSION>", "open"), ("3", "text")]


def test_a_stop_string_inside_a_tag_ends_the_text_there():
    stopper = StopStrings(["CONC"])
    given = stopper.feed(TextDelta("<CONCLUSION>", "CONCLUSION", "open"))
    assert [delta.text for delta in given] == ["<"]
    assert stopper.stopped_by == "CONC"
    assert stopper.feed(TextDelta("3", "CONCLUSION")) == stopper.rest() == []
