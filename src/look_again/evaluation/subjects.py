"""The model under test: a local checkpoint that looks again, or any endpoint that speaks the OpenAI protocol.

The paper runs its models inside an evaluation package. Here a subject turns items into outputs, an item that cannot be
asked is an output that says why, and how many are asked at once never changes an answer: batches are cut from the whole
list of items, so a resumed run decodes the very same ones.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from PIL import Image

from look_again.answers import Answer
from look_again.core.input_device import input_device
from look_again.core.reattention import Reattention
from look_again.data.image_files import ImageSource, LazyVideo, open_image, open_shown
from look_again.evaluation.benchmark import JSON, BenchmarkItem, ModelReply
from look_again.evaluation.fingerprint import fingerprint
from look_again.images import ImageError
from look_again.images.video import Video
from look_again.model import LookAgain, Request, Sampling

PREFIX_FACT = "response_prefix"
"""Fact of an item: a beginning of the response that the model has to continue."""


class NotPossibleError(ValueError):
    """A control that these items do not allow."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What came of one item.

    conclusion: the text of CONCLUSION, None without one. tokens: slots by kind. reflections: `<REFLECTION>` tags
    written. looks: how often visual rows were put back. error: why the item could not be asked. seconds: its share of
    the wall time.
    """

    text: str = ""
    conclusion: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    finish_reason: str | None = None
    reflections: int = 0
    looks: int = 0
    error: str | None = None
    seconds: float = 0.0

    @property
    def reply(self) -> ModelReply:
        return ModelReply(self.text, self.conclusion)


class Subject(Protocol):
    """settings: JSON of everything that determines the answers. answers: (index, output) of every item whose id is not
    in `done`, in any order."""

    @property
    def settings(self) -> Mapping[str, JSON]: ...

    def answers(self, items: Sequence[BenchmarkItem], done: Collection[str]) -> Iterator[tuple[int, Output]]: ...


class LocalSubject:
    """A checkpoint on this machine, decoding greedily, `batch` items at a time, under one policy.

    max_new_tokens, max_reasoning_tokens: of each answer, as in `Sampling`.
    """

    def __init__(
        self,
        model: LookAgain,
        policy: Reattention,
        *,
        max_new_tokens: int,
        max_reasoning_tokens: int | None = None,
        batch: int = 8,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        self.model = model
        self.policy = policy
        self.sampling = Sampling(max_new_tokens=max_new_tokens, max_reasoning_tokens=max_reasoning_tokens)
        self.batch = batch

    @property
    def settings(self) -> dict[str, JSON]:
        check, bound = self.model.checkpoint, self.sampling.max_reasoning_tokens
        return {
            "kind": "checkpoint",
            "model": check.name,
            "fingerprint": fingerprint(check.model, check.tokenizer),
            "trained": check.trained,
            "dtype": str(check.model.dtype).removeprefix("torch."),
            "device": input_device(check.model).type,
            "attention": check.model.config.get_text_config()._attn_implementation,
            "image_size": {k: v for k, v in dict(check.image_processor.size).items() if v is not None},
            "max_new_tokens": self.sampling.max_new_tokens,
            **({} if bound is None else {"max_reasoning_tokens": bound}),
            "reattention": asdict(self.policy),
        }

    def answers(self, items: Sequence[BenchmarkItem], done: Collection[str]) -> Iterator[tuple[int, Output]]:
        """Batches are those of an undisturbed run: one that is partly done is decoded whole.

        NotPossibleError, before anything is asked, where the wrong-image control has no other image for an item.
        """
        if self.policy.control == "wrong-image":
            for index in range(len(items)):
                wrong_images(items, index)
        for start in range(0, len(items), self.batch):
            part = range(start, min(start + self.batch, len(items)))
            wanted = [index for index in part if items[index].id not in done]
            if wanted:
                outputs = dict(zip(part, self._batch(items, part), strict=True))
                yield from ((index, outputs[index]) for index in wanted)

    def _batch(self, items: Sequence[BenchmarkItem], part: Sequence[int]) -> list[Output]:
        asked: dict[int, Request] = {}
        outputs: dict[int, Output] = {}
        for index in part:
            try:
                asked[index] = self._request(items, index)
            except ImageError as error:
                outputs[index] = Output(error=str(error))
        outputs |= self._ask(asked)
        return [outputs[index] for index in part]

    def _ask(self, asked: Mapping[int, Request]) -> dict[int, Output]:
        """Outputs of requests; one that is refused (too long, say) is found by asking one by one."""
        started = time.perf_counter()
        try:
            answers = self.model.ask_batch(list(asked.values()), reattention=self.policy, sampling=self.sampling)
        except ValueError as error:
            if len(asked) == 1:
                return {index: Output(error=str(error)) for index in asked}
            return {i: output for index, request in asked.items() for i, output in self._ask({index: request}).items()}
        seconds = (time.perf_counter() - started) / max(1, len(asked))
        return {index: build_output(answer, seconds) for index, answer in zip(asked, answers, strict=True)}

    def _request(self, items: Sequence[BenchmarkItem], index: int) -> Request:
        item = items[index]
        control = wrong_images(items, index) if self.policy.control == "wrong-image" else ()
        return Request(
            _opened(item.images),
            item.prompt,
            [open_image(one) for one in control],
            str(item.facts.get(PREFIX_FACT, "")),
        )


def _opened(sources: Sequence[ImageSource]) -> list[Image.Image | Video]:
    return [open_shown(source) for source in sources]


def build_output(answer: Answer, seconds: float) -> Output:
    """An answer as a run keeps it."""
    return Output(
        text=answer.response,
        conclusion=answer.answer,
        tokens=answer.tokens,
        finish_reason=answer.finish_reason,
        reflections=sum(not reflection.stray for reflection in answer.reflections),
        looks=sum(bool(reflection.visual_indices) for reflection in answer.reflections),
        seconds=seconds,
    )


def wrong_images(items: Sequence[BenchmarkItem], index: int) -> tuple[ImageSource, ...]:
    """Images of another item, as many as this one has: of the first, from half the list on, that shares none with it.

    They depend on the list of items alone. NotPossibleError where every other item shares an image with this one, and
    for a video, which has no other of its size to be shown.
    """
    own = items[index].images
    if any(isinstance(image, LazyVideo) for image in own):
        raise NotPossibleError(
            f"the wrong-image control shows images alone, and item {items[index].id!r} shows a video; leave it out"
        )
    if not own:
        return ()
    for step in range(len(items)):
        other = items[(index + len(items) // 2 + step) % len(items)].images
        if other and not any(image in own for image in other):
            return tuple(other[place % len(other)] for place in range(len(own)))
    raise NotPossibleError(
        f"the wrong-image control needs items with different pictures: of {len(items)}, none has one that item "
        f"{items[index].id!r} does not show; ask more items, or leave that control out"
    )


def describe_settings(settings: Mapping[str, Any]) -> str:
    """A subject in a line, for titles."""
    policy = settings.get("reattention")
    if not policy:
        return str(settings["model"])
    how = f"route {policy['keep']}%" if policy["mode"] == "route" else policy["mode"]
    return f"{settings['model']}, {how}" + (f", {policy['control']}" if policy["control"] else "")
