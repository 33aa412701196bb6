"""An endpoint that speaks the OpenAI protocol, as the model under test or as a judge.

The paper judges MMHal by GPT-4o; any endpoint will do here, and results name it. The key comes from the environment
alone (LOOK_AGAIN_API_KEY, else OPENAI_API_KEY) and is written nowhere. Images travel as data URLs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from look_again.data.image_files import open_image
from look_again.evaluation.benchmark import JSON, BenchmarkItem
from look_again.evaluation.subjects import PREFIX_FACT, Output
from look_again.extras import require
from look_again.images import ImageError, data_url
from look_again.pipeline.contents import storable
from look_again.text.grammar import parse

KEYS = ("LOOK_AGAIN_API_KEY", "OPENAI_API_KEY")
NO_KEY = "none"  # what servers without keys are sent
WAITS = (408, 429)  # statuses of the client's side that pass


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where and how to ask.

    base_url: ends in /v1 as a rule. retries: of connection errors, 408, 409, 429 and 5xx, with growing pauses.
    timeout_s: of one request. request: further fields of the request's body; null takes one of ours out.
    """

    base_url: str
    model: str
    max_new_tokens: int
    retries: int = 5
    timeout_s: float = 600.0
    request: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError(f"a base URL begins with http:// or https://, not {self.base_url!r}")
        if not isinstance(self.request, Mapping):
            raise ValueError(f"further fields of the request are a JSON object, not {self.request!r}")

    @property
    def settings(self) -> dict[str, JSON]:
        """JSON of what determines the answers; without a user name and password in the URL."""
        url = urlsplit(self.base_url)
        plain = urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
        return {
            "kind": "endpoint",
            "base_url": plain,
            "model": self.model,
            "request": self.body([]) | {"messages": None},
        }

    def client(self) -> Any:
        """The library's client. MissingExtraError without `openai`."""
        require("openai", extra="eval")
        import openai

        key = next((value for name in KEYS if (value := os.environ.get(name))), NO_KEY)
        return openai.OpenAI(base_url=self.base_url, api_key=key, max_retries=self.retries, timeout=self.timeout_s)

    def body(self, content: str | list[dict[str, JSON]]) -> dict[str, JSON]:
        """The body of one request: greedy, one user's turn."""
        ours = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0.0,
        }
        return {name: value for name, value in (ours | dict(self.request)).items() if value is not None}


def send(client: Any, body: Mapping[str, JSON]) -> Any:
    """One chat completion. ConnectionError or TimeoutError where none can be had, ValueError where it is refused."""
    import openai

    known = {name: body[name] for name in ("model", "messages")}
    extra = {name: value for name, value in body.items() if name not in known}
    try:
        completion = client.chat.completions.create(**known, extra_body=extra)
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise ValueError(f"the endpoint refuses it: {error}") from error
    except openai.APITimeoutError as error:
        raise TimeoutError(f"{client.base_url}: {error}") from error
    except openai.OpenAIError as error:
        if getattr(error, "status_code", None) == 413:
            raise ValueError(f"the endpoint refuses it: {error}") from error
        raise ConnectionError(f"{client.base_url}: {error}") from error
    if getattr(completion, "choices", None) is None:  # the library takes any JSON for one
        raise ConnectionError(f"{client.base_url} answers, but not with chat completions; does the URL lack /v1?")
    return completion


class EndpointSubject:
    """An endpoint as the model under test, asked `concurrency` questions at a time."""

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 8) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.endpoint = endpoint
        self.concurrency = concurrency
        self.client = endpoint.client()

    @property
    def settings(self) -> dict[str, JSON]:
        return self.endpoint.settings

    def answers(self, items: Sequence[BenchmarkItem], done: Collection[str]) -> Iterator[tuple[int, Output]]:
        """In the order in which they come. ConnectionError or TimeoutError once the endpoint is given up."""
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
            content: list[dict[str, JSON]] = [
                {"type": "image_url", "image_url": {"url": data_url(open_image(source))}} for source in item.images
            ]
            content.append({"type": "text", "text": item.prompt})
            completion = send(self.client, self.endpoint.body(content))
        except (ImageError, ValueError) as error:
            return Output(error=storable(str(error)), seconds=time.perf_counter() - started)
        return _output(completion, time.perf_counter() - started)


def _output(completion: Any, seconds: float) -> Output:
    if not completion.choices:
        return Output(error="the endpoint sent no choice", seconds=seconds)
    choice = completion.choices[0]
    text = storable(choice.message.content or "")
    parsed = parse(text)
    return Output(
        text=text,
        conclusion=parsed.conclusion,
        tokens=_tokens(completion.usage),
        finish_reason=choice.finish_reason,
        reflections=len(parsed.reflections),
        seconds=seconds,
    )


def _tokens(usage: Any) -> dict[str, int]:
    """The counts that the endpoint gave; a server may leave out either or send null."""
    counts = {"prompt": "prompt_tokens", "sampled": "completion_tokens"}
    found = {kind: getattr(usage, name, None) for kind, name in counts.items()}
    return {kind: count for kind, count in found.items() if isinstance(count, int)}


class EndpointJudge:
    """An endpoint as a judge: a prompt in, its reply out."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.settings = endpoint.settings
        self.endpoint = endpoint
        self.client = endpoint.client()

    def __call__(self, prompt: str) -> str:
        """OSError or TimeoutError where no reply could be had, ValueError where the judge refuses the request."""
        try:
            completion = send(self.client, self.endpoint.body(prompt))
        except (ValueError, ConnectionError) as error:
            status = getattr(error.__cause__, "status_code", None)
            if status is None or status in WAITS or status >= 500:
                raise
            raise ValueError(
                f"the judge refuses a request, so nothing is scored: {error}; answers are kept, and --judge-request "
                "changes the fields that it is sent (null takes one out)"
            ) from error
        return storable(completion.choices[0].message.content or "") if completion.choices else ""
