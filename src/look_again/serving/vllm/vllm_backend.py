"""The backend in front of vLLM: an unmodified server computes, and what the paper adds happens between its requests.

COPY stops at `<REFLECTION>` and goes on with the image mentioned again, which the server's caches hold; ROUTE ranks by
the same checkpoint here and goes on with features of the chosen visual tokens. Token ids go in and come out, so a text
never turns into control tokens. What cannot be had in this way is refused before anything is computed.

    vllm serve CHECKPOINT --enable-scale-out --enable-prompt-tokens-details

The paper serves nothing. Departures from the decoding loop: sampled (not greedy) answers are other draws, and chosen
visual tokens stand in a strip, as with `layout="strip"` there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from look_again.clients.sequence_requests import STRIP_FAMILIES
from look_again.clients.vllm_requests import SentImage
from look_again.core.answer_ranker import AnswerRanker, PromptImages
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.images.video import Video
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendError, BackendEvent, Job, RefusedError, T, check_options
from look_again.serving.prompt import EncodedPrompt, build_prompt
from look_again.serving.vllm.answer import AnswerContext, UpstreamRequest, VllmAnswer
from look_again.serving.vllm.chat_requests import check_texts
from look_again.serving.vllm.family_protocols import find_protocol, pack_prompt
from look_again.serving.vllm.probe import ServerProbe
from look_again.serving.vllm.served_model import ServedModel, send_images
from look_again.serving.vllm.servers import Servers

MAX_TEMPERATURE = 2.0  # of vLLM
USE_TRANSFORMERS = "ask the transformers backend for it"


class VllmBackend:
    """Answers by vLLM servers.

    checkpoint: the one that they serve; its model may be None (`load_without_model`) where nobody asks for ROUTE.
    urls: of the servers, "http://host:port", without a password (ValueError). served: what has to be known of the
    model, by default taken from it. trust_users: take servers without the token endpoint, asked by chat. api_key: of
    the servers. timeout_s: longest silence of an answer under way. check_every_s: between health checks. on_request:
    called with every request that ended. extra_sampling: fields of vLLM's SamplingParams that every request of an
    answer gets besides; bans stay.
    transport: of httpx, for tests.
    """

    name = "vllm"

    def __init__(
        self,
        checkpoint: Checkpoint,
        urls: Sequence[str],
        served: ServedModel | None = None,
        *,
        trust_users: bool = False,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        check_every_s: float = 5.0,
        on_request: Callable[[UpstreamRequest], None] = lambda request: None,
        extra_sampling: Mapping[str, Any] | None = None,
        transport: Any = None,
    ) -> None:
        if not urls:
            raise ValueError("the vllm backend needs the URL of a vLLM server")
        self.checkpoint = checkpoint
        self.protocol = find_protocol(checkpoint.family.model_type)
        self.served = served or ServedModel.from_checkpoint(checkpoint)
        self.on_request = on_request
        self.counts = {"running": 0, "legs": 0}
        self._model_thread = ThreadPoolExecutor(1, "look-again-model")
        self._prompt_thread = ThreadPoolExecutor(1, "look-again-prompts")
        self._text_thread = ThreadPoolExecutor(1, "look-again-texts")  # of prompts without images
        self._trigger = Trigger.of(checkpoint.tokenizer, spelled=not checkpoint.trained)
        probe = ServerProbe(checkpoint, self.served, trust_users, self._on_model)
        self._servers = Servers(
            urls,
            lambda server: probe.admit(self._servers, server),
            api_key=api_key,
            timeout_s=timeout_s,
            check_every_s=check_every_s,
            transport=transport,
        )
        self._shared = AnswerContext(
            self._servers,
            checkpoint,
            self.served.stops,
            self.served.merge,
            self._on_model,
            self._count_request,
            extra_sampling or {},
        )

    @property
    def model_config(self) -> Any:
        """As `Backend.model_config`."""
        return self.served.config

    @property
    def max_context(self) -> int:
        """Most tokens of an answer's sequence: of the servers that are up, and of the model."""
        served = [server.max_context for server in self._servers.all if server.up]
        return min([*served, self.served.config.get_text_config().max_position_embeddings])

    async def start(self) -> None:
        """Look at every server. Raises BackendError where none is of use, saying why each is not."""
        await self._servers.start()

    async def close(self) -> None:
        """As `Backend.close`."""
        await self._servers.close()
        for thread in (self._model_thread, self._prompt_thread, self._text_thread):
            thread.shutdown(wait=False, cancel_futures=True)

    def check(self, job: Job) -> None:
        """RefusedError for what vLLM cannot do, saying what to ask for; ValueError for unknown layers."""
        if job.sampling.temperature > MAX_TEMPERATURE:
            raise RefusedError(f"vLLM samples at temperatures up to {MAX_TEMPERATURE}, not {job.sampling.temperature}")
        check_options(job)
        if any(isinstance(image, Video) for image in job.images):
            raise RefusedError("videos are answered in process alone: start the server without --backend vllm")
        chat = any(server.up and server.chat for server in self._servers.all)
        job.policy.ranking_layers(self.served.config.get_text_config().num_hidden_layers)
        if job.images:
            check_policy(job.policy, self.checkpoint, chat)
        _check_decoding(job, chat)
        if chat:
            check_texts(self.checkpoint.tokenizer, job.messages)

    async def generate(self, job: Job) -> AsyncGenerator[BackendEvent, None]:
        """As `Backend.generate`."""
        self.check(job)
        prompt, images = await self._in(
            self._prompt_thread if job.images else self._text_thread, lambda: self._read(job)
        )
        model = self.checkpoint.model
        ranker = None if model is None else AnswerRanker(PromptImages(model, prompt.pixels))
        sequence = self.served.begin(
            self.checkpoint,
            prompt,
            job.policy,
            self._trigger,
            sampling=job.sampling,
            max_context=self.max_context,
        )
        packed = pack_prompt(self.checkpoint.family.model_type, self.served.config, prompt)
        answer = VllmAnswer(self._shared, job, prompt, sequence, images, ranker, packed)
        self.counts["running"] += 1
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    yield event
        finally:
            self.counts["running"] -= 1

    async def borrow(self, work: Callable[[Checkpoint], T]) -> T:
        """As `Backend.borrow`."""
        if self.checkpoint.model is None:
            raise RefusedError("there is no model beside the vLLM server: start with the checkpoint's model loaded")
        return await self._on_model(lambda: work(self.checkpoint))

    async def health(self) -> Mapping[str, bool]:
        """Each server by name, "vllm-0" of the first URL, and whether it gets requests; checked in the background."""
        return {server.name: server.up for server in self._servers.all}

    def gauges(self) -> Mapping[str, float]:
        """running: answers under way. legs: requests that ended, of all answers so far. servers_up: servers in use."""
        return {**self.counts, "servers_up": sum(server.up for server in self._servers.all)}

    async def _on_model(self, work: Callable[[], Any]) -> Any:
        return await self._in(self._model_thread, work)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
        """One call at a time, also where the caller of an earlier one has left. BackendError where it fails."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except RuntimeError as error:  # of torch; or the thread was shut down
            raise BackendError(f"beside vLLM: {error}") from error

    def _count_request(self, request: UpstreamRequest) -> None:
        self.counts["legs"] += 1
        self.on_request(request)

    def _read(self, job: Job) -> tuple[EncodedPrompt, list[SentImage]]:
        prompt = build_prompt(self.checkpoint, job, self.served.config, self.max_context)
        images = send_images(self.checkpoint, job, prompt)
        for image in images if self.protocol.packing is None else ():  # here, so that the event loop need not
            if not all(image.uuid in server.known for server in self._servers.all if server.up):
                _ = image.url
        return prompt, images


def _check_decoding(job: Job, chat: bool) -> None:
    """RefusedError for options that a vLLM server cannot follow; `chat`: it is asked by chat."""
    options = job.options
    split = job.policy.inserts or job.policy.mode == "vision" or job.sampling.max_reasoning_tokens is not None
    if split and (options.presence_penalty or options.frequency_penalty):
        raise RefusedError(
            "vLLM counts presence_penalty and frequency_penalty anew in every request, and an answer that looks again "
            f"or bounds its reasoning is several: use repetition_penalty, or {USE_TRANSFORMERS}"
        )
    if chat and options.log_probs is not None:
        raise RefusedError(
            "a vLLM server that is asked by chat gives no log-probabilities by token: serve vLLM with its token "
            "endpoint (--enable-scale-out)"
        )


def check_policy(policy: Reattention, checkpoint: Checkpoint, chat: bool) -> None:
    """RefusedError for a policy that a vLLM server cannot follow; `chat`: it is asked by chat."""
    if not policy.inserts:
        return
    if policy.control in ("wrong-image", "blank-image"):
        raise RefusedError(f"the {policy.control} control cannot be had on vLLM: {USE_TRANSFORMERS}")
    if policy.mode == "vision" and not checkpoint.trained:
        raise RefusedError("vision mode needs a checkpoint with trained tags on vLLM")
    chooses = (policy.mode == "route" or policy.control == "random-rows") and policy.keep < 100
    model_type = checkpoint.family.model_type
    if (chooses or policy.layout == "strip") and model_type not in STRIP_FAMILIES:
        raise RefusedError(
            f"visual tokens of a {model_type} cannot be chosen on vLLM: ask for copy, or {USE_TRANSFORMERS}"
        )
    if chooses and policy.layout == "grid":
        raise RefusedError(
            "vLLM gives chosen rows the positions of a strip: ask for route with layout 'strip', for copy, "
            f"or {USE_TRANSFORMERS}"
        )
    ours = chooses or policy.layout == "strip"
    if ours and checkpoint.model is None:
        raise RefusedError(
            "rows in a strip need the checkpoint's model beside the vLLM server, for ranking and features: start with "
            "it loaded, or ask for copy"
        )
    if chat and (ours or not policy.delimiters):
        raise RefusedError(
            "a vLLM server that is asked by chat puts back whole images between delimiters alone: ask for copy, or "
            "serve vLLM with its token endpoint (--enable-scale-out)"
        )
