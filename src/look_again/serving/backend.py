"""What a backend is: a job in, events out. The server and the page know backends by this file alone.

Events are the decoding loop's own (Token and Reinsertion, always of sequence 0) between a Started and an Ended, so a
text stream is made of them in one place, whichever backend wrote them. The paper serves nothing; all of this is ours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from PIL import Image

from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.core.slots import Slots
from look_again.loading import Checkpoint
from look_again.model import Sampling
from look_again.text.chat import Message

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One answer that is wanted.

    messages: as `encode_chat` takes them, `{"type": "image"}` once per image. images: RGB, of all messages in order.
    conversation: the same for jobs whose beginnings agree, so that a backend can send them where a cache is warm.
    """

    messages: Sequence[Message]
    images: Sequence[Image.Image]
    policy: Reattention
    sampling: Sampling
    conversation: str = ""


@dataclass(frozen=True)
class Started:
    """Event: the prompt was read. Tokens of the prompt, its visual ones included, and those alone.

    slots: reads the sequence as it is decoded, at the end the whole answer, also of one that was stopped. Call it in
    `Backend.borrow` or after Ended, when the sequence stands still. None where a backend has no sequence.
    """

    prompt_tokens: int
    visual_tokens: int
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


BackendEvent = Started | Token | Reinsertion | Ended


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
