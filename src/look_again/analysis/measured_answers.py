"""What the analyses share: questions, their answers, images as the model reads them, and how long it all took.

The answers are those of `ask`; an analysis never touches how they are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image

from look_again.answers import Answer
from look_again.core.families import VisionTokens
from look_again.core.input_device import input_device
from look_again.core.inputs import process_images
from look_again.core.reattention import Reattention
from look_again.core.runner import encode_images
from look_again.core.slots import VisualSpan, build_spans
from look_again.loading import Checkpoint
from look_again.model import LookAgain, Request, Sampling
from look_again.registry import lookup

QUESTION_SETS = {"tabletop": "look_again.tabletop.analysis_questions:TABLETOP"}
"""Sets of questions about images whose content is known: name -> `QuestionSet`, imported when it is asked for."""


@dataclass(frozen=True)
class ImageQuestion:
    """One image and what is asked about it. truth: what the image shows, in the type of its set, None if unknown."""

    image: Image.Image
    text: str
    truth: Any = None


@dataclass(frozen=True)
class AnswerSection:
    """A section of an answer about an image of known content. tokens: how many were generated up to its end."""

    truth: Any
    text: str
    tokens: int


@dataclass(frozen=True)
class QuestionSet:
    """Questions about images of known content.

    draw: split, seed and number to that many questions; ValueError for a number below 1 and for an unknown split.
    summarise_lists: lists of objects as sections of answers to JSON, by the number of tokens before their end.
    """

    draw: Callable[[str, int, int], list[ImageQuestion]]
    summarise_lists: Callable[[Sequence[AnswerSection]], dict[str, Any]]


@dataclass(frozen=True)
class EncodedImage:
    """An image as the model reads it: features (V, hidden) and where they lie."""

    features: torch.Tensor
    spans: tuple[VisualSpan, ...]


def load_question_set(name: str) -> QuestionSet:
    """The set of that name. ValueError, listing the known ones, for any other."""
    found = lookup(QUESTION_SETS, name, what="set of questions")
    assert isinstance(found, QuestionSet)
    return found


def ask_questions(
    model: LookAgain, questions: Sequence[ImageQuestion], policy: Reattention, sampling: Sampling
) -> list[Answer]:
    """The answers of `ask`, decoded together. Raises what `ask_batch` raises."""
    requests = [Request([question.image], question.text) for question in questions]
    return model.ask_batch(requests, reattention=policy, sampling=sampling)


def encode(checkpoint: Checkpoint, questions: Sequence[ImageQuestion]) -> list[EncodedImage]:
    """The images' features, as decoding computed them."""
    config, device = checkpoint.model.config, input_device(checkpoint.model)
    encoded = []
    for question in questions:
        inputs = process_images(checkpoint.image_processor, config, [question.image])
        with torch.no_grad():
            features = encode_images(
                checkpoint.model, **{name: tensor.to(device) for name, tensor in inputs.tensors.items()}
            )
        encoded.append(EncodedImage(torch.cat(features), build_spans(inputs.grids)))
    return encoded


def vision_tokens(checkpoint: Checkpoint) -> VisionTokens:
    """The checkpoint's token ids that stand for vision."""
    return checkpoint.family.vision_tokens(checkpoint.model.config)


def describe_settings(model: LookAgain, policy: Reattention, sampling: Sampling) -> dict[str, Any]:
    """What an analysis writes down about how its answers were made."""
    return {"model": model.checkpoint.name, "reattention": asdict(policy), "sampling": asdict(sampling)}


class _Stopwatch:
    """Adds up the time of `with` blocks, work on the device included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = _now()

    def __exit__(self, *error: object) -> None:
        self.seconds += _now() - self.started


class Clock:
    """Seconds spent on answers (`generation`) and on reading them again (`reading`)."""

    def __init__(self) -> None:
        self.generation, self.reading = _Stopwatch(), _Stopwatch()

    def as_dict(self) -> dict[str, float]:
        """Seconds of both, and how much longer everything took than generation alone."""
        generation, reading = self.generation.seconds, self.reading.seconds
        return {
            "generation": generation,
            "reading": reading,
            "analysis_over_generation": (generation + reading) / generation,
        }


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
