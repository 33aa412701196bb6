"""What a backend is: a job in, events out. The server and the page know backends by this file alone.

Events are the decoding loop's own (Token and Reinsertion, always of sequence 0) between a Started and an Ended, so a
text stream is made of them in one place, whichever backend wrote them. The paper serves nothing; all of this is ours.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from PIL import Image

from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.core.slots import Slots
from look_again.images.video import Video
from look_again.loading import Checkpoint
from look_again.model import Sampling
from look_again.serving.decode_options import DEFAULT_OPTIONS, DecodeOptions
from look_again.text.chat import Message

T = TypeVar("T")


class PreparedOnce:
    """What the jobs of one request have in common, computed by whichever of them comes first."""

    def __init__(self) -> None:
        self._lock, self._values = threading.Lock(), dict[str, Any]()

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """The value of a name; what `compute` raises is not kept."""
        with self._lock:
            if name not in self._values:
                self._values[name] = compute()
            value: T = self._values[name]
            return value


@dataclass(frozen=True, kw_only=True)
class Job:
    """One answer that is wanted.

    messages: as `encode_chat` takes them, `{"type": "image"}` once per image. images: RGB, and videos, of all messages
    in order.
    conversation: the same for jobs whose beginnings agree, so that a backend can send them where a cache is warm.
    prepared: shared by the jobs of one request, which differ in their sampling alone.
    """

    messages: Sequence[Message]
    images: Sequence[Image.Image | Video]
    policy: Reattention
    sampling: Sampling
    options: DecodeOptions = DEFAULT_OPTIONS
    conversation: str = ""
    prepared: PreparedOnce = field(default_factory=PreparedOnce, compare=False, repr=False)


@dataclass(frozen=True)
class Started:
    """Event: the prompt was read. Tokens of the prompt, its visual ones included, and those alone.

    token_ids: of the prompt, image i's token once per visual token; empty where a backend does not say.
    slots: reads the sequence as it is decoded, at the end the whole answer, also of one that was stopped. Call it in
    `Backend.borrow` or after Ended, when the sequence stands still. None where a backend has no sequence.
    """

    prompt_tokens: int
    visual_tokens: int
    token_ids: Sequence[int] = field(default=(), compare=False, repr=False)
    slots: Callable[[], Slots] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Ended:
    """Last event. reason: "stop", "length" or "context". cached_tokens: of the prompt and of resumed requests, where
    the backend knows. sampled, forced, reinserted: tokens; re-inserted ones without the delimiters around them.
    """

    reason: str
    reflections: tuple[Reflection, ...]
    sampled: int
    forced: int
    reinserted: int
    cached_tokens: int | None = None


@dataclass(frozen=True)
class ScoredToken(Token):
    """A sampled token whose log-probability was asked for, by the model's own distribution, before any penalty.

    log_prob: in nats. likeliest: (token, log-probability) of the likeliest tokens, descending.
    """

    log_prob: float = 0.0
    likeliest: tuple[tuple[int, float], ...] = ()


BackendEvent = Started | Token | Reinsertion | Ended


def check_options(job: Job) -> None:
    """ValueError for options that contradict each other or the sampling."""
    options, sampling = job.options, job.sampling
    if options.min_tokens > sampling.max_new_tokens:
        raise ValueError(f"min_tokens is {options.min_tokens}, more than the {sampling.max_new_tokens} tokens at most")
    if options.answer_schema is not None and sampling.max_reasoning_tokens is None:
        raise ValueError("an answer that has to follow a schema needs a bound on its reasoning")
    if options.answer_schema is not None and options.ignore_eos:
        raise ValueError("ignore_eos and a schema for the answer contradict each other")


class RefusedError(ValueError):
    """A job that this backend cannot do as asked; the message says what to ask for instead."""


class BusyError(Exception):
    """No room for another job now. retry_after_s: when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackendError(RuntimeError):
    """The engine or the server behind it failed; not the caller's fault."""


class Backend(Protocol):
    """name: "transformers" or "vllm". checkpoint: of the tokenizer, the image processor and the analysis; with vLLM
    its model may be absent (None) unless ROUTE or the page need it.
    """

    name: str
    checkpoint: Checkpoint

    @property
    def model_config(self) -> Any:
        """The model's configuration, also of one that is not loaded here."""
        ...

    @property
    def max_context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        ...

    async def start(self) -> None:
        """Make ready. Raises BackendError that says what is missing."""
        ...

    async def close(self) -> None:
        """End what runs and free everything; jobs under way raise BackendError."""
        ...

    def check(self, job: Job) -> None:
        """Before anything is computed: RefusedError for what this backend cannot do, ValueError for bad input."""
        ...

    def generate(self, job: Job) -> AsyncGenerator[BackendEvent, None]:
        """Started, then tokens and re-insertions as they come, then Ended. Closing it stops the generation.

        Raises RefusedError and BusyError before Started, BackendError at any time.
        """
        ...

    async def borrow(self, work: Callable[[Checkpoint], T]) -> T:
        """Run `work` on the checkpoint in a thread while nothing else uses its model. RefusedError without a model."""
        ...

    async def health(self) -> Mapping[str, bool]:
        """Each engine or server by name, and whether it answers."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """What /metrics shows of it now: "running", "waiting", ..."""
        ...
