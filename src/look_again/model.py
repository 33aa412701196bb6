"""The Python API: `look_again.load(...)`, then `.ask`, `.ask_batch` and `.stream`. Thin glue over `model.generate`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from look_again.answers import Answer
from look_again.core.generate import Event, LookAgainDecoding, LookAgainOutput
from look_again.core.generation_defaults import without_defaults
from look_again.core.input_device import input_device
from look_again.core.inputs import ImageInputs, left_padded, list_kinds, process_images, stack_pixels
from look_again.core.prefix_cache import PrefixCache
from look_again.core.reasoning_budget import ReasoningBudget, ReasoningWatch
from look_again.core.reattention import Reattention
from look_again.core.trigger import Trigger
from look_again.images import load_image
from look_again.images.video import Video
from look_again.images.video_file import VideoSource, load_video
from look_again.loading import Checkpoint, load_checkpoint
from look_again.streaming import Finished, LookedAgain, StreamItem, TextDelta, TextStream
from look_again.text.chat import decode_text
from look_again.text.grammar import parse, shorten
from look_again.text.instructions import LOOK_AGAIN_TEXT, question_messages
from look_again.weights import LoadOptions

__all__ = ["Finished", "LookAgain", "LookedAgain", "Request", "Sampling", "StreamItem", "TextDelta", "load"]

FileSource = str | Path | bytes | Image.Image
ImageSource = FileSource | Video
MAX_QUESTION_CHARACTERS = 20_000
DEFAULT_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Request:
    """One question. `prefix` is a beginning of the response that the model has to continue.

    images: in the order in which they are shown; a `Video` may stand among them. TypeError for one that stands alone.
    """

    images: Sequence[ImageSource]
    question: str
    control_images: Sequence[FileSource] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        for name in ("images", "control_images"):
            given = getattr(self, name)
            if isinstance(given, ImageSource) or not isinstance(given, Sequence):
                raise TypeError(f"{name} of a Request are a list, not {type(given).__name__}")

    def __repr__(self) -> str:
        begun = f", begun with {shorten(self.prefix)}" if self.prefix else ""
        controls = f", {len(self.control_images)} control images" if self.control_images else ""
        return f"Request({shorten(self.question)}, {len(self.images)} images{controls}{begun})"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen, and how many.

    temperature 0 is greedy. seed None leaves sampling to the global generator. max_reasoning_tokens: sampled tokens
    before the CONCLUSION, which is then forced, as it is where the model ends without one; 0 answers at once, None
    bounds nothing and forces nothing. TypeError for what is no number, ValueError for one out of range.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    max_reasoning_tokens: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_numbers(self, ("max_new_tokens", "max_reasoning_tokens", "seed"), Integral, "a whole number")
        _check_numbers(self, ("temperature", "top_p"), Real, "a number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        reasoning = self.max_reasoning_tokens
        if reasoning is not None and not 0 <= reasoning < self.max_new_tokens:
            raise ValueError(
                f"max_reasoning_tokens is at least 0 and below max_new_tokens ({self.max_new_tokens}), which leaves "
                f"the rest to the CONCLUSION; it is {reasoning}"
            )
        if self.temperature != 0 and not 0.01 <= self.temperature <= 100:
            raise ValueError(f"temperature is 0 (greedy) or from 0.01 to 100, not {self.temperature}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a number from 0 to 2**63 - 1, not {self.seed}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is above 0 and at most 1, not {self.top_p}")

    def bound_reasoning(self, tokenizer: Any) -> ReasoningBudget | None:
        """The bound on an answer's reasoning; None without one."""
        if self.max_reasoning_tokens is None:
            return None
        return ReasoningBudget.within(tokenizer, self.max_reasoning_tokens, self.max_new_tokens)

    def watch_reasoning(self, tokenizer: Any, stop_ids: Collection[int]) -> ReasoningWatch | None:
        """The watch over one answer's reasoning. stop_ids: tokens that end an answer."""
        budget = self.bound_reasoning(tokenizer)
        return None if budget is None else budget.watch(stop_ids)

    def as_generate_kwargs(self) -> dict[str, Any]:
        """Options of `generate`, all of them said; `without_defaults` keeps the checkpoint's own away."""
        always = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": 1.0}
        if self.temperature == 0:
            return {**always, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        return {**always, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p or 1.0, "top_k": 0}


def load(name: str | Path | None = None, options: LoadOptions | None = None, **given: Any) -> LookAgain:
    """Load a checkpoint (hub name or folder; None is the shipped tiny model) to ask it.

    options: how, see `LoadOptions`; its fields may be given by name as well: `load("DIR", quantization="int8")`.
    """
    return LookAgain(load_checkpoint(name, options, **given))


class LookAgain:
    """A checkpoint that answers questions about images and looks again when it reflects."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.trigger = Trigger.of(checkpoint.tokenizer, spelled=not checkpoint.trained)
        self.prefix_cache: PrefixCache | None = None  # for answers that begin with given text, again and again
        self._lock = threading.Lock()  # one generate at a time: it sets the model's attention implementation

    def __repr__(self) -> str:
        return f"LookAgain({self.checkpoint!r})"

    def ask(
        self,
        images: ImageSource | Sequence[ImageSource],
        question: str,
        *,
        video: VideoSource | None = None,
        reattention: Reattention | str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
    ) -> Answer:
        """Answer one question about images, a video, or neither.

        Raises ImageError or ValueError for bad input, TypeError for what is no image, question or number at all.

        video: shown after the images; a file, its bytes, a list of frames, or what `load_video` gave, which also takes
        a rate and a number of frames. Videos may stand among the images too, as `Video`.
        reattention: a policy, or a word: "copy", "text", "vision", "route", "route-25"; None follows the checkpoint.
        sampling: greedy where it is None. max_new_tokens: in place of the sampling's own number.
        """
        request = Request(_list_shown(images, video), question)
        return self.ask_batch([request], reattention=reattention, sampling=sampling, max_new_tokens=max_new_tokens)[0]

    def ask_batch(
        self,
        requests: Sequence[Request],
        *,
        reattention: Reattention | str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer several questions in one batch; the answers are those of asking one by one (greedy).

        The options are those of `ask`.
        """
        return self._run(requests, self._policy(reattention), _sampling(sampling, max_new_tokens))

    def stream(
        self,
        images: ImageSource | Sequence[ImageSource],
        question: str,
        *,
        video: VideoSource | None = None,
        reattention: Reattention | str | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
    ) -> Iterator[StreamItem]:
        """Answer one question, yielding text, re-insertions and, last, the answer. Closing it stops the model.

        The options are those of `ask`.
        """
        request = Request(_list_shown(images, video), question)
        policy, chosen = self._policy(reattention), _sampling(sampling, max_new_tokens)
        return self._stream(request, self._encode(request, policy), policy, chosen)

    def _policy(self, asked: Reattention | str | None) -> Reattention:
        return Reattention.parse(asked, self.checkpoint.reattention)

    def _stream(
        self, request: Request, prepared: _Encoded, policy: Reattention, sampling: Sampling
    ) -> Iterator[StreamItem]:
        events: queue.SimpleQueue[Event | Answer | BaseException] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                events.put(self._run([request], policy, sampling, [prepared], events.put, stop)[0])
            except BaseException as error:
                events.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        text = TextStream(self.checkpoint.tokenizer)
        try:
            while not isinstance(event := events.get(), Answer):
                if isinstance(event, BaseException):
                    raise event
                yield from text.take(event)
            yield from text.rest()
            yield Finished(event)
        finally:
            stop.set()
            thread.join()

    def _run(
        self,
        requests: Sequence[Request],
        policy: Reattention,
        sampling: Sampling,
        encoded: Sequence[_Encoded] | None = None,
        on_event: Callable[[Event], None] | None = None,
        stop: threading.Event | None = None,
    ) -> list[Answer]:
        if not requests:
            return []
        prompts = encoded or [self._encode(request, policy) for request in requests]
        started = time.perf_counter()
        generator = None
        device = input_device(self.checkpoint.model)
        if sampling.seed is not None:
            generator = torch.Generator(device).manual_seed(sampling.seed)
        decoding = LookAgainDecoding(
            self.trigger,
            policy,
            on_event=on_event,
            generator=generator,
            reasoning=sampling.bound_reasoning(self.checkpoint.tokenizer),
            prefixes=[prompt.prefix_ids for prompt in prompts],
            turns=[prompt.turn_ids for prompt in prompts],
            prefix_cache=self.prefix_cache,
            compile=self.checkpoint.compiled,
        )
        _check_prefixes([len(prompt.prefix_ids) for prompt in prompts], sampling)
        inputs = self._batch(prompts)
        with self._lock, without_defaults(self.checkpoint.model):
            output: LookAgainOutput = self.checkpoint.model.generate(
                **inputs,
                custom_generate=decoding,
                return_dict_in_generate=True,
                stopping_criteria=StoppingCriteriaList([_Cancelled(stop)] if stop is not None else []),
                **sampling.as_generate_kwargs(),
            )
        return self._answers(output, prompts, time.perf_counter() - started)

    def _answers(self, output: LookAgainOutput, prompts: Sequence[_Encoded], seconds: float) -> list[Answer]:
        check = self.checkpoint
        parsed_answers = [parse(decode_text(check.tokenizer, ids)) for ids in output.responses or ()]
        slots, reflections, reasons = output.slots or (), output.reflections or (), output.finish_reasons or ()
        decoded = zip(parsed_answers, slots, reflections, reasons, prompts, strict=True)
        return [
            Answer(
                parsed=parsed,
                reflections=reflections,
                slots=slots,
                model=check.name,
                seconds=seconds,
                finish_reason=reason,
                notes=(*check.notes, *(prompt.notes or check.notes_on_answer(parsed))),
            )
            for parsed, slots, reflections, reason, prompt in decoded
        ]

    def _encode(self, request: Request, policy: Reattention | None = None) -> _Encoded:
        """Token ids and pixels of one request, its images shown as often as the policy says."""
        policy = policy or Reattention()
        check = self.checkpoint
        _check_question(request.question)
        images = [source if isinstance(source, Video) else load_image(source) for source in request.images]
        images *= policy.prompt_copies
        if request.control_images and any(isinstance(image, Video) for image in images):
            raise ValueError("a video has no control image: the wrong-image control shows images alone")
        if request.control_images and len(request.control_images) != len(images):
            raise ValueError(f"{len(request.control_images)} control images for {len(images)} images")
        others = [
            load_image(other).resize(image.size) for image, other in zip(images, request.control_images, strict=False)
        ]
        pixels, control = self._process(images), self._process(others)
        messages = question_messages(request.question, list_kinds(images))
        ids = check.renderer.render_prompt(messages, pixels.shown)
        context = check.model.config.get_text_config().max_position_embeddings
        if len(ids) >= context:
            raise ValueError(f"the question and its images take {len(ids)} tokens; the model's context is {context}")
        prefix = check.tokenizer(request.prefix, add_special_tokens=False)["input_ids"] if request.prefix else []
        notes = check.notes_on_images(image for image in images if isinstance(image, Image.Image))
        turn: list[int] = []
        if policy.opens_turn:
            with_images = policy.mode == "user-turn-image"
            turn = check.renderer.render_turn(messages, LOOK_AGAIN_TEXT, pixels.shown, images=with_images)
        return _Encoded(ids, pixels, control, prefix, turn, notes)

    def _process(self, images: Sequence[Image.Image | Video]) -> ImageInputs:
        return process_images(self.checkpoint.image_processor, self.checkpoint.model.config, images)

    def _batch(self, prompts: Sequence[_Encoded]) -> dict[str, torch.Tensor]:
        """Left-padded inputs of `generate`."""
        device = input_device(self.checkpoint.model)
        batch = left_padded([prompt.ids for prompt in prompts], self.checkpoint.tokenizer, device)
        batch |= stack_pixels([prompt.pixels for prompt in prompts])
        control = stack_pixels([prompt.control for prompt in prompts])
        if control:
            batch["control_pixel_values"] = control["pixel_values"]
            if "image_grid_thw" in control:  # families with positions in one dimension have none
                batch["control_grid_thw"] = control["image_grid_thw"]
        return {name: tensor.to(device) for name, tensor in batch.items()}


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]
    pixels: ImageInputs
    control: ImageInputs
    prefix_ids: list[int]
    turn_ids: list[int] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def _sampling(sampling: Sampling | None, max_new_tokens: int | None) -> Sampling:
    chosen = sampling or Sampling()
    return chosen if max_new_tokens is None else replace(chosen, max_new_tokens=max_new_tokens)


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        done = torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)
        return done  # type: ignore[return-value]


def _check_numbers(given: Any, names: Sequence[str], kind: type, what: str) -> None:
    """TypeError for a field that is neither None nor of this kind."""
    for name in names:
        value = getattr(given, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise TypeError(f"{name} is {what}, not {value!r}")


def _check_question(question: str) -> None:
    if not isinstance(question, str):
        raise TypeError(f"the question is a text, not {type(question).__name__}")
    if not question.strip():
        raise ValueError("the question is empty")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ValueError(f"the question has {len(question)} characters; at most {MAX_QUESTION_CHARACTERS} are accepted")


def _check_prefixes(lengths: Sequence[int], sampling: Sampling) -> None:
    """ValueError for a beginning of the response that the bound on the reasoning would cut."""
    bound = sampling.max_reasoning_tokens
    if bound is not None and max(lengths) > bound:
        raise ValueError(f"the prefix has {max(lengths)} tokens, more than max_reasoning_tokens ({bound})")


def _list_shown(images: ImageSource | Sequence[ImageSource], video: VideoSource | None) -> list[ImageSource]:
    if not isinstance(images, ImageSource | Sequence):
        kind = type(images).__name__
        raise TypeError(f"images are a path, bytes, a PIL image, a Video or a list of them ([] for none), not {kind}")
    shown = [images] if isinstance(images, ImageSource) else list(images)
    return shown if video is None else [*shown, load_video(video)]
