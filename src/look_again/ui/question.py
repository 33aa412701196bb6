"""What is asked on the page: an image or a video, a question and how to sample, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from look_again.core.families import Grid, find_family
from look_again.core.inputs import list_kinds, process_images
from look_again.core.reattention import Reattention
from look_again.images import ImageError, load_image
from look_again.images.video import Video, VideoLimits
from look_again.images.video_file import load_video
from look_again.model import MAX_QUESTION_CHARACTERS, Sampling
from look_again.serving.backend import Job
from look_again.text.instructions import question_messages

MODES = ("text", "copy", "route")
MAX_BYTES = 32 * 2**20  # of an uploaded image
MOST_TOKENS = 4096  # that the page asks for
MOST_FRAMES = 32  # taken of a video
VIDEO_LIMITS = VideoLimits(bytes=MAX_BYTES, duration_s=600, stored_frames=40_000)
STRIP_PIXELS = 2**22  # of the frames of a video, one below the other, as the page shows them


@dataclass(frozen=True)
class UserQuestion:
    """One question. image: RGB, a video, or None for a question without one. conversation: of the window, see Job."""

    image: Image.Image | Video | None
    text: str
    sampling: Sampling
    conversation: str = ""

    def job(self, policy: Reattention) -> Job:
        """The same question under a policy."""
        images = [] if self.image is None else [self.image]
        return Job(
            messages=question_messages(self.text, list_kinds(images)),  # a backend adds the format where it has to
            images=images,
            policy=policy,
            sampling=self.sampling,
            conversation=self.conversation,
        )

    @property
    def size_bytes(self) -> int:
        """What its image takes in memory."""
        return 0 if self.image is None else image_bytes(self.image)


def image_bytes(image: Image.Image | Video) -> int:
    """What an RGB image or a video takes in memory: Pillow spends four bytes on each pixel."""
    if isinstance(image, Video):
        return sum(map(image_bytes, {id(frame): frame for frame in image.frames}.values()))
    return 4 * image.width * image.height


def read_question(
    path: str | None,
    text: str | None,
    temperature: float,
    seed: float | None,
    tokens: float,
    conversation: str = "",
    video: str | None = None,
) -> UserQuestion:
    """The question as the page's fields have it; `path` of an image, `video` of a video.

    ValueError (ImageError for the image) that says what is wrong.
    """
    question = (text or "").strip()
    if not question:
        raise ValueError("The question is empty: write one, or choose an example.")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ValueError(f"The question has {len(question)} characters; at most {MAX_QUESTION_CHARACTERS} are taken.")
    if path and video:
        raise ValueError("There is a picture and a video: take one of them away.")
    sampling = Sampling(
        max_new_tokens=_whole("The number of tokens", tokens, 1, MOST_TOKENS),
        temperature=round(float(temperature or 0), 4),
        seed=None if seed is None else _whole("The seed", seed, 0, 2**53),
    )
    shown = _video(video) if video else _image(path) if path else None
    return UserQuestion(shown, question, sampling, conversation)


def _image(path: str) -> Image.Image:
    """The uploaded image; messages do not say where uploads lie."""
    try:
        return load_image(Path(path), max_bytes=MAX_BYTES)
    except ImageError as error:
        raise ImageError(str(error).replace(f"image file {path!r}", "The picture")) from None


def _video(path: str) -> Video:
    """The uploaded video, frames of it evenly over all of it; messages do not say where uploads lie."""
    try:
        return load_video(path, max_frames=MOST_FRAMES, limits=VIDEO_LIMITS)
    except ImageError as error:
        named = str(error).replace(f"video file {path!r}", "The video").replace(repr(path), "The video")
        raise ImageError(named) from None


def draw_shown(image: Image.Image | Video, grid: Grid | None) -> Image.Image:
    """What the page shows of an image or video: of a video the frames that its grid has, one below the other."""
    if not isinstance(image, Video):
        return image
    count = len(image.frames) if grid is None else grid[0]
    chosen = [image.frames[len(image.frames) * place // count] for place in range(count)]
    width, height = image.size
    scale = min(1.0, (STRIP_PIXELS / (width * height * count)) ** 0.5)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    strip = Image.new("RGB", (size[0], size[1] * count))
    for place, frame in enumerate(chosen):
        strip.paste(frame.resize(size), (0, place * size[1]))
    return strip


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


def compute_grid(processor: Any, image: Image.Image | Video | None, config: Any = None) -> Grid | None:
    """The grid of an image's visual tokens, as the checkpoint's image processor cuts it; takes no model.

    config: of the model, for videos and for families that cut images into tiles or lines. These have no one grid over
    the image: theirs is the number of visual tokens, each a frame of its own. ValueError for a video where the family
    has none.
    """
    if image is None:
        return None
    if isinstance(image, Video):
        return process_images(processor, config, [image]).grids[0]
    if config is not None and find_family(config).layout is not None:
        return process_images(processor, config, [image]).visual_token_counts[0], 1, 1
    frames, rows, columns = (int(n) for n in processor(images=[image], return_tensors="pt")["image_grid_thw"][0])
    return frames, rows // processor.merge_size, columns // processor.merge_size
