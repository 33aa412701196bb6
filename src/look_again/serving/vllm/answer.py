"""One answer by a vLLM server: request after request, until the decoding loop would have ended.

What each token does is the decoding row's to say, the same that runs in `generate`; here its sequence is sent, and what
comes back is fed to it. Where rows are put back the request ends and another one goes on from the longer sequence. A
request that breaks off is gone on with from the last token that came, so nothing is said twice.

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

from look_again.core.sequence import DecodedSequence
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendError, BackendEvent, BusyError, Ended, Job, RefusedError, Started
from look_again.serving.prompt import Prompt
from look_again.serving.vllm.chat_requests import by_chat
from look_again.serving.vllm.ranking import Ranker
from look_again.serving.vllm.server import LostServerError, Server, ServerRefusalError
from look_again.serving.vllm.servers import Servers
from look_again.serving.vllm.token_requests import (
    Picture,
    Request,
    by_features,
    by_uuid,
    cached_tokens_of,
    goes_on,
    same_prompt,
    sampling_params,
    shows_of,
    tokens_of,
)

SAME_CHECKPOINT = "it must serve the same checkpoint, with bounds of images no narrower than here"
LOSSES = 2  # of one server in one answer, before it gets no more of it


@dataclass(frozen=True)
class Leg:
    """One request of an answer. tokens: that it sent, visual ones included; sampled: that were taken from its answer.

    cached_tokens: of those sent, that the server had computed before; None where it does not say.
    """

    server: str
    tokens: int
    sampled: int
    cached_tokens: int | None


@dataclass(frozen=True)
class Shared:
    """What all answers of a backend share.

    stops: tokens that end an answer. merge: as `by_features` takes it. on_model: runs a call on the thread that has the
    model. on_leg: told of requests. extra: further sampling parameters of every request.
    """

    servers: Servers
    checkpoint: Checkpoint
    stops: frozenset[int]
    merge: int
    on_model: Callable[[Callable[[], Any]], Awaitable[Any]]
    on_leg: Callable[[Leg], None]
    extra: Mapping[str, Any]


class VllmAnswer:
    """The requests of one job. ranker: None without a local model."""

    def __init__(
        self,
        shared: Shared,
        job: Job,
        prompt: Prompt,
        row: DecodedSequence,
        images: Sequence[Picture],
        ranker: Ranker | None,
    ) -> None:
        self.shared, self.job, self.prompt, self.row = shared, job, prompt, row
        self.images, self.ranker = images, ranker
        self.server: Server | None = None
        self.losses: Counter[str] = Counter()
        self.legs: list[Leg] = []
        self.requests = 0
        self.started = False

    async def events(self) -> AsyncGenerator[BackendEvent, None]:
        """As `Backend.generate`."""
        while self.row.finish_reason is None:
            server = self.server = self.server or self._choose()
            request = await self._request(server)
            sampled = self.row.sampled
            try:
                async with aclosing(self._leg(server, request)) as events:
                    async for event in events:
                        yield event
            except (LostServerError, ServerRefusalError, BusyError) as error:
                if self.row.finish_reason is None:  # else only the accounts of a whole answer are missing
                    await self._recover(server, request, error, self.row.sampled == sampled)
        yield self._ended(self.row.finish_reason)

    def _choose(self) -> Server:
        avoid = [url for url, times in self.losses.items() if times >= LOSSES]
        return self.shared.servers.choose(self.job.conversation, avoid)

    async def _request(self, server: Server) -> Request:
        """The sequence so far."""
        if server.chat:
            return by_chat(self.shared.checkpoint, self.job, self.row, self.images, server)
        ranker, merge = self.ranker, self.shared.merge
        kept = all(image.kept for image in self.images)  # else the server would make other pixels of them
        if all(show.chosen is None for show in shows_of(self.row)) and (kept or ranker is None):
            return by_uuid(self.row, self.images, server.known)
        assert ranker is not None, "rows were chosen, so there is a model"
        return await self.shared.on_model(lambda: by_features(self.row, self.images, ranker.table(), merge))

    async def _leg(self, server: Server, request: Request) -> AsyncGenerator[BackendEvent, None]:
        """One request, up to where the sequence has to be sent anew."""
        row, taken, ended, cached = self.row, 0, False, None
        tokens, sent = len(row.builder), False
        self.requests += 1
        body = request.with_sampling(self._sampling())
        async with aclosing(self.shared.servers.stream(server, request.path, body)) as chunks:
            async for chunk in chunks:
                if not sent:
                    sent = self._check_prompt(server, request, chunk)
                if sent and not self.started:
                    self.started = True
                    yield Started(len(self.prompt.token_ids), self.prompt.visual_tokens, self.row.builder.build)
                for token in tokens_of(chunk):
                    if ended:
                        break  # a server that could not know that the answer goes another way
                    events, ended = await self._take(token)
                    taken += 1
                    for event in events:
                        yield event
                cached = cached_tokens_of(chunk, cached)
                if ended and goes_on(chunk):
                    break
        self._note(server, Leg(server.url, tokens, taken, cached))

    def _sampling(self) -> dict[str, Any]:
        """Of the next request: it stops at a tag where the answer may go another way from there."""
        row, policy = self.row, self.row.policy
        room = min(row.budget - row.sampled, row.max_context - len(row.builder))
        if row.place is not None:
            room = max(1, min(room, row.place + 1 - row.sampled))
        stops = set(self.shared.stops)
        if policy.mode == "vision" or (policy.inserts and not policy.strays and self._may_look_again()):
            stops.add(row.trigger.open_id)
        never = row.builder.tokens.never_sampled
        params = sampling_params(self.job.sampling, self.requests - 1, room, stops, never)
        extra = self.shared.extra
        return {**params, **extra, "logit_bias": {**extra.get("logit_bias", {}), **params["logit_bias"]}}

    def _may_look_again(self) -> bool:
        """Whether a next reflection could show anything; once one did not, none does."""
        row = self.row
        done = sum(bool(reflection.rows) for reflection in row.reflections)
        full = any(reflection.skipped == "context" for reflection in row.reflections)
        return bool(row.spans) and done < row.policy.max_reinsertions and not full

    def _check_prompt(self, server: Server, request: Request, chunk: dict[str, Any]) -> bool:
        """Whether the chunk says what the server read; BackendError where that is another prompt than was sent."""
        read = chunk.get("prompt_token_ids")
        if read is None:
            return False
        if not same_prompt(request, read, self.row):
            raise BackendError(f"{server.name} read another prompt than it was sent: {SAME_CHECKPOINT}")
        server.learn([image.uuid for image in self.images])
        return True

    async def _take(self, token: int) -> tuple[list[BackendEvent], bool]:
        """Append a token that was sampled, and those that are forced after it; whether the request is over by that."""
        row = self.row
        if token in row.builder.tokens.never_sampled:
            raise BackendError(f"the server sampled the vision token {token} against its logit_bias")
        ranked = row.policy.needs_scores and (row.place is not None or row.trigger.pieces(row.response, token) > 0)
        if ranked and self.ranker is not None:
            ranker = self.ranker
            appended = await self.shared.on_model(lambda: row.append(token, lambda: ranker.scores(row)))
            ranker.take_back(appended.taken_back)
        else:
            appended = row.append(token, _no_scores)
        row.finish(token in self.shared.stops)
        events, over = list(appended.events), appended.looked or bool(row.forced)
        while row.forced and row.finish_reason is None:
            events += row.append(row.forced[0], _no_scores).events
            row.finish(False)
        return events, over or row.finish_reason is not None

    def _note(self, server: Server, leg: Leg) -> None:
        if leg.sampled == 0:
            raise BackendError(f"{server.name} answered without a token")
        self.legs.append(leg)
        self.shared.on_leg(leg)

    async def _recover(self, server: Server, request: Request, error: Exception, untouched: bool) -> None:
        """Make ready to go on after a request that failed, `untouched` if it brought no token. Raises where it cannot.

        An image that the server no longer has is sent again; what is the server's own fault may go elsewhere.
        """
        if isinstance(error, BusyError):
            if not self.started:
                raise error
            raise BackendError(f"{server.name} is busy in mid-answer") from error
        if isinstance(error, ServerRefusalError) and request.uuids and untouched:
            server.forget(request.uuids)
            return
        if isinstance(error, ServerRefusalError) and error.status < 500:
            if error.status == 400 and not self.started:
                raise RefusedError(f"the vLLM server refuses this: {error}") from error
            raise BackendError(f"{server.name} answered {error.status}: {error}") from error
        await self._leave(server, error)

    async def _leave(self, server: Server, error: Exception) -> None:
        """Choose anew: the same server if it is well and did not fail before."""
        self.losses[server.url] += 1
        self.server = None
        if not await self.shared.servers.check(server):
            server.mark_down(str(error))
        try:
            self._choose()
        except BackendError as none:
            raise BackendError(f"{none}; the last one, {server.name}: {error}") from error

    def _ended(self, reason: str) -> Ended:
        row = self.row
        known = [leg.cached_tokens for leg in self.legs if leg.cached_tokens is not None]
        return Ended(
            reason,
            tuple(row.reflections),
            row.sampled,
            len(row.response) - row.sampled,
            sum(reflection.reinserted_tokens for reflection in row.reflections),
            sum(known) if known else None,
        )


def _no_scores() -> torch.Tensor:
    raise AssertionError("nothing is ranked without a local model")
