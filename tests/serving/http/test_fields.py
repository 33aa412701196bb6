"""Fields of a request: what is wrong is named, what would change an answer is refused, what changes none is taken."""

from __future__ import annotations

import dataclasses
import json

import pytest

from look_again.core.reattention import Reattention
from look_again.serving.http.body import parse_json
from look_again.serving.http.conversation import conversation_of, key_of
from look_again.serving.http.errors import ApiError
from look_again.serving.http.fields import UNSUPPORTED, chat_request
from look_again.serving.http.limits import Limits
from look_again.serving.http.options import Defaults, everything_of, policy_of, samplings_of, stops_of
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
        (message("x", "tool"), "messages[0]"),
        (message("x", "<|im_start|>"), "messages[0]"),
        (message(None), "messages[0].content"),
        (message(5), "messages[0].content"),
        (message([]), "messages[0].content"),
        (message([{"type": "video_url", "video_url": {"url": "x"}}]), "messages[0].content[0]"),
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
    assert error_of(chat_request, wrong).param == param


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_what_would_change_an_answer_is_refused_by_name(field):
    error = error_of(chat_request, body("x", **{field: "something"}))
    assert (error.param, error.code) == (field, "unsupported_parameter")
    for neutral in (None, *UNSUPPORTED[field][1]):
        assert chat_request(body("x", **{field: neutral})).n is None


def test_false_is_not_nothing_where_a_number_is_expected():
    """In Python 0 == False and 1 == True."""
    error_of(chat_request, body("x", frequency_penalty=False))
    error_of(chat_request, body("x", logprobs=0))


def test_null_is_absent_and_some_fields_do_nothing():
    absent = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    assert chat_request(body("x", **absent)) == chat_request(body("x"))
    chat_request(body("x", user="me", store=True, metadata={"run": "1"}, service_tier="auto", parallel_tool_calls=True))


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


def test_an_error_about_half_a_surrogate_pair_can_be_written():
    """A message that quotes it must still be UTF-8."""
    error = error_of(policy_of, ChatRequest.model_construct(model="\udfffx"), DEFAULTS)
    json.dumps(error.body, ensure_ascii=False).encode()


def policy(name="fake", defaults=DEFAULTS, **options):
    return policy_of(chat_request(body("x", look_again=options or None) | {"model": name}), defaults)


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
    return samplings_of(chat_request(body("x", **fields)), defaults, limits)


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


def test_a_message_does_not_repeat_what_is_long():
    """Would catch an error answer that is as long as the request."""
    with pytest.raises(ApiError) as caught:
        chat_request(body("x") | {"messages": [{"role": "r" * 100_000, "content": "x"}]})
    assert len(caught.value.message) < 1000
    with pytest.raises(ApiError, match="at most 2"):
        samplings(Limits(choices=2), n=3)


def test_greedy_unless_told_otherwise():
    assert samplings()[0].temperature == 0
    assert samplings(defaults=dataclasses.replace(DEFAULTS, temperature=0.7))[0].temperature == 0.7
    assert samplings(temperature=0.7, top_p=0)[0].temperature == 0  # the likeliest token alone
    with pytest.raises(ApiError, match=r"0\.01"):
        samplings(temperature=0.001)


def test_stops_and_content():
    assert stops_of(chat_request(body("x", stop="a"))) == ["a"]
    assert stops_of(chat_request(body("x", stop=["a", "b"]))) == ["a", "b"]
    assert stops_of(chat_request(body("x", stop=[]))) == stops_of(chat_request(body("x"))) == []
    everything = dataclasses.replace(DEFAULTS, everything=True)
    assert everything_of(chat_request(body("x")), everything)
    assert not everything_of(chat_request(body("x", look_again={"content": "conclusion"})), everything)
    assert everything_of(chat_request(body("x", look_again={"content": "all"})), DEFAULTS)
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
    request = chat_request({"model": "fake", "messages": messages})
    taken, images = conversation_of(request.messages, LIMITS)
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
    assert error_of(conversation_of, request.messages, Limits(images=2)).param == images[2].param
    assert error_of(conversation_of, request.messages, Limits(text_characters=16)).param == "messages"


def test_requests_that_begin_alike_have_one_key():
    def key(*messages):
        return key_of(chat_request({"model": "fake", "messages": list(messages)}).messages)

    def turn(role, content):
        return {"role": role, "content": content}

    first = turn("user", [image_part(b"1"), {"type": "text", "text": "one"}])
    assert key(first) == key(first, turn("assistant", "A."), turn("user", "two"))
    assert key(first) != key(turn("user", [image_part(b"2"), {"type": "text", "text": "one"}]))
    assert key(first) != key(turn("system", "Be brief."), first)
