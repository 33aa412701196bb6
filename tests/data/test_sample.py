"""The row type: prompts with lettered options, silent spans, errors that travel between processes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from look_again.data.sample import Sample, SampleError


def row(**fields: Any) -> Sample:
    return Sample(**{"id": "r1", "question": "What colour?", "source": "test"} | fields)


def test_prompt_without_options_is_the_question_as_it_stands() -> None:
    assert row(question=" What? \n").prompt == " What? \n"


def test_options_are_lettered_one_per_line() -> None:
    assert row(options=("red", "blue")).prompt == "What colour?\nA. red\nB. blue"


def test_letters_run_out_after_z() -> None:
    """zip would drop the 27th option without a word."""
    assert row(options=tuple("abcdefghijklmnopqrstuvwxyz")).prompt.endswith("\nZ. z")
    with pytest.raises(SampleError, match="row 'r1': options: 27"):
        row(options=tuple("abcdefghijklmnopqrstuvwxyz!"))


@pytest.mark.parametrize("span", [(3, 3), (4, 3), (-1, 2), (0, 6)])
def test_silent_spans_lie_within_the_response(span: tuple[int, int]) -> None:
    assert row(response="12345", silent=((0, 5),)).silent == ((0, 5),)
    with pytest.raises(SampleError, match=r"silent: span \(.*5 characters"):
        row(response="12345", silent=(span,))


def test_errors_pickle() -> None:
    """A data-loading worker hands its exception on by pickling; one that cannot be rebuilt hangs or hides the cause."""
    error = pickle.loads(pickle.dumps(SampleError("r1", "no question")))
    assert (error.row_id, error.reason, str(error)) == ("r1", "no question", "row 'r1': no question")
    assert str(SampleError(None, "3 bad rows")) == "3 bad rows"
