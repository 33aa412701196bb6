"""What the analyses share: questions, their answers, images as the model reads them, and how long it all took.

The answers are those of `ask`; an analysis never touches how they are made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image

from look_again.answers import Answer
from look_again.core.families import VisionTokens
from look_again.core.reattention import Reattention
from look_again.core.runner import encode_images
from look_again.core.slots import VisualSpan, spans_of
from look_again.loading import Checkpoint
from look_again.model import LookAgain, Request, Sampling
from look_again.tabletop.render import render
from look_again.tabletop.rows import make_row
from look_again.tabletop.world import Scene


@dataclass(frozen=True)
class Question:
    """One image and what is asked about it; `scene` where Tabletop knows what the image shows."""

    image: Image.Image
    text: str
    scene: Scene | None = None


@dataclass(frozen=True)
class Seen:
    """An image as the model reads it: features (V, hidden) and where they lie."""

    features: torch.Tensor
    spans: tuple[VisualSpan, ...]


def tabletop_questions(split: str, seed: int, n: int) -> list[Question]:
    """The first n rows of a Tabletop stream. ValueError for n below 1."""
    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")
    rows = [make_row(split, seed, index) for index in range(n)]
    return [Question(render(row.scene), row.prompt, row.scene) for row in rows]


def answers_to(
    model: LookAgain, questions: Sequence[Question], policy: Reattention, sampling: Sampling
) -> list[Answer]:
    """The answers of `ask`, decoded together. Raises what `ask_batch` raises."""
    requests = [Request([question.image], question.text) for question in questions]
    return model.ask_batch(requests, reattention=policy, sampling=sampling)


def see(checkpoint: Checkpoint, questions: Sequence[Question]) -> list[Seen]:
    """The images' features, as decoding computed them."""
    made = checkpoint.image_processor(images=[question.image for question in questions], return_tensors="pt")
    device = checkpoint.model.get_input_embeddings().weight.device
    with torch.no_grad():
        features = encode_images(checkpoint.model, made["pixel_values"].to(device), made["image_grid_thw"].to(device))
    grids = [checkpoint.family.merged_grid(grid, checkpoint.model.config) for grid in made["image_grid_thw"]]
    return [Seen(rows, spans_of([grid])) for rows, grid in zip(features, grids, strict=True)]


def tokens_of(checkpoint: Checkpoint) -> VisionTokens:
    """The checkpoint's token ids that stand for vision."""
    return checkpoint.family.vision_tokens(checkpoint.model.config)


def settings_of(model: LookAgain, policy: Reattention, sampling: Sampling) -> dict[str, Any]:
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
