"""One answer by a vLLM server: request after request, until the decoding loop would have ended.

What each token does is decided by `DecodedSequence`, the same that runs in `generate`; here its sequence is sent, and
the tokens that come back are fed to it. Where visual tokens are put back the request ends and another one goes on from
the longer sequence. A request that breaks off is resumed from the last token that came, so nothing is written twice.

The paper serves nothing. Greedy answers are those of the decoding loop; sampled ones are other draws from the same
distribution, since every request has random numbers of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import torch

from look_again.clients.sequence_requests import build_feature_request, find_image_runs
from look_again.clients.vllm_answers import (
    LogProbs,
    LostServerError,
    ServerBusyError,
    ServerRefusalError,
    VllmError,
    is_unfinished,
    read_cached_tokens,
    read_log_probs,
    read_tokens,
)
from look_again.clients.vllm_requests import GenerateRequest, SentImage
from look_again.core.answer_ranker import AnswerRanker
from look_again.core.sequence import DecodedSequence, Token
from look_again.loading import Checkpoint
from look_again.serving.backend import (
    BackendError,
    BackendEvent,
    BusyError,
    Ended,
    Job,
    RefusedError,
    ScoredToken,
    Started,
)
from look_again.serving.prompt import EncodedPrompt
from look_again.serving.vllm.chat_requests import build_chat_request
from look_again.serving.vllm.family_protocols import PackedImages
from look_again.serving.vllm.servers import Servers, UpstreamServer
from look_again.serving.vllm.token_requests import (
    build_request_sampling,
    build_tensor_request,
    build_uuid_request,
    is_same_prompt,
)
from look_again.text.grammar import open_tag

SAME_CHECKPOINT = "it must serve the same checkpoint, with bounds of images no narrower than here"
LOSSES = 2  # of one server in one answer, before it gets no more of it


@dataclass(frozen=True)
class UpstreamRequest:
    """A request of an answer, finished. tokens: sent with it, visual ones included; sampled: taken from its answer.

    cached_tokens: those sent that the server had computed before; None where it does not say.
    """

    server: str
    tokens: int
    sampled: int
    cached_tokens: int | None


@dataclass(frozen=True)
class AnswerContext:
    """What all answers of a backend share.

    stops: tokens that end an answer. merge: as `build_feature_request` takes it. on_model: runs a call on the thread
    that has the model. on_request: called with every finished request. extra: further sampling parameters of each.
    """

    servers: Servers
    checkpoint: Checkpoint
    stops: frozenset[int]
    merge: int
    on_model: Callable[[Callable[[], Any]], Awaitable[Any]]
    on_request: Callable[[UpstreamRequest], None]
    extra: Mapping[str, Any]


class VllmAnswer:
    """The requests of one job. ranker: None without a local model. packed: images whose tensors travel, else None."""

    def __init__(
        self,
        shared: AnswerContext,
        job: Job,
        prompt: EncodedPrompt,
        sequence: DecodedSequence,
        images: Sequence[SentImage],
        ranker: AnswerRanker | None,
        packed: PackedImages | None = None,
    ) -> None:
        self.shared, self.job, self.prompt, self.sequence = shared, job, prompt, sequence
        self.images, self.ranker, self.packed = images, ranker, packed
        self.server: UpstreamServer | None = None
        self.losses: Counter[str] = Counter()
        self.finished: list[UpstreamRequest] = []
        self.sent = 0  # requests
        self.started = False
        self._written: list[BackendEvent] = []  # before the first request; told once that has started

    async def events(self) -> AsyncGenerator[BackendEvent, None]:
        """As `Backend.generate`."""
        self._written += self._write_forced()
        while self.sequence.finish_reason is None:
            server = self.server = self.server or self._choose()
            request = await self._request(server)
            sampled = self.sequence.sampled
            try:
                async with aclosing(self._follow(server, request)) as events:
                    async for event in events:
                        yield event
            except (LostServerError, ServerRefusalError, ServerBusyError) as error:
                if self.sequence.finish_reason is None:  # else only the accounts of a whole answer are missing
                    await self._recover(server, request, error, self.sequence.sampled == sampled)
            except VllmError as error:  # an answer that cannot be read, however often it is asked for
                raise BackendError(str(error)) from error
        yield self._build_ended(self.sequence.finish_reason)

    def _choose(self) -> UpstreamServer:
        avoid = [url for url, times in self.losses.items() if times >= LOSSES]
        return self.shared.servers.choose(self.job.conversation, avoid)

    async def _request(self, server: UpstreamServer) -> GenerateRequest:
        """The sequence so far."""
        if server.chat:
            return build_chat_request(self.shared.checkpoint, self.job, self.sequence, self.images, server)
        if (packed := self.packed) is not None:
            return await self.shared.on_model(lambda: build_tensor_request(self.sequence, packed))
        ranker, merge = self.ranker, self.shared.merge
        kept = all(image.kept for image in self.images)  # else the server would make other pixels of them
        if all(run.chosen is None for run in find_image_runs(self.sequence)) and (kept or ranker is None):
            return build_uuid_request(self.sequence, self.images, server.known)
        assert ranker is not None, "visual tokens were chosen, so there is a model"
        return await self.shared.on_model(
            lambda: build_feature_request(self.sequence, self.images, ranker.images.table, merge)
        )

    async def _follow(self, server: UpstreamServer, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """One request, up to where the sequence has to be sent anew."""
        sequence, taken, ended, cached = self.sequence, 0, False, None
        tokens, sent = len(sequence.builder), False
        self.sent += 1
        body = request.with_sampling(self._sampling())
        async with aclosing(self.shared.servers.stream(server, request.path, body)) as chunks:
            async for chunk in chunks:
                if not sent:
                    sent = self._check_prompt(server, request, chunk)
                if sent and not self.started:
                    self.started = True
                    yield Started(
                        len(self.prompt.token_ids),
                        self.prompt.visual_tokens,
                        self.prompt.token_ids,
                        sequence.builder.build,
                    )
                    for event in self._written:
                        yield event
                for token, scored in zip(read_tokens(chunk), read_log_probs(chunk), strict=False):
                    if ended:
                        break  # a server that could not know that the answer goes another way
                    events, ended = await self._take(token)
                    taken += 1
                    for event in events:
                        yield self._score(event, scored)
                cached = read_cached_tokens(chunk, cached)
                if ended and is_unfinished(chunk):
                    break
        self._note(server, UpstreamRequest(server.url, tokens, taken, cached))

    def _sampling(self) -> dict[str, Any]:
        """Of the next request: it stops at a tag where the answer may go another way from there."""
        sequence, policy, options = self.sequence, self.sequence.policy, self.job.options
        room = max(1, sequence.room)
        if sequence.place is not None:
            room = max(1, min(room, sequence.place + 1 - sequence.sampled))
        stops = set() if options.ignore_eos else set(self.shared.stops)
        never = set(sequence.builder.tokens.never_sampled)
        if policy.mode == "vision" or (policy.inserts and not policy.strays and sequence.may_look_again):
            stops.add(sequence.trigger.open_id)
        if options.answer_schema is not None:
            stops, never = stops | self._format_stops(), never | self._format_bans()
        if (left := options.min_tokens - sequence.sampled) > 0 and not self._answering:
            room, never = min(room, left), never | self.shared.stops
        params = build_request_sampling(self.job, self.sent - 1, room, stops - never, never)
        if options.answer_schema is not None and self._answering:
            params["structured_outputs"] = {"json": dict(options.answer_schema), "disable_any_whitespace": True}
        extra = self.shared.extra
        bans = {str(token): bias for token, bias in params["logit_bias"].items()}  # JSON has no other keys
        return {**params, **extra, "logit_bias": {**extra.get("logit_bias", {}), **bans}}

    @property
    def _answering(self) -> bool:
        return self.sequence.reasoning is not None and self.sequence.reasoning.answering

    def _format_stops(self) -> set[int]:
        """Of an answer with a schema: its CONCLUSION is a request of its own, which the server holds to the schema."""
        assert self.sequence.reasoning is not None
        return set() if self._answering else {self.sequence.reasoning.budget.tags[open_tag("CONCLUSION")]}

    def _format_bans(self) -> set[int]:
        """Inside a CONCLUSION with a schema: the tags, which a string could hold; it ends by a stop token."""
        assert self.sequence.reasoning is not None
        return set(self.sequence.reasoning.budget.tags.values()) if self._answering else set()

    def _check_prompt(self, server: UpstreamServer, request: GenerateRequest, chunk: dict[str, Any]) -> bool:
        """Whether the chunk says what the server read; BackendError where that is another prompt than was sent."""
        read = chunk.get("prompt_token_ids")
        if read is None:
            return False
        if not is_same_prompt(request, read, self.sequence):
            raise BackendError(f"{server.name} read another prompt than it was sent: {SAME_CHECKPOINT}")
        server.learn([image.uuid for image in self.images])
        return True

    async def _take(self, token: int) -> tuple[list[BackendEvent], bool]:
        """Append a token that was sampled, and those that are forced after it; whether the request is over by that."""
        sequence = self.sequence
        if token in sequence.builder.tokens.never_sampled:
            raise BackendError(f"the server sampled the vision token {token} against its logit_bias")
        if sequence.overrule(token) != token:  # it would leave the answer without a whole CONCLUSION
            return self._write_forced(), True
        was_answering = self._answering
        ranked = sequence.policy.needs_scores and (
            sequence.place is not None or sequence.trigger.pieces(sequence.response, token) > 0
        )
        if ranked and self.ranker is not None:
            ranker = self.ranker
            appended = await self.shared.on_model(lambda: sequence.append(token, lambda: ranker.scores(sequence)))
            ranker.take_back(appended.taken_back)
        else:
            appended = sequence.append(token, _no_scores)
        sequence.finish(token in self.shared.stops and not self.job.options.ignore_eos)
        opened = self.job.options.answer_schema is not None and self._answering and not was_answering
        over = appended.looked or bool(sequence.forced) or opened
        events = [*appended.events, *self._write_forced()]
        return events, over or sequence.finish_reason is not None

    def _score(self, event: BackendEvent, scored: LogProbs | None) -> BackendEvent:
        """The event of a sampled token, with its log-probability where that was asked for."""
        if scored is None or self.job.options.log_probs is None or not isinstance(event, Token) or event.forced:
            return event
        likeliest = scored.likeliest[: self.job.options.log_probs]
        return ScoredToken(event.sequence, event.token_id, False, scored.log_prob, likeliest)

    def _write_forced(self) -> list[BackendEvent]:
        """Append the tokens that are due without being sampled."""
        sequence, events = self.sequence, list[BackendEvent]()
        while sequence.forced and sequence.finish_reason is None:
            events += sequence.append(sequence.forced[0], _no_scores).events
            sequence.finish(False)
        return events

    def _note(self, server: UpstreamServer, request: UpstreamRequest) -> None:
        if request.sampled == 0:
            raise BackendError(f"{server.name} answered without a token")
        self.finished.append(request)
        self.shared.on_request(request)

    async def _recover(
        self, server: UpstreamServer, request: GenerateRequest, error: Exception, untouched: bool
    ) -> None:
        """Make ready to go on after a request that failed, `untouched` if it brought no token. Raises where it cannot.

        An image that the server no longer has is sent again; what is the server's own fault may go elsewhere.
        """
        if isinstance(error, ServerBusyError):
            if not self.started:
                raise BusyError(str(error), error.retry_after_s) from error
            raise BackendError(f"{server.name} is busy in mid-answer") from error
        if isinstance(error, ServerRefusalError) and request.uuids and untouched:
            server.forget(request.uuids)
            return
        if isinstance(error, ServerRefusalError) and error.status < 500:
            if error.status == 400 and not self.started:
                raise RefusedError(f"the vLLM server refuses this: {error}") from error
            raise BackendError(f"{server.name} answered {error.status}: {error}") from error
        await self._leave(server, error)

    async def _leave(self, server: UpstreamServer, error: Exception) -> None:
        """Choose anew: the same server if it is well and did not fail before."""
        self.losses[server.url] += 1
        self.server = None
        if not await self.shared.servers.check(server):
            server.mark_down(str(error))
        try:
            self._choose()
        except BackendError as none:
            raise BackendError(f"{none}; the last one, {server.name}: {error}") from error

    def _build_ended(self, reason: str) -> Ended:
        sequence = self.sequence
        known = [request.cached_tokens for request in self.finished if request.cached_tokens is not None]
        return Ended(
            reason,
            tuple(sequence.reflections),
            sequence.sampled,
            len(sequence.response) - sequence.sampled,
            sum(reflection.reinserted_tokens for reflection in sequence.reflections),
            sum(known) if known else None,
        )


def _no_scores() -> torch.Tensor:
    raise AssertionError("nothing is ranked without a local model")
