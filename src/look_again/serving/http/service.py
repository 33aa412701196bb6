"""What requests share: backend, limits, admission, workers, metrics; and the steps from a body to its jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image

from look_again.core.inputs import measure_images, process_images
from look_again.images.video import Video
from look_again.model import Sampling
from look_again.serving.admission import Admission
from look_again.serving.attention_report import report_attention
from look_again.serving.backend import Backend, Job
from look_again.serving.choice import Choice
from look_again.serving.http.answer_options import (
    build_instructions,
    build_options,
    build_toolbox,
    choose_answer_schema,
)
from look_again.serving.http.body import BodyMemory
from look_again.serving.http.chat_jobs import (
    SUFFIXES,
    ChatJobs,
    Defaults,
    build_samplings,
    check_characters,
    choose_reattention,
    count_characters,
    digest_beginning,
    list_ignored,
    parse_model_name,
    read_stops,
    split_conversation,
    wants_everything,
)
from look_again.serving.http.errors import ApiError, invalid, translate_backend_error
from look_again.serving.http.image_fetching import ImageFetcher
from look_again.serving.http.image_parts import (
    DecodedImage,
    ImageReference,
    Reference,
    VideoReference,
    decode_data_url,
    decode_image,
    decode_video_part,
    join_video_frames,
)
from look_again.serving.http.limits import Limits
from look_again.serving.http.metrics import Metrics
from look_again.serving.http.payloads import TokenReport
from look_again.serving.http.request_fields import parse_chat_request, parse_model
from look_again.serving.http.schema import ChatRequest, Message, TokenizeRequest
from look_again.serving.tool_calls import Toolbox
from look_again.serving.workers.worker_pool import PROCESSES, WorkerPool
from look_again.text.chat import encode_text

THREADS = 2  # for what takes milliseconds, without the event loop
MAX_TOKENIZED = 200_000  # characters, of /tokenize
T = TypeVar("T")


class Service:
    """backend: started; `close` closes it. fetcher: None refuses images by URL."""

    def __init__(
        self, backend: Backend, defaults: Defaults, limits: Limits | None = None, fetcher: ImageFetcher | None = None
    ) -> None:
        self.backend, self.defaults, self.limits = backend, defaults, limits or Limits()
        self.fetcher = fetcher or ImageFetcher(max_bytes=self.limits.image_bytes, timeout_s=self.limits.image_timeout_s)
        self.admission = Admission(self.limits.concurrency, self.limits.queue)
        self.bodies = BodyMemory(self.limits.bodies_bytes)
        self.metrics = Metrics(
            backend.gauges,
            lambda: self.admission.running,
            lambda: self.admission.waiting,
        )
        self.created = int(time.time())
        self.workers = WorkerPool()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="look-again-service")
        self._waiting_for_workers = ThreadPoolExecutor(PROCESSES, thread_name_prefix="look-again-workers")

    @property
    def max_context(self) -> int:
        """Tokens of the context, of prompt and answer together."""
        return self.backend.max_context

    async def close(self) -> None:
        """End everything; what is still being answered fails."""
        await self.backend.close()
        await self.fetcher.close()
        for threads in (self._threads, self._waiting_for_workers):
            threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.workers.close)

    async def prepare(self, body: Any) -> ChatJobs:
        """A body as jobs. Raises ApiError 4xx that names the field which is wrong."""
        request = parse_chat_request(body)
        policy = choose_reattention(request, self.defaults)
        samplings = build_samplings(request, self.defaults, self.limits)
        toolbox = build_toolbox(request)
        everything = wants_everything(request, self.defaults)
        self._check_attention(request)
        messages, references = split_conversation(request.messages, self.limits)
        messages = [*build_instructions(request, toolbox), *messages]
        check_characters(messages, self.limits)
        schema = await self._choose_schema(request, toolbox)
        options = build_options(request, schema)
        decoded = await self._decode_all(references)
        images = [image.image for image in decoded]
        key = await self._in_thread(lambda: digest_beginning(request.messages))
        job = Job(
            messages=messages, images=images, policy=policy, sampling=samplings[0], options=options, conversation=key
        )
        jobs = [replace(job, sampling=sampling) for sampling in samplings]  # they share what is prepared
        await self._check(jobs[0])
        notes = [
            *self.backend.checkpoint.notes,
            *self.backend.checkpoint.notes_on_images(images),
            *list_ignored(request.messages),
            *(image.note for image in decoded if image.note),
        ]
        if policy.inserts and not images:
            notes.append("there is no image: answered without re-attention")
        tokenizer = self.backend.checkpoint.tokenizer
        report = TokenReport(tokenizer, bool(request.logprobs), bool(request.return_token_ids))
        return ChatJobs(request, policy, jobs, read_stops(request), everything, notes, toolbox, report)

    async def _choose_schema(self, request: ChatRequest, toolbox: Toolbox | None) -> Mapping[str, Any] | None:
        """As `choose_answer_schema`, a worker checking it."""
        if request.response_format is None and toolbox is None:
            return None
        return await self._by_worker(lambda: choose_answer_schema(request, toolbox, self.workers.check_schema))

    def _check_attention(self, request: ChatRequest) -> None:
        """ApiError 400 for attention that cannot be measured, or that would take a pass per choice."""
        options = request.look_again
        if options is None or not options.attention:
            return
        if (request.n or 1) > 1:
            raise invalid("look_again.attention is of one answer: leave n out", "look_again.attention")
        if self.backend.checkpoint.model is None:
            message = (
                "look_again.attention needs the checkpoint's model beside the vLLM server: start without --vllm-only"
            )
            raise invalid(message, "look_again.attention", "unsupported_parameter")

    async def measure_attention(self, job: Job, choice: Choice) -> dict[str, Any] | None:
        """Where an answer looked; None without an image. ValueError for an answer that is too long for that."""
        started = choice.started
        if not job.images or started is None or started.slots is None:
            return None
        read_slots = started.slots
        return await self.backend.borrow(
            lambda checkpoint: report_attention(checkpoint, job, read_slots(), choice.token_ids, choice.reflections)
        )

    async def tokenize(self, body: Any) -> dict[str, Any]:
        """The answer of /tokenize. Raises ApiError 4xx that names the field which is wrong."""
        request = parse_model(TokenizeRequest, body)
        if (request.prompt is None) == (request.messages is None):
            raise invalid("send either prompt or messages", "prompt")
        if request.prompt is not None:
            if len(request.prompt) > MAX_TOKENIZED:
                raise invalid(f"the text has {len(request.prompt)} characters; at most {MAX_TOKENIZED}", "prompt")
            text = request.prompt
            ids = await self._in_thread(lambda: encode_text(self.backend.checkpoint.tokenizer, text))
        else:
            ids = await self._tokenize_messages(request.messages or [])
        tokens = {"count": len(ids), "max_model_len": self.max_context, "tokens": ids}
        if not request.return_token_strs:
            return tokens
        tokenizer = self.backend.checkpoint.tokenizer
        return {**tokens, "token_strs": await self._in_thread(lambda: [tokenizer.decode([id]) for id in ids])}

    async def _tokenize_messages(self, messages: Sequence[Message]) -> list[int]:
        converted, references = split_conversation(messages, self.limits)
        if count_characters(converted) > MAX_TOKENIZED:
            raise invalid(f"the messages have more than {MAX_TOKENIZED} characters", "messages")
        images = [image.image for image in await self._decode_all(references)]
        checkpoint, config = self.backend.checkpoint, self.backend.model_config

        def render() -> list[int]:
            if any(isinstance(image, Video) for image in images):
                shown = process_images(checkpoint.image_processor, config, images).shown
            else:
                shown = measure_images(checkpoint.image_processor, config, [image.size for image in images]).shown
            return checkpoint.renderer.render_prompt(converted, shown)

        try:
            return await self._in_thread(render)
        except ValueError as error:
            raise invalid(str(error), "messages") from None

    def choices(self, chat: ChatJobs) -> list[Choice]:
        """A choice per job, without anything in it yet."""
        tokenizer = self.backend.checkpoint.tokenizer
        return [Choice(tokenizer, chat.stops, everything=chat.everything, toolbox=chat.toolbox) for _ in chat.jobs]

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
            policy = replace(self.defaults.policy, **parse_model_name(name, self.defaults.name))
            self.backend.check(Job(messages=(), images=(image,), policy=policy, sampling=Sampling(max_new_tokens=1)))
        except (ValueError, ApiError):
            return False
        return True

    async def _check(self, job: Job) -> None:
        try:
            await self._in_thread(lambda: self.backend.check(job))
        except Exception as error:
            known = translate_backend_error(error, started=False, upstream=self.backend.name == "vllm")
            raise known or error from error

    async def _decode_all(self, references: Sequence[Reference], pixels: int | None = None) -> list[DecodedImage]:
        """One after the other, as the pixels of all together are bounded."""
        images: list[DecodedImage] = []
        left = self.limits.pixels if pixels is None else pixels
        for reference in references:
            if left < 1:
                message = f"the images together have more than {self.limits.pixels} pixels"
                raise invalid(message, reference.param, "image_too_large")
            images.append(await self._decode_part(reference, left))
            left -= images[-1].pixels
        return images

    async def _decode_part(self, reference: Reference, max_pixels: int) -> DecodedImage:
        """An image, or a video out of a file or a list of images."""
        if isinstance(reference, ImageReference):
            return await self._decode(reference, max_pixels)
        if isinstance(reference, VideoReference):
            decode = self.workers.decode_video
            return await self._by_worker(lambda: decode_video_part(reference, self.limits, max_pixels, decode))
        if len(reference.frames) > self.limits.video_frames:
            message = f"{len(reference.frames)} frames were sent; this server takes at most {self.limits.video_frames}"
            raise invalid(message, reference.param, "too_many_images")
        return join_video_frames(reference, await self._decode_all(reference.frames, max_pixels))

    async def _decode(self, reference: ImageReference, max_pixels: int) -> DecodedImage:
        limit = self.limits.image_bytes
        fetched = await self.fetcher.fetch(reference) if reference.remote else None

        def decode() -> DecodedImage:
            data = decode_data_url(reference, limit) if fetched is None else fetched
            return decode_image(reference, data, limit, max_pixels, self.workers.decode)

        return await self._by_worker(decode)

    async def parse_long(self, raw: bytes) -> Any:
        """As `parse_body`, by a worker."""
        return await self._by_worker(lambda: self.workers.parse_json(raw, self.limits.text_characters))

    async def _by_worker(self, work: Callable[[], T]) -> T:
        """In a thread that may wait long."""
        return await asyncio.get_running_loop().run_in_executor(self._waiting_for_workers, work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
