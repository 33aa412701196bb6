"""Distillation (paper, "The pipeline", 4): a trained model answers the questions, n times each if asked to.

The model is an endpoint, or a checkpoint that decodes here, in batches and with re-attention. Paper: 40k questions, one
answer each. An answer that breaks the grammar goes on, for the rewriting to mend; an empty one or a refusal does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from look_again.data.encoded_images import image_bytes
from look_again.images import ImageError
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, compute_digest
from look_again.pipeline.engine import PipelineStage, Work
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.stages.chat_stage import agrees, ask_until, faults, is_refusal
from look_again.pipeline.stages.prompt_files import PromptTemplate
from look_again.text.grammar import parse
from look_again.text.instructions import FORMAT_INSTRUCTIONS

if TYPE_CHECKING:
    from look_again.answers import Answer
    from look_again.core.reattention import Reattention
    from look_again.model import LookAgain, Request, Sampling

NAME = "distil"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """model: an endpoint's name; or checkpoint: a folder or hub name that decodes here ("" is the shipped one), with
    re-attention in `mode` and `keep` percent of ROUTE, `batch` items at a time. samples: answers per question.
    temperature 0 is greedy. max_pixels: larger images are scaled down for a checkpoint.

    ValueError unless exactly one of model and checkpoint is given.
    """

    model: str | None = None
    checkpoint: str | None = None
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 1024
    batch: int = 32
    mode: str = "copy"
    keep: int = 50
    device: str = "auto"
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.checkpoint is None):
            raise ValueError("name either a model (an endpoint) or a checkpoint")
        if self.samples < 1 or self.batch < 1:
            raise ValueError(f"samples is {self.samples}, batch {self.batch}: use 1 or more")


def stage(
    model: str, prompt: PromptTemplate, *, samples: int = 1, asks: int = 3, later: tuple[str, ...] = ()
) -> PipelineStage:
    """The stage with an endpoint of this name."""
    version = compute_digest(as_text([model, prompt.version, asks]))[:12]
    return PipelineStage(StageKey(NAME, version, samples=samples), work=_work(model, prompt, asks), later=later)


def local_stage(given: Distillation, *, later: tuple[str, ...] = ()) -> PipelineStage:
    """The stage with a checkpoint, which is loaded when the first batch comes.

    A batch's random numbers come from its first item, so a run that was killed samples the same answers again.
    """
    settings = {name: value for name, value in vars(given).items() if name not in ("samples", "device", "model")}
    if given.max_pixels is None:
        settings.pop("max_pixels")
    if not given.temperature:
        settings.pop("batch")  # greedy answers are those of asking one by one
    key = StageKey(NAME, compute_digest(as_text(settings))[:12], samples=given.samples)
    return PipelineStage(key, batch_work=Decoder(given), batch=given.batch, later=later)


def judged(response: str, item: WorkItem, **facts: Any) -> Outcome:
    """The outcome of an answer: what it says, its breaches of the grammar, and whether it agrees with the reference."""
    text = response.strip()
    if not text:
        return Outcome.bad("an empty answer")
    if is_refusal(text):
        return Outcome.bad(f"a refusal: {text[:100]!r}")
    parsed = parse(text)
    output = {"response": text, "format": faults(parsed), "right": agrees(parsed.conclusion, item.row), **facts}
    return Outcome(output=output)


def _work(model: str, prompt: PromptTemplate, asks: int) -> Work:
    async def work(item: WorkItem, chat: Chat) -> Outcome:
        fields = {"question": item.row.prompt, "format": FORMAT_INSTRUCTIONS}
        text = await ask_until(chat, model, prompt, fields, lambda reply: reply, asks=asks)
        return judged(text, item)

    return work


@dataclass
class Decoder:
    """What a checkpoint answers to a batch of items. It is loaded when the first batch comes, in whatever process."""

    given: Distillation

    @cached_property
    def model(self) -> LookAgain:
        from look_again.model import load

        given = self.given
        return load(given.checkpoint or None, device=given.device, max_pixels=given.max_pixels)

    def __call__(self, items: Sequence[WorkItem]) -> list[Outcome]:
        from look_again.core.reattention import Reattention
        from look_again.model import Request, Sampling

        given = self.given
        policy = Reattention(mode=given.mode, keep=given.keep)
        outcomes: dict[int, Outcome] = {}
        requests: dict[int, Request] = {}
        for at, item in enumerate(items):
            try:
                requests[at] = Request([image_bytes(image) for image in item.row.images], item.row.prompt)
            except ImageError as error:
                outcomes[at] = Outcome.bad(str(error))
        seed = int(compute_digest(f"{items[0].input}/{items[0].sample}")[:12], 16) if given.temperature else None
        sampling = Sampling(max_new_tokens=given.max_new_tokens, temperature=given.temperature, seed=seed)
        answers = _answers(self.model, list(requests.values()), policy, sampling)
        for at, answer in zip(requests, answers, strict=True):
            outcomes[at] = _said(answer, items[at])
        return [outcomes[at] for at in range(len(items))]


def _answers(
    model: LookAgain, requests: list[Request], policy: Reattention, sampling: Sampling
) -> list[Answer | ValueError]:
    """The answers; where the model refuses a request (a damaged image, too long), its error in that place."""
    try:
        return list(model.ask_batch(requests, reattention=policy, sampling=sampling))
    except ValueError as error:
        if len(requests) == 1:
            return [error]
        return [_answers(model, [request], policy, sampling)[0] for request in requests]


def _said(answer: Answer | ValueError, item: WorkItem) -> Outcome:
    if isinstance(answer, ValueError):
        return Outcome.bad(str(answer))
    return judged(answer.response, item, tokens=answer.tokens, finish=answer.finish_reason)
