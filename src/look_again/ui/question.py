"""What is asked on the page: an image, a question and how to sample, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from look_again.core.families import Grid, find_family
from look_again.core.inputs import process_images
from look_again.core.reattention import Reattention
from look_again.images import ImageError, load_image
from look_again.model import MAX_QUESTION_CHARACTERS, Sampling
from look_again.serving.backend import Job
from look_again.text.instructions import question_messages

MODES = ("text", "copy", "route")
MAX_BYTES = 32 * 2**20  # of an uploaded image
MOST_TOKENS = 4096  # that the page asks for


@dataclass(frozen=True)
class UserQuestion:
    """One question. image: RGB, or None for a question without one. conversation: of the window, see Job."""

    image: Image.Image | None
    text: str
    sampling: Sampling
    conversation: str = ""

    def job(self, policy: Reattention) -> Job:
        """The same question under a policy."""
        images = [] if self.image is None else [self.image]
        return Job(
            messages=question_messages(self.text, len(images)),  # a backend adds the format where it has to
            images=images,
            policy=policy,
            sampling=self.sampling,
            conversation=self.conversation,
        )

    @property
    def size_bytes(self) -> int:
        """What its image takes in memory."""
        return 0 if self.image is None else image_bytes(self.image)


def image_bytes(image: Image.Image) -> int:
    """What an RGB image takes in memory: Pillow spends four bytes on each pixel."""
    return 4 * image.width * image.height


def read_question(
    path: str | None, text: str | None, temperature: float, seed: float | None, tokens: float, conversation: str = ""
) -> UserQuestion:
    """The question as the page's fields have it. ValueError (ImageError for the image) that says what is wrong."""
    question = (text or "").strip()
    if not question:
        raise ValueError("The question is empty: write one, or choose an example.")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ValueError(f"The question has {len(question)} characters; at most {MAX_QUESTION_CHARACTERS} are taken.")
    sampling = Sampling(
        max_new_tokens=_whole("The number of tokens", tokens, 1, MOST_TOKENS),
        temperature=round(float(temperature or 0), 4),
        seed=None if seed is None else _whole("The seed", seed, 0, 2**53),
    )
    return UserQuestion(_image(path) if path else None, question, sampling, conversation)


def _image(path: str) -> Image.Image:
    """The uploaded image; messages do not say where uploads lie."""
    try:
        return load_image(Path(path), max_bytes=MAX_BYTES)
    except ImageError as error:
        raise ImageError(str(error).replace(f"image file {path!r}", "The picture")) from None


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if not isinstance(value, int | float) or not float(value).is_integer() or not low <= value <= high:
        raise ValueError(f"{name} is a whole number from {low} to {high}, not {value!r}.")
    return int(value)


def read_modes(chosen: object) -> list[str]:
    """The modes that are asked, in the page's order. ValueError for none."""
    modes = [mode for mode in MODES if isinstance(chosen, list | tuple) and mode in chosen]
    if not modes:
        raise ValueError("Choose at least one of text, COPY and ROUTE.")
    return modes


def read_keep(value: float | None) -> int:
    """The slider's percentage. ValueError for what the slider cannot say."""
    return _whole("keep", value, 0, 100)


def compute_grid(processor: Any, image: Image.Image | None, config: Any = None) -> Grid | None:
    """The grid of an image's visual tokens, as the checkpoint's image processor cuts it; takes no model.

    config: of the model, for families that cut images into tiles or lines. They have no one grid over the image: theirs
    is the number of visual tokens, each a frame of its own.
    """
    if image is None:
        return None
    if config is not None and find_family(config).layout is not None:
        return process_images(processor, config, [image]).visual_token_counts[0], 1, 1
    frames, rows, columns = (int(n) for n in processor(images=[image], return_tensors="pt")["image_grid_thw"][0])
    return frames, rows // processor.merge_size, columns // processor.merge_size
