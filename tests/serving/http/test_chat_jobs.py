"""A request as jobs: re-attention by name and by field, sampling, stop strings, and the conversation in order."""

from __future__ import annotations

import dataclasses
import json

import pytest

from look_again.core.reattention import Reattention
from look_again.serving.http.chat_jobs import (
    Defaults,
    build_samplings,
    choose_reattention,
    digest_beginning,
    read_stops,
    split_conversation,
    wants_everything,
)
from look_again.serving.http.errors import ApiError
from look_again.serving.http.limits import Limits
from look_again.serving.http.request_fields import parse_chat_request
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


def test_an_error_about_half_a_surrogate_pair_can_be_written():
    """A message that quotes it must still be UTF-8."""
    error = error_of(choose_reattention, ChatRequest.model_construct(model="\udfffx"), DEFAULTS)
    json.dumps(error.body, ensure_ascii=False).encode()


def policy(name="fake", defaults=DEFAULTS, **options):
    return choose_reattention(parse_chat_request(body("x", look_again=options or None) | {"model": name}), defaults)


def test_policies_by_name_and_by_field():
    assert policy() == Reattention()
    assert policy("fake:route-25") == Reattention(mode="route", keep=25)
    assert policy("fake:route") == Reattention(mode="route")
    assert policy("fake:text") == policy(reattention="text") == Reattention(mode="text")
    assert policy(reattention="route", keep=0, layers=[0, 1], rule="relative") == Reattention(
        mode="route", keep=0, layers=(0, 1), rule="relative"
    )
    assert policy("fake:route-25", reattention="route", layout="strip") == Reattention(
        mode="route", keep=25, layout="strip"
    )
    route = dataclasses.replace(DEFAULTS, policy=Reattention(mode="route", keep=10))
    assert policy(defaults=route, keep=30) == Reattention(mode="route", keep=30)
    assert policy("fake:copy", defaults=route).mode == "copy"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fake:copy", {"reattention": "text"}),
        ("fake:route-25", {"keep": 30}),
        ("fake:route-25", {"reattention": "copy"}),
        ("fake:route-101", {}),
        ("fake:route-05", {}),
        ("fake:", {}),
        ("fake:blink", {}),
        ("fake", {"keep": 30}),
        ("fake:copy", {"layers": [1]}),
        ("fake", {"reattention": "copy", "rule": "relative"}),
    ],
)
def test_contradictions(name, options):
    """Taking one of two contradicting wishes would be a silent change of method."""
    with pytest.raises(ApiError) as caught:
        policy(name, **options)
    assert caught.value.status == 400


def test_an_unknown_model_is_not_found():
    for name in ("gpt-4o", "FAKE", "fakefake", "fake2:copy"):
        error = error_of(policy, name)
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert "fake" in error.message


def samplings(limits=LIMITS, defaults=DEFAULTS, **fields):
    return build_samplings(parse_chat_request(body("x", **fields)), defaults, limits)


def test_tokens_of_an_answer():
    assert samplings()[0].max_new_tokens == LIMITS.default_tokens
    assert samplings(max_tokens=7)[0].max_new_tokens == samplings(max_completion_tokens=7)[0].max_new_tokens == 7
    assert samplings(Limits(max_tokens=5))[0].max_new_tokens == 5
    assert samplings(max_tokens=7, max_completion_tokens=7)[0].max_new_tokens == 7
    with pytest.raises(ApiError, match="send one"):
        samplings(max_tokens=7, max_completion_tokens=8)
    with pytest.raises(ApiError, match="at most 5"):
        samplings(Limits(max_tokens=5), max_tokens=6)


def test_choices_are_seeded_apart():
    """With one seed for all, n choices would be n times the same answer."""
    assert [sampling.seed for sampling in samplings(n=3, seed=2**63 - 1, temperature=1)] == [2**63 - 1, 0, 1]
    assert [sampling.seed for sampling in samplings(n=2)] == [None, None]
    assert [sampling.seed for sampling in samplings(n=2, seed=-1, temperature=1)] == [2**63 - 1, 0]


def test_greedy_unless_told_otherwise():
    assert samplings()[0].temperature == 0
    assert samplings(defaults=dataclasses.replace(DEFAULTS, temperature=0.7))[0].temperature == 0.7
    assert samplings(temperature=0.7, top_p=0)[0].temperature == 0  # the likeliest token alone
    with pytest.raises(ApiError, match=r"0\.01"):
        samplings(temperature=0.001)


def test_stops_and_content():
    assert read_stops(parse_chat_request(body("x", stop="a"))) == ["a"]
    assert read_stops(parse_chat_request(body("x", stop=["a", "b"]))) == ["a", "b"]
    assert read_stops(parse_chat_request(body("x", stop=[]))) == read_stops(parse_chat_request(body("x"))) == []
    everything = dataclasses.replace(DEFAULTS, everything=True)
    assert wants_everything(parse_chat_request(body("x")), everything)
    assert not wants_everything(parse_chat_request(body("x", look_again={"content": "conclusion"})), everything)
    assert wants_everything(parse_chat_request(body("x", look_again={"content": "all"})), DEFAULTS)
    with pytest.raises(ApiError, match="stream: true"):
        samplings(stream_options={"include_usage": True})


def test_images_and_texts_keep_their_order_over_turns():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [image_part(b"1"), {"type": "text", "text": "one"}, image_part(b"2", detail="low")],
        },
        {"role": "assistant", "content": "A.", "reasoning_content": "<SUMMARY>", "refusal": None, "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "two"}, image_part(b"3")]},
    ]
    request = parse_chat_request({"model": "fake", "messages": messages})
    taken, images = split_conversation(request.messages, LIMITS)
    assert taken == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one"}, {"type": "image"}]},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image"}]},
    ]
    assert [image.param for image in images] == [
        "messages[1].content[0].image_url.url",
        "messages[1].content[2].image_url.url",
        "messages[3].content[1].image_url.url",
    ]
    assert [image.low for image in images] == [False, True, False]
    assert error_of(split_conversation, request.messages, Limits(images=2)).param == images[2].param
    assert error_of(split_conversation, request.messages, Limits(text_characters=16)).param == "messages"


def test_requests_that_begin_alike_have_one_key():
    def key(*messages):
        return digest_beginning(parse_chat_request({"model": "fake", "messages": list(messages)}).messages)

    def turn(role, content):
        return {"role": role, "content": content}

    first = turn("user", [image_part(b"1"), {"type": "text", "text": "one"}])
    assert key(first) == key(first, turn("assistant", "A."), turn("user", "two"))
    assert key(first) != key(turn("user", [image_part(b"2"), {"type": "text", "text": "one"}]))
    assert key(first) != key(turn("system", "Be brief."), first)


def test_more_choices_than_the_server_gives_are_refused():
    with pytest.raises(ApiError, match="at most 2"):
        samplings(Limits(choices=2), n=3)
