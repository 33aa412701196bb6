"""Whether a vLLM server is one to send answers to: before the first request and whenever it comes back.

A server of another checkpoint answers without an error, so it is asked to read a small prompt with an image: what it
says it read must be what was sent and, where the model is loaded here, the logarithm of its first token's probability
must be about the model's own. The paper serves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from look_again.clients.vllm_answers import ServerRefusalError, read_tokens
from look_again.core.prefill import start_one
from look_again.core.reattention import Reattention
from look_again.core.runner import Runner
from look_again.core.trigger import Trigger
from look_again.loading import Checkpoint
from look_again.model import Sampling
from look_again.serving.backend import BackendError, Job
from look_again.serving.prompt import build_prompt
from look_again.serving.vllm.answer import SAME_CHECKPOINT
from look_again.serving.vllm.chat_requests import build_chat_request
from look_again.serving.vllm.served_model import ServedModel, send_images
from look_again.serving.vllm.servers import Servers, UpstreamServer
from look_again.serving.vllm.token_requests import build_request_sampling, build_uuid_request, is_same_prompt

PROBE_TIMEOUT_S = 60.0
WEIGHTS_APART = 0.5  # nats; rounding to bfloat16 moves a likely token's log-probability by hundredths
NO_ENDPOINT = (
    "it has no token-in/token-out endpoint (POST /inference/v1/generate), without which texts can forge special "
    "tokens: start `vllm serve` 0.32 with --enable-scale-out, or say that users are trusted"
)


@dataclass
class ServerProbe:
    """trust_users: take a server without the token endpoint. on_model: runs a call on the thread that has the model."""

    checkpoint: Checkpoint
    served: ServedModel
    trust_users: bool
    on_model: Callable[[Callable[[], Any]], Awaitable[Any]]

    async def admit(self, servers: Servers, server: UpstreamServer) -> None:
        """Raises BackendError and what `Servers.ask` and `Servers.stream` raise."""
        models = await servers.ask(server, "/v1/models")
        try:
            server.model, server.max_context = models["data"][0]["id"], int(models["data"][0]["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BackendError(f"it is no vLLM server: {str(models)[:200]}") from error
        server.chat = False
        try:
            await self._probe(servers, server)
        except ServerRefusalError as error:
            if error.status not in (404, 405, 501):
                raise
            if not self.trust_users:
                raise BackendError(NO_ENDPOINT) from error
            server.chat = True
            await self._probe(servers, server)

    async def _probe(self, servers: Servers, server: UpstreamServer) -> None:
        trigger = Trigger.of(self.checkpoint.tokenizer)
        sequence = self.served.begin(self.checkpoint, self.prompt, self.job.policy, trigger, sampling=self.job.sampling)
        images = send_images(self.checkpoint, self.job, self.prompt)
        if server.chat:
            request = build_chat_request(self.checkpoint, self.job, sequence, images, server)
        else:
            request = build_uuid_request(sequence, images, ())
        never = sequence.builder.tokens.never_sampled
        params = build_request_sampling(self.job, 0, 1, self.served.stops, never)
        body = request.with_sampling(params if server.chat else {**params, "logprobs": 0})
        chunks = await _read_all(servers, server, request.path, body)
        read = next((chunk["prompt_token_ids"] for chunk in chunks if chunk.get("prompt_token_ids")), None)
        if read is None or not is_same_prompt(request, read, sequence):
            raise BackendError(f"it read another prompt than it was sent: {SAME_CHECKPOINT}")
        if self.checkpoint.model is not None and not server.chat:
            await self._check_weights(*_read_first_token(chunks))

    async def _check_weights(self, token: int, theirs: float) -> None:
        ours = float((await self.on_model(lambda: self.log_probs))[token])
        if not abs(ours - theirs) <= WEIGHTS_APART:  # nor NaN
            raise BackendError(
                f"it serves other weights: its first token has the log-probability {theirs:.2f}, here it is {ours:.2f}"
            )

    @cached_property
    def job(self) -> Job:
        text = {"type": "text", "text": "What is shown?"}
        messages = [{"role": "user", "content": [{"type": "image"}, text]}]
        image = Image.effect_mandelbrot((112, 112), (-2, -1.5, 1, 1.5), 50).convert("RGB")
        policy = Reattention(mode="text")
        return Job(messages=messages, images=[image], policy=policy, sampling=Sampling(max_new_tokens=1))

    @cached_property
    def prompt(self) -> Any:
        return build_prompt(self.checkpoint, self.job, self.served.config, 2**31)

    @cached_property
    def log_probs(self) -> torch.Tensor:
        """Log-probabilities of the probe's first token by the model here, (W,)."""
        with torch.no_grad():
            start = start_one(self.checkpoint.model, self.job.policy, self.prompt.token_ids, self.prompt.pixels)
            logits = Runner(self.checkpoint.model, [start.builder], [start.features]).prefill()[0]
        return torch.log_softmax(logits.float(), dim=-1)


async def _read_all(servers: Servers, server: UpstreamServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All chunks of an answer. BackendError where that takes too long."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), aclosing(servers.stream(server, path, body)) as stream:
            return [chunk async for chunk in stream]
    except TimeoutError as error:
        raise BackendError(f"it did not answer a small prompt in {PROBE_TIMEOUT_S:g} s") from error


def _read_first_token(chunks: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """The first token of an answer and its log-probability. BackendError for an answer without them."""
    chunk = next((chunk for chunk in chunks if read_tokens(chunk)), {})
    try:
        choice = chunk["choices"][0]
        return int(choice["token_ids"][0]), float(choice["logprobs"]["content"][0]["logprob"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BackendError("it answered a small prompt without a token and its log-probability") from error
