"""vLLM servers at fault, through the backend: what the start says of them, and what clients are not told."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from PIL import Image

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.serving.backend import BackendError, Job
from look_again.serving.http.chat_jobs import Defaults
from look_again.serving.http.routes import create_app
from look_again.serving.http.service import Service
from look_again.serving.vllm import probe as vllm_probe
from look_again.serving.vllm.vllm_backend import VllmBackend
from tests.serving.vllm.fake_vllm import FakeVllm, transport

TAG, CLOSE, EOS = 538, 539, 524
ANSWER = [532, 300, TAG, CLOSE, EOS]  # one reflection


def test_a_trial_that_is_not_answered_ends_in_time(light, monkeypatch):
    """Would catch a start that waits minutes for a server that takes requests and says nothing."""
    monkeypatch.setattr(vllm_probe, "PROBE_TIMEOUT_S", 0.05)
    fake = FakeVllm(ANSWER, probe_silent=True)
    backend = VllmBackend(urls=["http://a"], transport=transport(a=fake), **light)
    with pytest.raises(BackendError, match=r"http://a: it did not answer a small prompt in 0.05 s"):
        asyncio.run(asyncio.wait_for(backend.start(), 60))


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"token_ids": []}, "without a token"),
        ({"logprobs": None}, "without a token and its log-probability"),
        ({"logprobs": {"content": []}}, "without a token and its log-probability"),
        ({"logprobs": {"content": [{"logprob": float("nan")}]}}, "other weights"),
        ({"token_ids": [10**6]}, "out of bounds"),
    ],
)
def test_a_trial_answered_without_what_was_asked_says_so_at_the_start(loaded, choice, said):
    """Would catch a traceback in place of the server's name, and a NaN that passes for the same weights."""
    backend = VllmBackend(loaded, ["http://a"], transport=transport(a=FakeVllm(ANSWER, probe_choice=choice)))
    with pytest.raises(BackendError, match=f"http://a: .*{said}"):
        asyncio.run(backend.start())


def asked() -> Job:
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    return Job(
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (168, 168), "red")],
        policy=Reattention(mode="copy"),
        sampling=Sampling(max_new_tokens=50),
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"expand_to": 35}, "vllm-0 read another prompt"),
        ({"status": 401}, "vllm-0 answered 401"),
        ({"status": 503}, "the last one, vllm-0: no"),
        ({"later": 429}, "vllm-0 is busy in mid-answer"),
        ({"script": ANSWER[:3]}, "vllm-0 answered without a token"),
    ],
)
def test_clients_are_not_told_where_the_servers_are(light, fault, said):
    """Would catch an internal address in an error of a request."""
    later, fake = fault.pop("later", None), FakeVllm(**{"script": ANSWER, **fault})

    def after_a_request(number):
        fake.status = later or fake.status

    async def go():
        fakes = transport(**{"inner.example": fake})
        backend = VllmBackend(urls=["http://inner.example"], transport=fakes, on_request=after_a_request, **light)
        await backend.start()
        try:
            async for _ in backend.generate(asked()):
                pass
        finally:
            await backend.close()

    with pytest.raises(BackendError, match=said) as raised:
        asyncio.run(asyncio.wait_for(go(), 60))
    assert "inner" not in str(raised.value)


ODD = {
    "no JSON": "{",
    "brackets without end": "[" * 100_000,
    "a list": "[]",
    "a number": "7",
    "choices that are a number": {"choices": 3},
    "a choice that is a text": {"choices": ["no"]},
    "tokens that are a text": {"choices": [{"token_ids": "no"}]},
    "a token that is a text": {"choices": [{"token_ids": ["no"]}]},
    "a token that is half a number": {"choices": [{"token_ids": [1.5]}]},
    "log-probabilities that are a list": {"choices": [{"token_ids": [300], "logprobs": [1]}]},
    "a log-probability that is missing": {"choices": [{"token_ids": [300], "logprobs": {"content": [{}]}}]},
    "accounts that are a text": {"choices": [], "usage": "no"},
    "a count that is a text": {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": "no"}}},
}


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_answer_that_cannot_be_read_is_the_engines_fault(light, odd, after):
    """Would catch a 400 that blames the caller, or a 500 without a word, for what vLLM wrote."""
    fake = FakeVllm(ANSWER, odd_after=after, odd=odd)

    async def go():
        backend = VllmBackend(urls=["http://inner.example"], transport=transport(**{"inner.example": fake}), **light)
        await backend.start()
        app = create_app(Service(backend, Defaults(name="m", policy=Reattention(mode="copy"))))
        body = {"model": "m", "messages": [{"role": "user", "content": "What?"}]}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            answer = await client.post("/v1/chat/completions", json=body)
        await backend.close()
        return answer

    answer = asyncio.run(asyncio.wait_for(go(), 60))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error"), answer.text
    assert "malformed answer of vLLM" in answer.json()["error"]["message"]
    assert "inner" not in answer.text


def test_health_names_no_address(light):
    """Would catch what anybody may read without a key: where the servers are."""
    fakes = transport(**{"inner.example": FakeVllm(ANSWER), "other.example": FakeVllm(ANSWER, broken=True)})

    async def go():
        backend = VllmBackend(urls=["http://inner.example", "http://other.example"], transport=fakes, **light)
        await backend.start()
        app = create_app(Service(backend, Defaults(name="m", policy=Reattention())))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            answer = (await client.get("/health")).json()
        await backend.close()
        return answer

    engines = {"vllm-0": True, "vllm-1": False}
    assert asyncio.run(go()) == {"status": "degraded", "backend": "vllm", "engines": engines}


@pytest.mark.parametrize("url", ["http://ann:s3cret@x:80", "http://s3cret@x:80", "ann:s3cret@x:80"])
def test_a_url_with_a_password_is_refused(light, url):
    """Would catch a secret in logs, by way of whichever command takes the URL."""
    with pytest.raises(ValueError, match="server at 'x:80'") as raised:
        VllmBackend(urls=[url], **light)
    assert "s3cret" not in str(raised.value)
