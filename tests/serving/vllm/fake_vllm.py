"""A vLLM server that plays an answer from a script, for tests of what goes over the wire.

It keeps the real one's rules: one image token per content part is expanded, an unknown uuid without bytes is refused,
an answer ends at a stop token or at its length. It reads how much of the script has been said from the prompt alone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgpack

IMAGE, VIDEO, START, END = 530, 531, 527, 528  # of the shipped tokenizer
ROWS = 36  # visual rows of every image in these tests
TURN = 526  # opens a turn; the assistant's is opened by three tokens


@dataclass
class FakeVllm:
    """script: tokens of the answer. probe: the prompt that asks whether this is the right checkpoint.

    probe_choice: what its answer holds otherwise. probe_silent: it is never answered. score: log-probabilities of
    tokens after a prompt, as the weights there give them. max_images: in a prompt.

    die_after: tokens of an answer after which the connection breaks, once; silent_after: after which nothing comes.
    error_after: tokens before an error event. odd_after: tokens before an event of another
    shape, `odd`. no_usage: breaks the connection instead of saying what was cached.
    broken: refuses connections. endpoint: whether it has the token endpoint.
    """

    script: list[int]
    probe_choice: dict[str, Any] = field(default_factory=dict)
    probe_silent: bool = False
    die_after: int | None = None
    silent_after: int | None = None
    error_after: int | None = None
    odd_after: int | None = None
    odd: Any = None
    no_usage: bool = False
    broken: bool = False
    endpoint: bool = True
    expand_to: int = ROWS
    max_model_len: int = 400
    status: int = 200
    log_prob: Callable[[int], float] = lambda token: -1.0
    score: Callable[[list[int], list[int]], list[float]] | None = None
    max_images: int = 999
    missing: int = 404  # status of the token endpoint where there is none
    known: set[str] = field(default_factory=set)
    requests: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.broken:
            raise httpx.ConnectError("refused", request=request)
        if request.url.path == "/health":
            return httpx.Response(200)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "max_model_len": self.max_model_len}]})
        if request.url.path != "/inference/v1/generate" or not self.endpoint:
            return refusal(self.missing if "/v1/" in request.url.path else 404, "Not Found")
        body = json.loads(request.content)
        if self.is_probe(body):
            if len(body.get("content_parts", [])) > self.max_images:
                return refusal(400, f"At most {self.max_images} image(s) may be provided in one prompt.")
            count = body["sampling_params"]["max_tokens"]
            drawn = random.Random(1).choices(range(300, 500), k=count) if count > 1 else self.script[:1]
            return httpx.Response(200, stream=Events(self, self.answer(body, drawn, probe=True)))
        self.requests.append(body)
        if self.status != 200:
            return refusal(self.status, "no")
        for part in body.get("content_parts", []):
            if part["url"] is None and part["uuid"] not in self.known:
                return refusal(400, "Cache miss for image at index 0 but data is not provided.")
            self.known.add(part["uuid"])
        said = len(self.said(body["token_ids"]))
        return httpx.Response(200, stream=Events(self, self.answer(body, self.script[said:])))

    def is_probe(self, body: dict[str, Any]) -> bool:
        return body["sampling_params"].get("logprobs") == 0

    def said(self, token_ids: list[int]) -> list[int]:
        """The part of the script that a prompt already holds: all text of the last turn."""
        turn = max(place for place, token in enumerate(token_ids) if token == TURN)
        return [token for token in token_ids[turn + 3 :] if token not in (IMAGE, START, END)]

    async def answer(self, body: dict[str, Any], tokens: list[int], probe: bool = False) -> AsyncIterator[Any]:
        asked, ids = body["sampling_params"], list[int]()
        rows = ROWS if probe else self.expand_to
        if probe and self.probe_silent:
            await asyncio.sleep(3600)
        for token in body["token_ids"]:
            ids += [IMAGE] * rows if token == IMAGE and "content_parts" in body else [token]
        scores = self.score(body["token_ids"], tokens) if probe and self.score and "content_parts" not in body else None
        for place, token in enumerate(tokens[: asked["max_tokens"]]):
            if not probe:
                if place == self.die_after:
                    self.die_after = None
                    raise httpx.ReadError("gone")
                if place == self.silent_after:
                    await asyncio.sleep(3600)
                if place == self.error_after:
                    self.error_after = None
                    yield {"error": {"code": 500, "message": "engine dead"}}
                    return
                if place == self.odd_after:
                    yield self.odd
            stopped = token in asked["stop_token_ids"]
            done = stopped or place + 1 == min(len(tokens), asked["max_tokens"])
            choice = {"token_ids": [token], "finish_reason": ("stop" if stopped else "length") if done else None}
            if "logprobs" in asked:
                scored = {"token_id": token, "logprob": scores[place] if scores else self.log_prob(token), "rank": 1}
                choice["logprobs"] = {"content": [{**scored, "top_logprobs": [scored] * asked["logprobs"]}]}
            choice |= self.probe_choice if probe else {}
            yield {"choices": [choice], **({"prompt_token_ids": ids} if place == 0 else {})}
            if stopped:
                break
        if self.no_usage and not probe:
            raise httpx.ReadError("gone")
        yield {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": len(ids) // 32 * 32}}}
        yield "[DONE]"


@dataclass
class Events(httpx.AsyncByteStream):
    fake: FakeVllm
    events: AsyncIterator[Any]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.fake.open += 1
        async for event in self.events:
            yield f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()

    async def aclose(self) -> None:
        self.fake.open -= 1


def refusal(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "code": status}})


def transport(**fakes: FakeVllm) -> httpx.MockTransport:
    """By host name: http://a, http://b."""

    async def handle(request: httpx.Request) -> httpx.Response:
        return await fakes[request.url.host](request)

    return httpx.MockTransport(handle)


def items_of(body: dict[str, Any]) -> list[tuple[tuple[int, ...], tuple[int, ...], bytes]]:
    """Of a request with features: each item's shape, grid of patches and bytes."""
    found = []
    for data in body["features"]["kwargs_data"]["image"]:
        item = msgpack.unpackb(base64.b64decode(data))
        (_, shape, rows), (_, _, grid) = item["image_embeds"]["data"], item["image_grid_thw"]["data"]
        numbers = tuple(int.from_bytes(grid.data[i : i + 8], "little") for i in (0, 8, 16))
        found.append((tuple(shape), numbers, rows.data))
    return found
