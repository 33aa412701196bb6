"""The renderer: one prompt for answering and training, responses with their silent tokens and end of turn, lengths."""

from __future__ import annotations

import pytest

from look_again.text.chat import encode_chat, encode_response
from look_again.text.instructions import FORMAT_INSTRUCTIONS, question_messages
from look_again.text.renderer import Renderer
from look_again.text.tags import tag_ids

IMAGE = "<|image_pad|>"
RESPONSE = "<SUMMARY>two boxes</SUMMARY><REFLECTION>again</REFLECTION><REFLECTION></REFLECTION>"


@pytest.fixture
def renderer(tokenizer) -> Renderer:
    return Renderer(tokenizer, IMAGE)


def test_the_prompt_is_the_chat_with_one_token_per_visual_token(renderer, tokenizer):
    """Would catch counts given to the wrong image, and instructions for a model that knows the format."""
    messages = question_messages("Why?", 2)
    ids = renderer.render_prompt(messages, [3, 5])
    assert ids == encode_chat(tokenizer, messages, [3, 5], image_token=IMAGE)
    assert ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 8


def test_untrained_models_get_the_format_before_the_callers_own_system_text(tokenizer):
    """Would catch instructions behind the conversation, or a caller's list that was changed."""
    own = [{"role": "system", "content": "Be brief."}, *question_messages("Why?", 0)]
    expected = [{"role": "system", "content": FORMAT_INSTRUCTIONS}, *own]
    ids = Renderer(tokenizer, IMAGE, trained=False).render_prompt(own, [])
    assert ids == encode_chat(tokenizer, expected, [], image_token=IMAGE)
    assert len(own) == 2


def test_a_response_ends_its_turn_and_marks_what_is_silent(renderer, tokenizer):
    """Would catch a silent end of turn, and flags shifted by a token."""
    ids, spans = encode_response(tokenizer, RESPONSE, tag_ids(tokenizer))
    start = RESPONSE.index("two")
    rendered = renderer.render_response(RESPONSE, [(start, start + 1)])
    assert rendered.token_ids == [*ids, tokenizer.eos_token_id]
    assert rendered.spans == [*spans, (len(RESPONSE), len(RESPONSE))]
    assert [span for span, silent in zip(rendered.spans, rendered.silent, strict=True) if silent] == [
        span for span in spans if span[0] <= start < span[1]
    ]
    assert not any(renderer.render_response(RESPONSE).silent)


@pytest.mark.parametrize(("limit", "insertions"), [(0, 0), (1, 1), (2, 2), (16, 2)])
def test_the_length_counts_insertions_up_to_their_limit(renderer, limit, insertions):
    """Would catch reflections beyond the limit that are counted as insertions."""
    messages = question_messages("Why?", 1)
    text = len(renderer.render_prompt(messages, [4])) + len(renderer.render_response(RESPONSE).token_ids)
    length = renderer.count_slots(messages, [4], RESPONSE, slots_per_insertion=6, max_insertions=limit)
    assert length == text + 6 * insertions
