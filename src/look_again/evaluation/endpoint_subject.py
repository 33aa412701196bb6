"""An endpoint that speaks the OpenAI protocol, as the model under test or as a judge.

The paper judges MMHal by GPT-4o; any endpoint will do here, and results name it. The key comes from the environment
alone (LOOK_AGAIN_API_KEY, else OPENAI_API_KEY) and is written nowhere. How requests are built, tried again and read is
`look_again.clients.openai`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from urllib.parse import urlsplit

from look_again.clients.openai import (
    AttemptError,
    BlockingClient,
    Endpoint,
    OpenAITransport,
    Reply,
    RequestRefusedError,
    SetupError,
    UnreadableReplyError,
    chat_messages,
)
from look_again.data.encoded_images import sendable
from look_again.evaluation.benchmark import JSON, BenchmarkItem
from look_again.evaluation.subjects import PREFIX_FACT, Output
from look_again.images import ImageError
from look_again.text.grammar import parse
from look_again.text.unicode import storable

KEYS = ("LOOK_AGAIN_API_KEY", "OPENAI_API_KEY")
GIVE_UP_AFTER = 20  # items in a row without a reply: then it is the endpoint that is down


def greedy_endpoint(
    base_url: str,
    model: str,
    *,
    max_new_tokens: int,
    max_reasoning_tokens: int | None = None,
    retries: int = 5,
    timeout_s: float = 600.0,
    request: Mapping[str, JSON] | None = None,
) -> Endpoint:
    """An endpoint that is asked greedily, with the key that the environment holds, if any.

    base_url: ends in /v1 as a rule. retries: of connection errors, 408, 409, 429 and 5xx, with growing pauses.
    timeout_s: of one attempt. request: further fields of the request's body; None takes one of ours out.
    max_reasoning_tokens: as a LookAgain server takes it; None is not sent.

    Raises ValueError for a URL that is not of HTTP, negative retries, and fields that are no mapping.
    """
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise ValueError(f"a base URL begins with http:// or https://, not {base_url!r}")
    if request is not None and not isinstance(request, Mapping):
        raise ValueError(f"further fields of the request are a JSON object, not {request!r}")
    if retries < 0:
        raise ValueError(f"retries is {retries}: use 0 or more")
    bound = {} if max_reasoning_tokens is None else {"max_reasoning_tokens": max_reasoning_tokens}
    return Endpoint(
        name=model,
        base_url=base_url,
        model=model,
        key_env=next((name for name in KEYS if os.environ.get(name)), None),
        timeout_s=timeout_s,
        attempts=retries + 1,
        backoff_s=0.5,
        max_tokens=max_new_tokens,
        temperature=0.0,
        seed=False,
        body={**bound, **(request or {})},
    )


def endpoint_settings(endpoint: Endpoint) -> dict[str, JSON]:
    """JSON of what determines the answers; without a user name and password in the URL."""
    return {
        "kind": "endpoint",
        "base_url": endpoint.address,
        "model": endpoint.model,
        "request": endpoint.request(None),
    }


def complete(client: BlockingClient, content: JSON) -> Reply:
    """The reply to one user's turn.

    Raises ConnectionError or TimeoutError where none can be had or the server answers nobody, RequestRefusedError, and
    UnreadableReplyError for replies of another shape.
    """
    address = client.endpoint.address
    try:
        return client.complete([{"role": "user", "content": content}])
    except UnreadableReplyError:
        raise
    except AttemptError as error:
        raise (TimeoutError if error.timed_out else ConnectionError)(f"{address}: {error}") from error
    except SetupError as error:
        raise ConnectionError(f"{address}: {error}") from error


class EndpointSubject:
    """An endpoint as the model under test, with at most `concurrency` requests under way."""

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 8) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.settings = endpoint_settings(endpoint)
        self.concurrency = concurrency
        self._has_answered = False
        self._unanswered = 0  # items in a row
        self.client = BlockingClient(endpoint, OpenAITransport(endpoint, extra="eval"))

    def answers(self, items: Sequence[BenchmarkItem], done: Collection[str]) -> Iterator[tuple[int, Output]]:
        """In the order in which they come. ConnectionError or TimeoutError once the endpoint is given up.

        An item without a usable reply after all attempts is that item's error, which a resumed run asks again. The
        endpoint is given up when it has never answered, or not for `GIVE_UP_AFTER` items in a row: an outage is no
        wrong answer.
        """
        if any(PREFIX_FACT in item.facts for item in items):
            raise ValueError("an endpoint cannot be made to continue a response; this benchmark needs a checkpoint")
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            waiting = {pool.submit(self._ask, item): i for i, item in enumerate(items) if item.id not in done}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, item: BenchmarkItem) -> Output:
        started = time.perf_counter()
        try:
            images = [sendable(source) for source in item.images]
            (message,) = chat_messages("", item.prompt, images)
            reply = complete(self.client, message["content"])
        except RequestRefusedError as error:
            return _failed(f"the endpoint refuses it: {error}", started)
        except ImageError as error:
            return _failed(str(error), started)
        except UnreadableReplyError as error:
            if error.foreign and not self._has_answered:
                address = self.client.endpoint.address
                raise ConnectionError(
                    f"{address} answers, but not with chat completions; does the URL lack /v1?"
                ) from error
            return _failed(str(error), started)
        except (ConnectionError, TimeoutError) as error:
            self._unanswered += 1
            if not self._has_answered or self._unanswered >= GIVE_UP_AFTER:
                raise
            return _failed(str(error), started)
        self._has_answered, self._unanswered = True, 0
        return _output(reply, time.perf_counter() - started)


def _failed(reason: str, started: float) -> Output:
    return Output(error=storable(reason), seconds=time.perf_counter() - started)


def _output(reply: Reply, seconds: float) -> Output:
    parsed = parse(reply.text)
    return Output(
        text=reply.text,
        conclusion=parsed.conclusion,
        tokens=_tokens(reply),
        finish_reason=reply.finish,
        reflections=len(parsed.reflections),
        seconds=seconds,
    )


def _tokens(reply: Reply) -> dict[str, int]:
    """The counts that the endpoint gave; a server may leave out either or send null, which reads as 0."""
    counts = {"prompt": reply.tokens_in, "sampled": reply.tokens_out}
    return {kind: count for kind, count in counts.items() if count or (kind == "sampled" and not reply.text)}


class EndpointJudge:
    """An endpoint as a judge: a prompt in, its reply out."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.settings = endpoint_settings(endpoint)
        self.client = BlockingClient(endpoint, OpenAITransport(endpoint, extra="eval"))

    def __call__(self, prompt: str) -> str:
        """OSError or TimeoutError where no reply could be had, ValueError where the judge refuses the request."""
        try:
            return complete(self.client, prompt).text
        except (RequestRefusedError, ConnectionError) as error:
            if not isinstance(error, RequestRefusedError) and not isinstance(error.__cause__, SetupError):
                raise
            raise ValueError(
                f"the judge refuses a request, so nothing is scored: {error}; answers are kept, and --judge-request "
                "changes the fields that it is sent (null takes one out)"
            ) from error
        except UnreadableReplyError as error:
            raise ConnectionError(f"{self.client.endpoint.address}: {error}") from error
