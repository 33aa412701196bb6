"""Whether a vLLM server is one to send answers to: before the first request and whenever it comes back.

A server of another checkpoint answers without an error, so it is asked to read a small prompt with an image: what it
says it read must be what was sent, and it has to take as many images as an answer may show. Where the model is loaded
here, it draws texts after random tokens, whose log-probabilities must be the model's own up to rounding. The paper
serves nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image

from look_again.clients.vllm_answers import ServerRefusalError, read_tokens
from look_again.clients.vllm_requests import GENERATE, GenerateRequest, build_body
from look_again.core.input_device import input_device
from look_again.core.reattention import Reattention
from look_again.core.sequence import DecodedSequence, Reflection
from look_again.core.trigger import Trigger
from look_again.loading import Checkpoint
from look_again.model import Sampling
from look_again.serving.backend import BackendError, Job
from look_again.serving.prompt import build_prompt
from look_again.serving.vllm.answer import SAME_CHECKPOINT
from look_again.serving.vllm.chat_requests import build_chat_request
from look_again.serving.vllm.family_protocols import find_protocol, pack_prompt
from look_again.serving.vllm.served_model import ServedModel, send_images
from look_again.serving.vllm.servers import Servers, UpstreamServer
from look_again.serving.vllm.token_requests import (
    build_request_sampling,
    build_tensor_request,
    build_uuid_request,
    is_same_prompt,
)

PROBE_TIMEOUT_S = 60.0
TEXTS = 4  # whose log-probabilities are compared; a model may be sure of all tokens of one, and shows nothing there
POSITIONS = 32  # of each
PREFIX = 24  # tokens before it, drawn at random: what follows them is hard to predict
APART = {torch.float32: 0.01}  # nats between log-probabilities, their mean, by the coarser type of both sides
APART_COARSE = 0.1  # of bfloat16 and float16, which round unlikely tokens' by tenths
NO_ENDPOINT_STATUS = (403, 404, 405, 501)  # vLLM answers 403 for endpoints that it was started without
NO_ENDPOINT = (
    "it has no token-in/token-out endpoint (POST /inference/v1/generate), without which texts can forge special "
    "tokens: start `vllm serve` 0.32 with --enable-scale-out, or say that users are trusted"
)

NEEDS_ENDPOINT = (
    "it has no token-in/token-out endpoint (POST /inference/v1/generate), which images of this family need: start "
    "`vllm serve` 0.32 with --enable-scale-out"
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
            if error.status not in NO_ENDPOINT_STATUS:
                raise
            if not self.trust_users:
                raise BackendError(NO_ENDPOINT) from error
            if find_protocol(self.checkpoint.family.model_type).packing is not None:
                raise BackendError(NEEDS_ENDPOINT) from error
            server.chat = True
            await self._probe(servers, server)

    async def _probe(self, servers: Servers, server: UpstreamServer) -> None:
        sequence = self._begin()
        if server.chat:
            images = send_images(self.checkpoint, self.job, self.prompt)
            request = build_chat_request(self.checkpoint, self.job, sequence, images, server)
        else:
            request = self._request(sequence)
        never = sequence.builder.tokens.never_sampled
        params = build_request_sampling(self.job, 0, 1, self.served.stops, never)
        body = request.with_sampling(params) if server.chat else _as_probe(request, params)
        chunks = await _read_all(servers, server, request.path, body)
        read = next((chunk["prompt_token_ids"] for chunk in chunks if chunk.get("prompt_token_ids")), None)
        if read is None or not is_same_prompt(request, read, sequence):
            raise BackendError(f"it read another prompt than it was sent: {SAME_CHECKPOINT}")
        if not server.chat:
            await self._check_images(servers, server)
            if self.checkpoint.model is not None:
                await self._check_weights(servers, server)

    def _begin(self) -> DecodedSequence:
        """The small prompt."""
        trigger = Trigger.of(self.checkpoint.tokenizer)
        return self.served.begin(self.checkpoint, self.prompt, self.job.policy, trigger, sampling=self.job.sampling)

    def _request(self, sequence: DecodedSequence) -> GenerateRequest:
        """A sequence that shows whole images, by token ids."""
        packed = pack_prompt(self.checkpoint.family.model_type, self.served.config, self.prompt)
        if packed is not None:
            return build_tensor_request(sequence, packed)
        return build_uuid_request(sequence, send_images(self.checkpoint, self.job, self.prompt), ())

    async def _check_images(self, servers: Servers, server: UpstreamServer) -> None:
        """Whether as many images fit into a prompt as an answer may show: one, and every re-insertion of it."""
        sequence = self._begin()
        (span,) = sequence.spans
        room = (server.max_context - len(sequence.builder) - 1) // (span.count + span.text_tokens)
        count, every = min(Reattention().max_reinsertions, max(0, room)), tuple(range(span.count))
        for _ in range(count):
            sequence.builder.insert([(span, every)])
            sequence.reflections.append(Reflection("copy", every))
        params = build_request_sampling(self.job, 0, 1, self.served.stops, sequence.builder.tokens.never_sampled)
        try:
            await _read_all(servers, server, GENERATE, _as_probe(self._request(sequence), params))
        except ServerRefusalError as error:
            raise BackendError(
                f"it does not take {count + 1} images in a prompt ({error}): start `vllm serve` with "
                f"--limit-mm-per-prompt '{{\"image\": {Reattention().max_reinsertions + 16}}}', or without that option"
            ) from error

    async def _check_weights(self, servers: Servers, server: UpstreamServer) -> None:
        """Compare the log-probabilities of texts that the server draws after random tokens, position by position."""
        tokens = self.served.vision_tokens(self.checkpoint)
        job = replace(self.job, sampling=Sampling(max_new_tokens=POSITIONS, temperature=1.0, seed=0))
        params = build_request_sampling(job, 0, POSITIONS, (), tokens.never_sampled)
        gaps: list[torch.Tensor] = []
        for prefix in self.prefixes:
            request = GenerateRequest(GENERATE, build_body(prefix, []))
            chunks = await _read_all(servers, server, GENERATE, _as_probe(request, params))
            drawn, theirs = _read_log_probs(chunks)
            ours = await self.on_model(partial(score_tokens, self.checkpoint, prefix, drawn))
            gaps.append((ours - torch.tensor(theirs)).abs())
        compared = torch.cat(gaps, dim=1)
        apart = float(compared.mean(dim=1).min())  # of whichever of both the server was started to tell
        if not apart <= self.tolerance:  # nor NaN
            raise BackendError(
                f"it serves other weights: the log-probabilities of {compared.shape[1]} tokens differ by {apart:.3f} "
                f"on average, at most {self.tolerance:g} is rounding"
            )

    @property
    def tolerance(self) -> float:
        """Nats that rounding may put between the two sides: of the type that the checkpoint names or was loaded in."""
        kinds = {self.checkpoint.model.dtype, getattr(self.served.config, "dtype", None) or torch.float32}
        return max(APART.get(kind, APART_COARSE) for kind in kinds)

    @cached_property
    def prefixes(self) -> list[list[int]]:
        """Token ids of ordinary text, drawn at random, the same everywhere."""
        vocabulary = sorted(
            set(range(len(self.checkpoint.tokenizer))) - set(self.checkpoint.tokenizer.added_tokens_decoder)
        )
        draw = random.Random(0)
        return [draw.choices(vocabulary, k=PREFIX) for _ in range(TEXTS)]

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


@torch.no_grad()
def score_tokens(checkpoint: Checkpoint, prefix: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of tokens, each after the prefix and those before it, by the model here, (2, n).

    First among all tokens (vLLM's `raw_logprobs`), then among those that are sampled (its `processed_logprobs`).
    ValueError for tokens that it does not have.
    """
    model = checkpoint.model
    ids = torch.tensor([[*prefix, *tokens]])
    if int(ids.max()) >= model.get_input_embeddings().weight.shape[0]:
        raise ValueError(f"token {int(ids.max())} is out of bounds here")
    logits = model(input_ids=ids.to(input_device(model))).logits[0, len(prefix) - 1 : -1].float()
    never = checkpoint.family.vision_tokens(model.config).never_sampled
    sampled = logits.index_fill(1, torch.tensor(never, device=logits.device), float("-inf"))
    chosen = ids[0, len(prefix) :, None].to(logits.device)
    return torch.stack([torch.log_softmax(each, dim=-1).gather(1, chosen)[:, 0] for each in (logits, sampled)]).cpu()


def _as_probe(request: GenerateRequest, params: Mapping[str, Any]) -> dict[str, Any]:
    """A request whose answer says the log-probability of each token."""
    return request.with_sampling({**params, "logprobs": 0})


async def _read_all(servers: Servers, server: UpstreamServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All chunks of an answer. BackendError where that takes too long."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), aclosing(servers.stream(server, path, body)) as stream:
            return [chunk async for chunk in stream]
    except TimeoutError as error:
        raise BackendError(f"it did not answer a small prompt in {PROBE_TIMEOUT_S:g} s") from error


def _read_log_probs(chunks: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """The tokens of an answer and their log-probabilities. BackendError for an answer without them."""
    try:
        choices = [choice for chunk in chunks if read_tokens(chunk) for choice in chunk["choices"]]
        tokens = [int(token) for choice in choices for token in choice["token_ids"]]
        log_probs = [float(entry["logprob"]) for choice in choices for entry in choice["logprobs"]["content"]]
        if not tokens or len(tokens) != len(log_probs):
            raise ValueError
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BackendError("it answered a small prompt without a token and its log-probability") from error
    return tokens, log_probs
