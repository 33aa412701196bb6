"""The Responses API: the official client reads it, and it gives what a chat completion gives."""

from __future__ import annotations

import json

import httpx
import openai
import pydantic
import pytest

from look_again.serving.decode_options import DecodeOptions
from look_again.serving.http.limits import Limits
from tests.serving.http.served import ANSWER, TRACE, FakeBackend, data_url, encoded_image, running, tokens_of

TOOL = {"type": "function", "name": "measure", "parameters": {"type": "object", "properties": {}}}
CALL = '<tool_call>{"name": "measure", "arguments": {"count": 1}}</tool_call>'


class Count(pydantic.BaseModel):
    count: int


@pytest.fixture
def backend():
    return FakeBackend(ANSWER)


@pytest.fixture
def client(backend):
    with running(backend, Limits(grace_s=1, default_tokens=200)) as server:
        yield openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)


def shown(text: str = "How many?") -> list[dict]:
    image = {"type": "input_image", "image_url": data_url(encoded_image()), "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def test_a_response(client, backend):
    response = client.responses.create(model="fake", input=shown(), instructions="Be brief.", max_output_tokens=150)
    reasoning, message = response.output
    assert (reasoning.type, reasoning.content[0].text, reasoning.summary) == ("reasoning", TRACE, [])
    assert (response.output_text, message.status, response.status) == ("1 cube", "completed", "completed")
    assert response.usage.output_tokens == len(tokens_of(ANSWER))
    assert response.usage.output_tokens_details.reasoning_tokens == len(tokens_of(TRACE))
    assert response.look_again["reflections"][0]["reinserted_tokens"] == 4
    [job] = backend.jobs
    assert [message["role"] for message in job.messages] == ["system", "user"]
    assert job.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "How many?"}]
    assert (len(job.images), job.sampling.max_new_tokens) == (1, 150)


def test_a_stream_adds_up_to_the_response(client):
    """Would catch a stream that the client's own accumulation refuses, or whose pieces are not the whole."""
    with client.responses.stream(model="fake", input=shown()) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert (text, thought) == ("1 cube", TRACE)
    whole = client.responses.create(model="fake", input=shown())
    assert final.output_text == whole.output_text == "1 cube"
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert any(event.type == "look_again.reflection" for event in events)


def test_parse(backend):
    backend.answer = f'{TRACE}<CONCLUSION>{{"count": 3}}</CONCLUSION>'
    with running(backend) as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)
        assert client.responses.parse(model="fake", input="x", text_format=Count).output_parsed == Count(count=3)
        with client.responses.stream(model="fake", input="x", text_format=Count) as stream:
            assert stream.get_final_response().output_parsed == Count(count=3)
        parsed = client.chat.completions.parse(
            model="fake", messages=[{"role": "user", "content": "x"}], response_format=Count
        )
        assert parsed.choices[0].message.parsed == Count(count=3)
    for job in backend.jobs:
        assert job.options.answer_schema["required"] == ["count"]
        assert job.sampling.max_reasoning_tokens is not None


def test_a_call_and_its_result(backend):
    backend.answer = f"{TRACE}<CONCLUSION>{CALL}</CONCLUSION>"
    with running(backend) as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)
        response = client.responses.create(model="fake", input="x", tools=[TOOL])
        call = response.output[-1]
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "measure", {"count": 1})
        with client.responses.stream(model="fake", input="x", tools=[TOOL]) as stream:
            assert stream.get_final_response().output[-1].arguments == call.arguments
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "3 cm"}
        earlier = [{"role": "user", "content": "x"}, *[item.to_dict() for item in response.output], result]
        client.responses.create(model="fake", input=earlier, tools=[TOOL])
    roles = [(message["role"], message["content"]) for message in backend.jobs[-1].messages[1:]]
    assert roles == [("user", "x"), ("assistant", CALL), ("user", "<tool_response>3 cm</tool_response>")]


def test_earlier_answers_may_be_sent_back(client, backend):
    first = client.responses.create(model="fake", input="a")
    items = [
        {"role": "user", "content": "a"},
        *[item.to_dict() for item in first.output],
        {"role": "user", "content": "b"},
    ]
    client.responses.create(model="fake", input=items)
    assert [(m["role"], m["content"]) for m in backend.jobs[1].messages] == [
        ("user", "a"),
        ("assistant", [{"type": "text", "text": "1 cube"}]),
        ("user", "b"),
    ]


def test_options(client, backend):
    response = client.responses.create(
        model="fake",
        input="x",
        reasoning={"effort": "low"},
        max_output_tokens=100,
        top_logprobs=1,
        include=["message.output_text.logprobs"],
        extra_body={"look_again": {"reattention": "text"}},
    )
    [job] = backend.jobs
    assert job.sampling.max_reasoning_tokens == 25
    assert job.options == DecodeOptions(log_probs=1)
    assert job.policy.mode == "text"
    assert response.reasoning.effort == "low"


def test_an_answer_cut_short_is_incomplete(client):
    response = client.responses.create(model="fake", input="x", max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}
                ]
            },
            "input[0].content[0].image_url",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "intger"}}}},
            "text.format.schema",
        ),
        ({"max_reasoning_tokens": 300}, "max_reasoning_tokens"),
        ({"beams": 3}, "beams"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(client, fields, param):
    response = httpx.post(f"{client.base_url}responses", json={"model": "fake", "input": "x", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_what_is_not_there_says_where_to_go(client):
    with pytest.raises(openai.NotFoundError, match="stores no responses"):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        client.completions.create(model="fake", prompt="x")


def test_what_else_servers_answer(client):
    base = str(client.base_url).removesuffix("/v1/")
    assert httpx.get(f"{base}/ping").status_code == 200
    assert httpx.get(f"{base}/version").json().keys() == {"version"}
    assert httpx.get(f"{base}/v1/models").json()["data"][0]["max_model_len"] == 4096
    page = httpx.get(f"{base}/docs").text
    assert "/v1/responses" in page
    assert "max_reasoning_tokens" in page
    assert "http" not in page.replace("http-equiv", "")
    tokens = httpx.post(f"{base}/tokenize", json={"prompt": "two <SUMMARY> cubes", "return_token_strs": True}).json()
    assert "".join(tokens["token_strs"]) == "two <SUMMARY> cubes"
    assert (tokens["count"], tokens["max_model_len"]) == (len(tokens["tokens"]), 4096)
    assert 532 not in tokens["tokens"]  # a text never makes a tag
    for wrong in ({}, {"prompt": "x" * 200_001}, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}):
        assert httpx.post(f"{base}/tokenize", json=wrong).status_code == 400
