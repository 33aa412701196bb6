"""What the server's tests share: a backend that says what it is told to, and a real server in a thread."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from PIL import Image
from transformers import AutoConfig

from look_again.core.families import find_family
from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.loading import Checkpoint, default_checkpoint, load_tokenizer
from look_again.serving.backend import BackendError, BackendEvent, Ended, Job, Started
from look_again.serving.http.chat_jobs import Defaults
from look_again.serving.http.limits import Limits
from look_again.serving.http.routes import create_app
from look_again.serving.http.server_process import bind, build_server, format_url
from look_again.serving.http.service import Service
from look_again.text.chat import encode_response
from look_again.text.grammar import TAG_TOKENS
from look_again.web.access import Access

TRACE = "<SUMMARY>count</SUMMARY><CAPTION>a cube</CAPTION><REASONING>one</REASONING><REFLECTION>yes</REFLECTION>"
ANSWER = f"{TRACE}<CONCLUSION> 1 cube </CONCLUSION>"
ROWS = 4  # visual rows of each image, for the fake


@cache
def checkpoint() -> Checkpoint:
    """The shipped checkpoint without its weights."""
    folder = str(default_checkpoint())
    config = AutoConfig.from_pretrained(folder)
    return Checkpoint("fake", None, load_tokenizer(folder), None, find_family(config), True)


@cache
def tokens_of(text: str) -> list[int]:
    tokenizer = checkpoint().tokenizer
    ids, _ = encode_response(tokenizer, text, {tag: tokenizer.convert_tokens_to_ids(tag) for tag in TAG_TOKENS})
    return ids


@dataclass
class FakeBackend:
    """Answers `answer`, a token every `step_s`; `fails_after` so many tokens. `closed`: answers ended early."""

    answer: str | Callable[[Job], str] = ANSWER
    step_s: float = 0.0
    fails_after: int | None = None
    error: Exception = field(default_factory=lambda: BackendError("the engine is gone"))
    refuses: Exception | None = None
    reason: str = "stop"
    name: str = "transformers"
    checkpoint: Checkpoint = field(default_factory=checkpoint)
    jobs: list[Job] = field(default_factory=list)
    max_context: int = 4096
    running: int = 0
    closed: int = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def check(self, job: Job) -> None:
        if self.refuses is not None:
            raise self.refuses

    async def generate(self, job: Job) -> AsyncGenerator[BackendEvent, None]:
        self.jobs.append(job)
        self.running += 1
        done = False
        try:
            text = self.answer if isinstance(self.answer, str) else self.answer(job)
            async for event in self._events(job, tokens_of(text)):
                yield event
            done = True
        finally:
            self.running -= 1
            self.closed += not done

    async def _events(self, job: Job, ids: list[int]) -> AsyncGenerator[BackendEvent, None]:
        yield Started(20 + ROWS * len(job.images), ROWS * len(job.images))
        looks = checkpoint().tokenizer.convert_tokens_to_ids("<REFLECTION>")
        seen = []
        for at, token in enumerate(ids[: job.sampling.max_new_tokens]):
            if at == self.fails_after:
                raise self.error
            await asyncio.sleep(self.step_s)
            if token == looks and job.images and job.policy.inserts:
                seen.append(Reflection(job.policy.mode, visual_indices=tuple(range(ROWS)), at=at))
                yield Reinsertion(0, seen[-1])
            yield Token(0, token)
        short = job.sampling.max_new_tokens < len(ids)
        sampled = min(len(ids), job.sampling.max_new_tokens)
        yield Ended("length" if short else self.reason, tuple(seen), sampled, 0, ROWS * len(seen), 5)

    async def borrow(self, work: Any) -> Any:
        raise NotImplementedError

    async def health(self) -> Mapping[str, bool]:
        return {"fake": self.fails_after != 0}

    def gauges(self) -> Mapping[str, float]:
        return {"running": self.running, "odd-name": 1}


@dataclass
class Running:
    """A server that answers. `base`: without /v1."""

    base: str
    service: Service
    server: Any
    thread: threading.Thread

    def post(self, body: Any, path: str = "/v1/chat/completions", **kwargs: Any) -> httpx.Response:
        return httpx.post(f"{self.base}{path}", json=body, timeout=60, **kwargs)

    def lines(self, body: Any) -> list[str]:
        """The data of a stream's events."""
        with httpx.stream("POST", f"{self.base}/v1/chat/completions", json=body, timeout=60) as response:
            assert response.status_code == 200, response.read()
            return [line.removeprefix("data: ") for line in response.iter_lines() if line]


@contextmanager
def running(
    backend: Any, limits: Limits | None = None, *, access: Access | None = None, fetcher: Any = None, **defaults: Any
) -> Iterator[Running]:
    """A real server around a backend, in a thread; it has ended when this has."""
    limits = limits or Limits(grace_s=1)
    ready, made = threading.Event(), []

    async def main() -> None:
        await backend.start()
        named = Defaults(**{"name": "fake", "policy": Reattention(), **defaults})
        service = Service(backend, named, limits, fetcher)
        server = build_server(create_app(service, access), limits, ready.set)
        with bind("127.0.0.1", 0) as listening:
            made.extend([service, server, format_url(listening)])
            await server.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    while thread.is_alive() and not ready.wait(0.1):
        pass
    assert ready.is_set(), "the server does not start"
    service, server, url = made
    try:
        yield Running(url, service, server, thread)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


def encoded_image(format: str = "PNG", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format, **options)
    return buffer.getvalue()


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes | None = None, **fields: Any) -> dict[str, Any]:
    url = data_url(encoded_image() if data is None else data)
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def body(*parts: Any, **fields: Any) -> dict[str, Any]:
    """A request of one user's turn: texts and image parts, an image and a question by default."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    content = content or [image_part(), {"type": "text", "text": "How many cubes?"}]
    return {"model": "fake", "messages": [{"role": "user", "content": content}], **fields}
