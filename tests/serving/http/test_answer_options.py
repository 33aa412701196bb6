"""What a request says of its answer reaches the backend, and what comes of it reaches the caller, in both forms."""

from __future__ import annotations

import json

import pytest

from look_again.core.generate import Token
from look_again.model import Sampling
from look_again.serving.backend import ScoredToken
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.http.limits import Limits
from look_again.serving.tool_calls import CLOSE, OPEN, render_call
from tests.serving.http.served import ANSWER, TRACE, FakeBackend, body, running, tokens_of

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "measure", "description": "length", "parameters": SCHEMA}}
CALL = '<tool_call>{"name": "measure", "arguments": {"count": 1}}</tool_call>'


def answered(text: str) -> FakeBackend:
    return FakeBackend(f"{TRACE}<CONCLUSION>{text}</CONCLUSION>")


def ask(backend, path="/v1/chat/completions", **fields):
    with running(backend, Limits(grace_s=1, default_tokens=200)) as server:
        return server.post(body("How many?", **fields))


def stream(backend, **fields):
    with running(backend) as server:
        return [json.loads(line) for line in server.lines(body("How many?", **fields, stream=True))[:-1]]


def refused(**fields):
    response = ask(FakeBackend(ANSWER), **fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_every_option_reaches_the_backend():
    backend = FakeBackend(ANSWER)
    fields = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    assert ask(backend, **fields, logprobs=True, top_logprobs=2, max_tokens=50).status_code == 200
    assert backend.jobs[0].options == DecodeOptions(**fields, log_probs=2)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"bad_words": []},
        {"priority": 0},
        {"top_k": -1},
        {"min_p": 0},
        {"repetition_penalty": 1},
        {"best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "early_stopping": False},
        {"include_stop_str_in_output": False, "spaces_between_special_tokens": True, "detokenize": True},
        {"tool_choice": "none", "tools": [TOOL]},
        {"response_format": {"type": "text"}},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_values_that_change_nothing_are_taken(fields):
    backend = FakeBackend(ANSWER)
    assert ask(backend, **fields).json()["choices"][0]["message"]["content"] == "1 cube"
    assert backend.jobs[0].options == DecodeOptions()


def test_names_and_cache_marks_are_taken_and_noted():
    message = {
        "role": "user",
        "name": "Ann",
        "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
    }
    response = ask(FakeBackend(ANSWER), messages=[message]).json()
    assert response["look_again"]["notes"][:2] == [
        "names of messages are not shown to the model",
        "cache_control is ignored",
    ]


def test_an_answer_comes_back_under_either_name_of_its_reasoning():
    backend = FakeBackend(ANSWER)
    earlier = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "reasoning": "hidden"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "reasoning_content": "hidden", "reasoning": "hidden"},
        {"role": "user", "content": "d"},
    ]
    assert ask(backend, messages=earlier).status_code == 200
    assert [message["content"] for message in backend.jobs[0].messages] == ["a", "", "b", "c", "d"]


# --- a bound on the reasoning


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({}, None),
        ({"max_reasoning_tokens": 7}, 7),
        ({"max_reasoning_tokens": 0}, 0),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "low"}, 25),
        ({"reasoning_effort": "high"}, 75),
        ({"reasoning_effort": "low", "max_reasoning_tokens": 60}, 60),
        ({"response_format": FORMAT}, 75),
    ],
    ids=str,
)
def test_a_bound_on_the_reasoning(fields, bound):
    backend = FakeBackend(ANSWER)
    assert ask(backend, max_tokens=100, **fields).status_code == 200
    assert backend.jobs[0].sampling == Sampling(max_new_tokens=100, max_reasoning_tokens=bound)


def test_a_bound_without_room_for_an_answer_is_refused():
    assert refused(max_tokens=10, max_reasoning_tokens=10)["param"] == "max_reasoning_tokens"
    assert refused(reasoning_effort="huge")["param"] == "reasoning_effort"


# --- log-probabilities and tokens


class Scored(FakeBackend):
    """Every sampled token with a log-probability and a second choice."""

    async def _events(self, job, ids):
        async for event in super()._events(job, ids):
            if isinstance(event, Token):
                event = ScoredToken(0, event.token_id, False, -0.5, ((event.token_id, -0.5), (300, float("-inf"))))
            yield event


def test_log_probabilities_of_the_content_and_of_the_reasoning():
    log_probs = ask(Scored(ANSWER), logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]
    assert "".join(entry["token"] for entry in log_probs["content"]) == " 1 cube "
    assert "".join(entry["token"] for entry in log_probs["reasoning_content"]).startswith(TRACE)
    first = log_probs["content"][0]
    assert (first["logprob"], bytes(first["bytes"]).decode()) == (-0.5, first["token"])
    assert [entry["logprob"] for entry in first["top_logprobs"]] == [-0.5, -9999.0]


def test_a_stream_holds_the_same_log_probabilities_and_tokens():
    whole = ask(Scored(ANSWER), logprobs=True, return_token_ids=True).json()
    parts = [chunk["choices"][0] for chunk in stream(Scored(ANSWER), logprobs=True, return_token_ids=True)]
    for field in ("content", "reasoning_content"):
        streamed = [entry for part in parts for entry in (part["logprobs"] or {}).get(field, [])]
        assert streamed == whole["choices"][0]["logprobs"][field]
    ids = [token for part in parts for token in part.get("token_ids", [])]
    assert sorted(ids) == sorted(whole["choices"][0]["token_ids"]) == sorted(tokens_of(ANSWER))


def test_no_tokens_unless_asked_for():
    choice = ask(FakeBackend(ANSWER)).json()["choices"][0]
    assert choice["logprobs"] is None
    assert "token_ids" not in choice
    assert refused(top_logprobs=3)["param"] == "top_logprobs"


# --- structured answers


def test_a_schema_reaches_the_backend_and_the_model():
    backend = answered('{"count": 1}')
    message = ask(backend, response_format=FORMAT).json()["choices"][0]["message"]
    assert json.loads(message["content"]) == {"count": 1}
    assert backend.jobs[0].options.answer_schema == {**SCHEMA, "additionalProperties": False}
    assert json.dumps(SCHEMA) in backend.jobs[0].messages[0]["content"]
    backend = answered("{}")
    ask(backend, response_format={"type": "json_object"})
    assert backend.jobs[0].options.answer_schema == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "intger"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 60_000]}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": FORMAT, "look_again": {"content": "all"}}, "look_again.content"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"guided_json": SCHEMA}, "guided_json"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_named(fields, param):
    assert refused(**fields)["param"] == param


# --- tools


def test_descriptions_of_tools_count_as_text():
    """Would catch a bound on texts that a long description passes by."""
    long = {"type": "function", "function": {"name": "x", "description": "y" * 1_000_000}}
    assert refused(tools=[long])["code"] == "context_length_exceeded"


def test_a_call_comes_back_as_one():
    backend = answered(CALL)
    choice = ask(backend, tools=[TOOL]).json()["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"], choice["finish_reason"]) == ("function", "measure", "tool_calls")
    assert json.loads(call["function"]["arguments"]) == {"count": 1}
    assert choice["message"]["content"] is None
    assert "measure" in backend.jobs[0].messages[0]["content"]
    assert backend.jobs[0].options.answer_schema is None


@pytest.mark.parametrize(
    "text", ["1 cube", "<b>1</b>", f"{CALL} and more", CALL.replace("measure", "unknown"), CALL[:-5]]
)
def test_what_is_no_call_stays_text(text):
    choice = ask(answered(text), tools=[TOOL]).json()["choices"][0]
    assert choice["message"]["content"] == text
    assert "tool_calls" not in choice["message"]


def test_a_named_function_holds_the_answer_to_its_arguments():
    backend = answered('{"count": 2}')
    chosen = {"type": "function", "function": {"name": "measure"}}
    [call] = ask(backend, tools=[TOOL], tool_choice=chosen).json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "measure", "arguments": '{"count": 2}'}
    assert backend.jobs[0].options.answer_schema == {**SCHEMA, "additionalProperties": False}


def test_a_required_call_may_be_several_unless_they_may_not():
    calls = '[{"name": "measure", "arguments": {"count": 1}}, {"name": "measure", "arguments": {"count": 2}}]'
    backend = answered(calls)
    made = ask(backend, tools=[TOOL], tool_choice="required").json()["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["count"] for call in made] == [1, 2]
    assert len({call["id"] for call in made}) == 2
    ask(backend, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    assert backend.jobs[1].options.answer_schema["maxItems"] == 1


def test_a_stream_of_a_call_and_of_text():
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(answered(CALL), tools=[TOOL])]
    [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert (calls[0]["index"], calls[0]["function"]["name"]) == (0, "measure")
    assert not any(delta.get("content") for delta in deltas)
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(answered("<t 1 cube"), tools=[TOOL])]
    assert "".join(delta.get("content") or "" for delta in deltas) == "<t 1 cube"


def test_calls_and_their_results_are_shown_to_the_model():
    backend = FakeBackend(ANSWER)
    calls = [{"id": "c1", "type": "function", "function": {"name": "measure", "arguments": '{"count": 1}'}}]
    earlier = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "3 cm"},
    ]
    assert ask(backend, messages=earlier, tools=[TOOL]).status_code == 200
    roles = [(message["role"], message["content"]) for message in backend.jobs[0].messages[1:]]
    assert roles == [("user", "a"), ("assistant", CALL), ("user", "<tool_response>3 cm</tool_response>")]


@pytest.mark.parametrize(
    "arguments", ["[" * 100_000, "[" * 3000 + "]" * 3000, '{"a": NaN}', '{"a": "\\ud800"}', "{", ""]
)
def test_odd_arguments_of_an_earlier_call_are_shown_as_text(arguments):
    """Deep ones were a 500, half a surrogate pair a 400 that named no field."""
    assert json.loads(render_call("f", arguments)[len(OPEN) : -len(CLOSE)]) == {"name": "f", "arguments": arguments}


def test_arguments_of_an_earlier_call_are_shown_as_an_object():
    shown = render_call("f", '{"é":1}')
    assert shown == f'{OPEN}{{"name": "f", "arguments": {{"é": 1}}}}{CLOSE}'


@pytest.mark.parametrize("penalty", [0, 1e-300, 1e-40, 0.009, 2.1])
def test_penalties_that_overflow_logits_are_refused(penalty):
    assert refused(repetition_penalty=penalty)["param"] == "repetition_penalty"
