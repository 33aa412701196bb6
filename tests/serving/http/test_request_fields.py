"""Fields of a request: what is wrong is named, what would change an answer is refused, what changes none is taken."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from look_again.core.reattention import Reattention
from look_again.serving.http.body import parse_json
from look_again.serving.http.chat_jobs import (
    Defaults,
)
from look_again.serving.http.errors import ApiError
from look_again.serving.http.limits import Limits
from look_again.serving.http.request_fields import UNSUPPORTED, parse_chat_request, parse_model
from look_again.serving.http.responses_schema import ResponsesRequest
from look_again.serving.http.schema import ChatRequest
from tests.serving.http.served import body, image_part

DEFAULTS = Defaults(name="fake", policy=Reattention())
LIMITS = Limits()


def error_of(work, *arguments):
    with pytest.raises(ApiError) as caught:
        work(*arguments)
    assert caught.value.status in (400, 404)
    assert caught.value.message
    return caught.value


def message(content, role="user"):
    return {"model": "fake", "messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ([], None),
        (None, None),
        ("text", None),
        ({}, "model"),
        ({"model": "fake"}, "messages"),
        ({"model": 7, "messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "fake", "messages": []}, "messages"),
        ({"model": "fake", "messages": "x"}, "messages"),
        ({"model": "fake", "messages": [5]}, "messages[0]"),
        ({"model": "fake", "messages": [{"content": "x"}]}, "messages[0]"),
        (message("x", "tool"), "messages[0].tool_call_id"),
        (message("x", "function"), "messages[0]"),
        (message("x", "<|im_start|>"), "messages[0]"),
        (message(None), "messages[0].content"),
        (message(5), "messages[0].content"),
        (message([]), "messages[0].content"),
        (message([{"type": "input_audio", "input_audio": {"data": "x"}}]), "messages[0].content[0]"),
        (message([{"type": "video_url", "video_url": {}}]), "messages[0].content[0].video_url.url"),
        (message([{"type": "video_url", "video_url": {"url": "x", "fps": 0}}]), "messages[0].content[0].video_url.fps"),
        (message([{"type": "video", "video": []}]), "messages[0].content[0].video"),
        (message([{"type": "video", "video": "x"}]), "messages[0].content[0].video"),
        (message([{"type": "text"}]), "messages[0].content[0].text"),
        (message([{"type": "text", "text": None}]), "messages[0].content[0].text"),
        (message([{"type": "text", "text": "x", "y": 1}]), "messages[0].content[0].y"),
        (message([{"type": "image_url", "image_url": "data:"}]), "messages[0].content[0].image_url"),
        (message([{"type": "image_url", "image_url": {}}]), "messages[0].content[0].image_url.url"),
        (message([image_part(detail="huge")]), "messages[0].content[0].image_url.detail"),
        (message([image_part(max_dynamic_patch=6)]), "messages[0].content[0].image_url.max_dynamic_patch"),
        (message([image_part()], "assistant"), "messages[0].content[0].type"),
        (body("x", max_tokens=0), "max_tokens"),
        (body("x", max_tokens="5"), "max_tokens"),
        (body("x", max_tokens=True), "max_tokens"),
        (body("x", max_tokens=10**30), "max_tokens"),
        (body("x", temperature=-1), "temperature"),
        (body("x", temperature=2.5), "temperature"),
        (body("x", temperature=float("inf")), "temperature"),
        (body("x", top_p=1.1), "top_p"),
        (body("x", seed=-(2**63) - 1), "seed"),
        (body("x", seed=2**63), "seed"),
        (body("x", n=0), "n"),
        (body("x", stop=["a", "b", "c", "d", "e"]), "stop"),
        (body("x", stop=[""]), "stop[0]"),
        (body("x", stop=7), "stop"),
        (body("x", stream="yes"), "stream"),
        (body("x", stream_options=True), "stream_options"),
        (body("x", look_again="copy"), "look_again"),
        (body("x", look_again={"reattention": "blink"}), "look_again.reattention"),
        (body("x", look_again={"keep": 101}), "look_again.keep"),
        (body("x", look_again={"control": "random-rows"}), "look_again.control"),
        (body("x", metadata={"a": 1}), "metadata.a"),
        (body("x", beam_width=4), "beam_width"),
    ],
)
def test_the_field_that_is_wrong_is_named(wrong, param):
    assert error_of(parse_chat_request, wrong).param == param


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_what_would_change_an_answer_is_refused_by_name(field):
    error = error_of(parse_chat_request, body("x", **{field: "something"}))
    assert (error.param, error.code) == (field, "unsupported_parameter")
    for neutral in (None, *UNSUPPORTED[field][1]):
        assert parse_chat_request(body("x", **{field: neutral})).n is None


def test_false_is_not_nothing_where_a_number_is_expected():
    """In Python 0 == False and 1 == True."""
    error_of(parse_chat_request, body("x", frequency_penalty=False))
    error_of(parse_chat_request, body("x", logprobs=0))


def test_null_is_absent_and_some_fields_do_nothing():
    absent = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    assert parse_chat_request(body("x", **absent)) == parse_chat_request(body("x"))
    parse_chat_request(
        body("x", user="me", store=True, metadata={"run": "1"}, service_tier="auto", parallel_tool_calls=True)
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (rb'{"a": ["x\ud83d"]}', "surrogate"),
        (rb'{"\uDE00": 1}', "surrogate"),
        (b"[" + b"0," * 20_001 + b"0]", "more than 20000 values"),
        (b"[" + b'{"a":[0,0]},' * 9_000 + b"0]", "more than 20000 values"),
        (b"{'a': 1}", "not JSON"),
        (b"{} {}", "not JSON"),
    ],
)
def test_what_is_not_json(raw, said):
    assert said in error_of(parse_json, raw).message


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_a_message_does_not_repeat_what_is_long():
    """Would catch an error answer that is as long as the request."""
    with pytest.raises(ApiError) as caught:
        parse_chat_request(body("x") | {"messages": [{"role": "r" * 100_000, "content": "x"}]})
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("model", "value", "param"),
    [
        (ResponsesRequest, {"input": [{"role": "user", "content": [1] * 6000}] * 3}, "input[0].content[0]"),
        (ResponsesRequest, {"input": [{f"k{n}": 1 for n in range(18)}] * 1000}, "input[0]"),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * 6000}] * 3}, "messages[0].content[0]"),
        (ChatRequest, {"messages": [{"role": "user"}] * 1000}, "messages[0].content"),
    ],
)
def test_of_many_wrong_parts_the_first_is_examined(model, value, param):
    """A body of 54 KB held the event loop for over a second: every error was written down."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"model": "m", **value})
    assert refused.value.error_count() < 25
    with pytest.raises(ApiError) as told:
        parse_model(model, {"model": "m", **value})
    assert told.value.param.startswith(param)
