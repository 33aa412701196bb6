"""What comes back over HTTP: completions, streams, reports, lists and metrics, from a backend told what to say."""

from __future__ import annotations

import json

import httpx
import pytest

from look_again.core.reattention import Reattention
from look_again.serving.http.metrics import MEDIA_TYPE
from tests.serving.http.served import (
    ANSWER,
    ROWS,
    TRACE,
    FakeBackend,
    body,
    data_url,
    encoded_image,
    image_part,
    running,
    tokens_of,
)


@pytest.fixture(scope="module")
def server():
    with running(FakeBackend()) as one:
        yield one


def chunks(lines):
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(made, field, index=0):
    deltas = [c["delta"] for chunk in made for c in chunk["choices"] if c["index"] == index]
    return "".join(delta.get(field) or "" for delta in deltas)


def test_an_answer(server):
    made = server.post(body()).json()
    [choice] = made["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "1 cube",
        "refusal": None,
        "reasoning_content": TRACE,
        "reasoning": TRACE,
    }
    assert (choice["finish_reason"], made["object"], made["model"]) == ("stop", "chat.completion", "fake")
    sampled = len(tokens_of(ANSWER))
    assert made["usage"] == {
        "prompt_tokens": 20 + ROWS,
        "completion_tokens": sampled,
        "total_tokens": 20 + ROWS + sampled,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": len(tokens_of(TRACE))},
        "look_again": {"visual_tokens": ROWS, "reinserted_tokens": ROWS, "forced_tokens": 0},
    }
    assert made["look_again"] == {
        "reattention": "copy",
        "reflections": [
            {
                "choice": 0,
                "mode": "copy",
                "at": tokens_of(ANSWER).index(tokens_of("<REFLECTION>")[0]),
                "reinserted_tokens": ROWS,
                "skipped": None,
            }
        ],
        "notes": [],
    }


def test_a_stream_says_the_same(server):
    """Streams and whole answers are put together in two places; they must not drift apart."""
    whole = server.post(body(n=2)).json()
    made = chunks(server.lines(body(n=2, stream=True, stream_options={"include_usage": True})))
    for index, choice in enumerate(whole["choices"]):
        for field in ("content", "reasoning_content"):
            assert joined(made, field, index) == choice["message"][field]
    assert made[-1]["choices"] == []
    assert made[-1]["usage"] == whole["usage"]
    assert made[-2]["look_again"] == whole["look_again"]
    reasons = [c["finish_reason"] for chunk in made for c in chunk["choices"] if c["finish_reason"]]
    assert reasons == ["stop", "stop"]
    assert {chunk["object"] for chunk in made} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in made}) == 1


def test_a_reflection_is_told_where_it_happens(server):
    made = chunks(server.lines(body(stream=True, look_again={"rows": True})))
    place = next(i for i, chunk in enumerate(made) if "look_again" in chunk)
    assert made[place]["look_again"]["reflections"][0]["rows"] == list(range(ROWS))
    assert joined(made[place : place + 2], "reasoning_content") == "<REFLECTION>"
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_no_usage_unless_asked_for(server):
    for fields in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        assert not any("usage" in chunk for chunk in chunks(server.lines(body(stream=True, **fields))))


def test_headers_of_a_stream(server):
    with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=body(stream=True)) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-accel-buffering"] == "no"  # or nginx collects it
        assert response.headers["x-request-id"].startswith("chatcmpl-")
        response.read()


def test_everything_in_content(server):
    made = server.post(body(look_again={"content": "all"})).json()
    assert made["choices"][0]["message"]["content"] == ANSWER
    assert "reasoning_content" not in made["choices"][0]["message"]
    assert joined(chunks(server.lines(body(stream=True, look_again={"content": "all"}))), "content") == ANSWER


def test_an_answer_cut_short(server):
    made = server.post(body(max_tokens=4)).json()
    assert (made["choices"][0]["finish_reason"], made["choices"][0]["message"]["content"]) == ("length", "")
    assert any("no CONCLUSION" in note for note in made["look_again"]["notes"])


def test_a_stop_string_in_a_stream(server):
    made = chunks(server.lines(body(stream=True, stop=["count", "a cube</CAPTION>"])))
    assert joined(made, "reasoning_content") == "<SUMMARY>"
    assert [c["stop_reason"] for c in made[-1]["choices"]] == ["count"]


def test_without_images_it_says_so(server):
    made = server.post(body("How many?")).json()
    assert made["look_again"]["notes"] == ["there is no image: answered without re-attention"]
    assert server.post(body("How many?", look_again={"reattention": "text"})).json()["look_again"]["notes"] == []


def test_what_a_backend_is_asked():
    """Everything a request says has to arrive at the backend."""
    backend = FakeBackend()
    images = [image_part(encoded_image("JPEG", (70, 30))), image_part(encoded_image("WEBP", (30, 70)))]
    with running(backend, policy=Reattention(max_reinsertions=3)) as server:
        asked = body(images[0], "and", images[1], n=2, seed=5, temperature=0.5, top_p=0.9, max_tokens=100)
        server.post(asked | {"model": "fake:route-25"})
        server.post(asked | {"model": "fake:vision"})
    first, second, third, _ = backend.jobs
    assert first.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]}
    ]
    assert [image.size for image in first.images] == [(70, 30), (30, 70)]
    assert first.policy == Reattention(mode="route", keep=25, max_reinsertions=3)
    assert (first.sampling.seed, second.sampling.seed, first.sampling.max_new_tokens) == (5, 6, 100)
    assert (first.sampling.temperature, first.sampling.top_p) == (0.5, 0.9)
    assert first.conversation == third.conversation != ""
    assert third.policy.mode == "vision"


def test_an_animation_is_noted(server):
    from tests.serving.http.test_image_parts import animated

    part = {"type": "image_url", "image_url": {"url": data_url(animated("GIF"), "image/gif")}}
    assert "animated" in server.post(body(part, "?")).json()["look_again"]["notes"][0]


def test_models(server):
    names = [one["id"] for one in httpx.get(f"{server.base}/v1/models").json()["data"]]
    assert names == ["fake", "fake:text", "fake:copy", "fake:route-50", "fake:vision"]
    assert httpx.get(f"{server.base}/v1/models/fake:copy").json()["id"] == "fake:copy"
    assert httpx.get(f"{server.base}/v1/models/fake:route-25").json()["id"] == "fake:route-25"
    assert httpx.get(f"{server.base}/v1/models/fake:blink").status_code == 404
    assert httpx.get(f"{server.base}/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_every_listed_model_answers(server):
    for one in httpx.get(f"{server.base}/v1/models").json()["data"]:
        assert server.post(body() | {"model": one["id"]}).status_code == 200


def test_health():
    with running(FakeBackend()) as server:
        well = httpx.get(f"{server.base}/health")
    assert (well.status_code, well.json()["engines"]) == (200, {"fake": True})
    with running(FakeBackend(fails_after=0)) as server:
        ill = httpx.get(f"{server.base}/health")
    assert (ill.status_code, ill.json()["status"]) == (503, "down")


def test_metrics_count_and_name_nothing_of_a_request():
    """A label per model name, path or user would grow without bound."""
    with running(FakeBackend()) as server:
        server.post(body())
        server.post(body() | {"model": "secret-name"})
        for path in ("/a", "/b"):
            httpx.get(server.base + path)
        response = httpx.get(f"{server.base}/metrics")
    assert response.headers["content-type"] == MEDIA_TYPE
    lines = response.text.splitlines()
    assert 'look_again_requests_total{status="200"} 1.0' in lines
    assert 'look_again_requests_total{status="404"} 1.0' in lines
    assert f'look_again_tokens_total{{kind="sampled"}} {len(tokens_of(ANSWER)):.1f}' in lines
    assert 'look_again_reflections_total{looked="yes",mode="copy"} 1.0' in lines
    assert "look_again_backend_odd_name 1.0" in lines
    assert "look_again_requests_running 0.0" in lines
    assert "secret-name" not in response.text
    assert "/a" not in response.text.replace("application", "")


def test_the_openapi_description_holds_the_body(server):
    made = httpx.get(f"{server.base}/openapi.json").json()
    schema = made["components"]["schemas"]["ChatRequest"]
    assert schema["required"] == ["model", "messages"]
    assert schema["additionalProperties"] is False
    assert made["paths"]["/v1/chat/completions"]["post"]["requestBody"]["required"]
