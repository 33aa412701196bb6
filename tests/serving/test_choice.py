"""An answer's text in OpenAI's two fields, and its numbers, from a backend's events."""

from __future__ import annotations

import pytest

from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.serving.backend import Ended, Started
from look_again.serving.choice import Choice, TextPiece
from tests.serving.http.served import ANSWER, TRACE, checkpoint, tokens_of


def told(text, reason="stop", **options):
    """A choice that was told a whole text, and the pieces of its stream."""
    choice, pieces = Choice(checkpoint().tokenizer, **options), []
    events = [Started(9, 4), *(Token(0, token) for token in tokens_of(text))]
    for event in [*events, Ended(reason, (), len(events) - 1, 0, 0)]:
        pieces += choice.take(event)
        if choice.ended:
            break
    return choice, pieces


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        (ANSWER, "1 cube", TRACE),
        (f"{TRACE}<CONCLUSION>\n two  cubes\n</CONCLUSION>", "two  cubes", TRACE),
        (TRACE, "", TRACE),
        (f"{TRACE}<CONCLUSION>half", "half", TRACE),
        ("no tags at all", "", "no tags at all"),
        # what the format does not allow stays in the trace, whole
        (f"{ANSWER}<CONCLUSION>again</CONCLUSION>", "1 cube", f"{TRACE}<CONCLUSION>again</CONCLUSION>"),
        ("<REASONING><CONCLUSION>x</CONCLUSION></REASONING>", "", "<REASONING><CONCLUSION>x</CONCLUSION></REASONING>"),
    ],
)
def test_the_conclusion_is_the_content(text, content, reasoning):
    choice, pieces = told(text)
    assert choice.text == {"content": content, "reasoning_content": reasoning}
    for field, whole in choice.text.items():
        streamed = [piece.text for piece in pieces if isinstance(piece, TextPiece) and piece.field == field]
        assert "".join(streamed) == whole
        assert all(streamed)


def test_everything_in_content():
    choice, pieces = told(ANSWER, everything=True)
    assert choice.text == {"content": ANSWER, "reasoning_content": ""}
    assert {piece.field for piece in pieces if isinstance(piece, TextPiece)} == {"content"}


def test_no_conclusion_is_said():
    """An empty answer without a word would look like the model's answer."""
    assert any("no CONCLUSION" in note for note in told(TRACE)[0].notes)
    assert told(ANSWER)[0].notes == told(TRACE, everything=True)[0].notes == []


@pytest.mark.parametrize(("reason", "shown"), [("stop", "stop"), ("length", "length"), ("context", "length")])
def test_finish_reasons_are_those_of_openai(reason, shown):
    choice, _ = told(ANSWER, reason)
    assert choice.finish_reason == shown
    assert choice.notes == (["the context was full"] if reason == "context" else [])


def test_a_stop_string_ends_it_and_is_not_shown():
    choice, _ = told(ANSWER, stops=["1 cube"])
    assert choice.text == {"content": "", "reasoning_content": TRACE}
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "1 cube")
    assert choice.sampled < len(tokens_of(ANSWER))


def test_counts_without_the_end():
    """A stop string ends an answer before `Ended` comes: its numbers are those of the events."""
    choice = Choice(checkpoint().tokenizer, ["yes"])
    for event in (Started(9, 4), Reinsertion(0, Reflection("copy", (0, 1, 2), at=3)), Token(0, 5), Token(0, 6, True)):
        list(choice.take(event))
    assert (choice.sampled, choice.forced, choice.reinserted) == (1, 1, 3)
    assert [reflection.at for reflection in choice.reflections] == [3]
