"""What requests share (backend, limits, places, decoding threads, metrics), and a request's way from JSON to jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from PIL import Image

from look_again.core.reattention import Reattention
from look_again.model import Sampling
from look_again.serving.backend import Backend, Job
from look_again.serving.choice import Choice
from look_again.serving.http.admission import Admission
from look_again.serving.http.conversation import conversation_of, key_of
from look_again.serving.http.errors import ApiError, invalid, of_backend
from look_again.serving.http.fields import chat_request
from look_again.serving.http.image_fetching import ImageFetcher
from look_again.serving.http.image_parts import ImageReference, Picture, data_of, decode_image
from look_again.serving.http.limits import Limits
from look_again.serving.http.metrics import Metrics
from look_again.serving.http.options import (
    SUFFIXES,
    Defaults,
    everything_of,
    named_policy,
    policy_of,
    samplings_of,
    stops_of,
)
from look_again.serving.http.schema import ChatRequest

DECODERS = 2  # images decoded at once: each may take three bytes per pixel and more while it is
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A request that can be answered: one job per choice. notes: what is already known to be worth telling."""

    request: ChatRequest
    policy: Reattention
    jobs: Sequence[Job]
    stops: Sequence[str]
    everything: bool
    notes: Sequence[str]

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    @property
    def include_usage(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def rows(self) -> bool:
        options = self.request.look_again
        return options is not None and bool(options.rows)


class Service:
    """backend: started; `close` closes it. fetcher: None refuses images by URL."""

    def __init__(
        self, backend: Backend, defaults: Defaults, limits: Limits | None = None, fetcher: ImageFetcher | None = None
    ) -> None:
        self.backend, self.defaults, self.limits = backend, defaults, limits or Limits()
        self.fetcher = fetcher or ImageFetcher(max_bytes=self.limits.image_bytes, timeout_s=self.limits.image_timeout_s)
        self.admission = Admission(self.limits.concurrency, self.limits.queue)
        self.metrics = Metrics(
            backend.gauges,
            lambda: self.admission.inside - self.admission.waiting,
            lambda: self.admission.waiting,
        )
        self.created = int(time.time())
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="look-again-images")

    async def close(self) -> None:
        """End everything; what is still being answered fails."""
        await self.backend.close()
        await self.fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, body: Any) -> Ask:
        """Raises ApiError 4xx that names the field which is wrong."""
        request = chat_request(body)
        policy = policy_of(request, self.defaults)
        samplings = samplings_of(request, self.defaults, self.limits)
        messages, references = conversation_of(request.messages, self.limits)
        pictures = await self._images(references)
        images = [picture.image for picture in pictures]
        key = await self._in_thread(lambda: key_of(request.messages))
        jobs = [Job(messages=messages, images=images, policy=policy, sampling=s, conversation=key) for s in samplings]
        await self._check(jobs[0])
        notes = [*self.backend.checkpoint.notes, *(p.note for p in pictures if p.note)]
        if policy.inserts and not images:
            notes.append("there is no image: answered without re-attention")
        return Ask(request, policy, jobs, stops_of(request), everything_of(request, self.defaults), notes)

    def choices(self, ask: Ask) -> list[Choice]:
        tokenizer = self.backend.checkpoint.tokenizer
        return [Choice(tokenizer, ask.stops, everything=ask.everything) for _ in ask.jobs]

    def names(self) -> list[str]:
        """The model's name, and the name with each re-attention that this backend can do."""
        name = self.defaults.name
        return [name, *(f"{name}:{suffix}" for suffix in SUFFIXES if self.has(f"{name}:{suffix}"))]

    def has(self, name: str) -> bool:
        """Whether requests can name this model; the bare name always can be."""
        if name == self.defaults.name:
            return True
        image = Image.new("RGB", (1, 1))  # `check` reads no pixels
        try:
            policy = replace(self.defaults.policy, **named_policy(name, self.defaults.name))
            self.backend.check(Job(messages=(), images=(image,), policy=policy, sampling=Sampling(max_new_tokens=1)))
        except (ValueError, ApiError):
            return False
        return True

    async def _check(self, job: Job) -> None:
        try:
            await self._in_thread(lambda: self.backend.check(job))
        except Exception as error:
            known = of_backend(error, started=False, upstream=self.backend.name == "vllm")
            raise known or error from error

    async def _images(self, references: Sequence[ImageReference]) -> list[Picture]:
        """One after the other, as the pixels of all together are bounded."""
        pictures: list[Picture] = []
        left = self.limits.pixels
        for reference in references:
            if left < 1:
                message = f"the images together have more than {self.limits.pixels} pixels"
                raise invalid(message, reference.param, "image_too_large")
            pictures.append(await self._image(reference, left))
            left -= pictures[-1].pixels
        return pictures

    async def _image(self, reference: ImageReference, max_pixels: int) -> Picture:
        limit = self.limits.image_bytes
        data = await self.fetcher.fetch(reference) if reference.remote else None
        return await self._in_thread(
            lambda: decode_image(reference, data_of(reference, limit) if data is None else data, limit, max_pixels)
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
