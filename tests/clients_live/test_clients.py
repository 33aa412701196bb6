"""Clients of other people against the running server: their own packages, the shipped model, images and schemas.

The tiny model answers questions about tables; what it says about anything else is noise, but its form is held.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Literal

import httpx
import instructor
import litellm
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

MODEL = "tabletop-tiny"
QUESTION = "Subtract all balls. How many objects are left? Answer briefly."


class Count(BaseModel):
    """A structured answer."""

    number: int = Field(ge=0, le=99)
    colour: Literal["red", "green", "blue"]


@tool
def measure(unit: Literal["cm", "mm"]) -> str:
    """Measure something."""
    return f"7 {unit}"


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "measure",
            "description": "Measure something.",
            "parameters": {
                "type": "object",
                "properties": {"length": {"type": "integer", "minimum": 0, "maximum": 99}},
                "required": ["length"],
                "additionalProperties": False,
            },
        },
    }
]


def turn(image: str | None = None, text: str = QUESTION) -> list[dict[str, Any]]:
    shown = [{"type": "image_url", "image_url": {"url": image}}] if image else []
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=base, api_key="none", max_retries=0)


def test_versions():
    """The versions that docs/serve.md names are read here."""
    print({name: version(name) for name in ("openai", "litellm", "langchain-openai", "instructor")})


# --- the official client


def test_openai_chat(client, image):
    answer = client.chat.completions.create(model=MODEL, messages=turn(image))
    assert answer.choices[0].message.content == "4"
    assert "<REFLECTION>" in answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_openai_chat_stream(client, image):
    stream = client.chat.completions.create(model=MODEL, messages=turn(image), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "4"


def test_openai_chat_parse(client, image):
    parsed = client.chat.completions.parse(model=MODEL, messages=turn(image), response_format=Count)
    assert isinstance(parsed.choices[0].message.parsed, Count)


def test_openai_log_probabilities(client, image):
    answer = client.chat.completions.create(model=MODEL, messages=turn(image), logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries).strip() == "4"
    assert all(len(entry.top_logprobs) == 3 for entry in entries)


def test_openai_tools(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=turn(), tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    [call] = answer.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "7 cm"}
    again = [*turn(), answer.choices[0].message, result]
    assert call.function.name == "measure"
    assert set(json.loads(call.function.arguments)) == {"length"}
    assert client.chat.completions.create(model=MODEL, messages=again, tools=TOOLS).choices[0].finish_reason


def test_openai_responses(client, image):
    content = [{"type": "input_image", "image_url": image}, {"type": "input_text", "text": QUESTION}]
    shown = [{"role": "user", "content": content}]
    response = client.responses.create(model=MODEL, input=shown)
    assert response.output_text == "4"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    with client.responses.stream(model=MODEL, input=shown) as stream:
        assert stream.get_final_response().output_text == "4"
    assert isinstance(client.responses.parse(model=MODEL, input=shown, text_format=Count).output_parsed, Count)


def test_openai_reasoning_that_is_bounded(client, image):
    answer = client.chat.completions.create(
        model=MODEL, messages=turn(image), max_completion_tokens=80, reasoning_effort="low"
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens <= 20
    assert answer.choices[0].message.content


def test_openai_where_it_looked(client, image):
    extra = {"look_again": {"attention": True}}
    answer = client.chat.completions.create(model=MODEL, messages=turn(image), extra_body=extra)
    attention = answer.look_again["attention"]
    assert attention["visual_tokens"] == [[6, 6]]
    assert len(attention["looks"]) >= 1


# --- litellm


def test_litellm(base, image):
    options = {"model": f"openai/{MODEL}", "api_base": base, "api_key": "none", "messages": turn(image)}
    answer = litellm.completion(**options)
    assert answer.choices[0].message.content == "4"
    assert "<REFLECTION>" in answer.choices[0].message.reasoning_content
    stream = litellm.completion(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "4"


def test_litellm_structured_and_tools(base):
    options = {"model": f"openai/{MODEL}", "api_base": base, "api_key": "none", "messages": turn()}
    answer = litellm.completion(**options, response_format=Count)
    Count.model_validate_json(answer.choices[0].message.content)
    answer = litellm.completion(**options, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert answer.choices[0].message.tool_calls[0].function.name == "measure"


# --- langchain


@pytest.fixture(scope="module")
def chat(base):
    return ChatOpenAI(model=MODEL, base_url=base, api_key="none", max_retries=0)


def test_langchain(chat, image):
    message = HumanMessage(turn(image)[0]["content"])
    assert chat.invoke([message]).content == "4"
    assert "".join(str(part.content) for part in chat.stream([message])) == "4"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(chat, method):
    structured = chat.with_structured_output(Count, method=method)
    assert isinstance(structured.invoke("How many?"), Count)


def test_langchain_tools(chat):
    message = chat.bind_tools([measure], tool_choice="required", parallel_tool_calls=False).invoke("How long is it?")
    assert message.tool_calls[0]["name"] == "measure"


def test_langchain_responses_api(base, image):
    chat = ChatOpenAI(model=MODEL, base_url=base, api_key="none", max_retries=0, use_responses_api=True)
    assert chat.invoke([HumanMessage(turn(image)[0]["content"])]).text == "4"


# --- instructor


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_instructor(client, image, mode):
    structured = instructor.from_openai(client, mode=mode)
    answer = structured.chat.completions.create(
        model=MODEL, messages=turn(image), response_model=Count, max_retries=0, max_tokens=300
    )
    assert isinstance(answer, Count)


# --- Open WebUI: the shapes of the bodies that it sends, by what a user may set


def test_open_webui(base, image):
    models = httpx.get(f"{base}/models").json()["data"]
    assert models[0]["id"] == MODEL
    settings = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "repetition_penalty": 1.1,
        "seed": 1,
        "max_tokens": 160,
        "stop": ["###"],
        "reasoning_effort": "medium",
    }
    chat = {"model": MODEL, "messages": turn(image), "stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{base}/chat/completions", json={**chat, **settings}, timeout=60) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["usage"]["total_tokens"] > 0
    title = {"model": MODEL, "messages": turn(), "stream": False, "max_completion_tokens": 100}
    assert httpx.post(f"{base}/chat/completions", json=title, timeout=60).status_code == 200
