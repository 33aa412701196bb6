"""A video as a model reads it: frames in order, and when each was shown.

The paper shows stills alone; sampling is ours and follows Qwen's own: a rate, a bound on the number of frames that
lowers the rate over the whole video, and frames scaled down to 602,112 pixels. Files are read by `video_file`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from PIL import Image

from look_again.images.reading import MAX_ASPECT_RATIO, ImageError, load_image

FPS = 2.0
MAX_FRAMES = 64
FRAME_PIXELS = 768 * 28 * 28
"""Most pixels of a frame that is kept: those of 768 visual tokens, Qwen's own bound."""


class VideoError(ImageError):
    """A video that cannot be used; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of one size, upright RGB without metadata, shown at `times` seconds from the start. fps: of `frames`.

    ValueError for no frames, frames that are no PIL images or of different sizes, times that do not match or are no
    numbers, and a rate that is not above 0.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    fps: float

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise ValueError(f"a video has frames, each with its time: {len(self.frames)} and {len(self.times)}")
        if not all(isinstance(frame, Image.Image) for frame in self.frames):
            raise ValueError("the frames of a video are PIL images (Image.fromarray makes one of an array)")
        if not all(math.isfinite(time) for time in self.times):
            raise ValueError(f"the times of a video are finite numbers of seconds, not {self.times}")
        if len({frame.size for frame in self.frames}) > 1:
            raise ValueError("the frames of a video have one size")
        check_rate(self.fps)

    def __repr__(self) -> str:
        width, height = self.size
        count = f"{len(self.frames)} frame{'' if len(self.frames) == 1 else 's'}"
        return f"Video({count} of {width} x {height} pixels, {self.times[0]:.1f} to {self.times[-1]:.1f} s)"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""
        return self.frames[0].size


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What a video may take, checked before its frames are decoded. ValueError on construction for a bound below 1.

    bytes: of the file. pixels: of a frame as it is stored. duration_s: from the first frame to the end of the last.
    stored_frames: in the file, sampled or not.
    """

    bytes: int = 512 * 2**20
    pixels: int = 4096 * 2304
    duration_s: float = 3600.0
    stored_frames: int = 250_000

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "duration_s", "stored_frames"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"the limit {name} of videos is at least 1, not {getattr(self, name)}")


LIMITS = VideoLimits()


def check_rate(fps: float) -> None:
    """ValueError for a rate that is no number of frames per second."""
    if not isinstance(fps, Real) or not (math.isfinite(fps) and 0.001 <= fps <= 1000):
        raise ValueError(f"fps is a number of frames per second from 0.001 to 1000, not {fps!r}")


def check_sampling(fps: float, max_frames: int) -> None:
    """ValueError for a rate or a number of frames that cannot be sampled."""
    check_rate(fps)
    if not isinstance(max_frames, Integral) or max_frames < 1:
        raise ValueError(f"max_frames is at least 1 and a whole number, not {max_frames!r}")


def plan_times(duration_s: float, fps: float, max_frames: int) -> tuple[list[float], float]:
    """When to take frames of a video, in seconds, and how many per second that is: at most `max_frames` of them,
    evenly over the whole video.

    Example: plan_times(2.0, 2.0, 64) is ([0.0, 0.5, 1.0, 1.5], 2.0).
    """
    wanted = max(1, math.floor(duration_s * fps + 1e-6))
    rate = fps if wanted <= max_frames else max_frames / duration_s
    return [index / rate for index in range(min(wanted, max_frames))], rate


def scale_frame(frame: Image.Image, max_pixels: int = FRAME_PIXELS) -> Image.Image:
    """A frame with at most `max_pixels` pixels, its sides in proportion."""
    width, height = frame.size
    if width * height <= max_pixels:
        return frame
    scale = math.sqrt(max_pixels / (width * height))
    return frame.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)


def join_frames(
    sources: Sequence[str | Path | bytes | Image.Image], fps: float = FPS, max_frames: int = MAX_FRAMES
) -> Video:
    """A list of images as a video of `fps` frames per second. VideoError for none, too many or different sizes;
    ImageError, which names it, for an image that cannot be read.
    """
    check_sampling(fps, max_frames)
    if not sources:
        raise VideoError("a video has at least one frame; this list of images is empty")
    if len(sources) > max_frames:
        raise VideoError(f"this list has {len(sources)} frames, more than max_frames={max_frames}")
    frames = [scale_frame(load_image(source)) for source in sources]
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sizes[:4])
        raise VideoError(f"the frames of a video have one size; these have {shown}")
    return Video(tuple(frames), tuple(index / fps for index in range(len(frames))), fps)


def check_frame_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    """VideoError for frames that are empty, too large, or much longer than wide."""
    width, height = size
    if width * height == 0:
        raise VideoError(f"{name} has frames of {width} x {height} pixels: they are empty")
    if width * height > max_pixels:
        raise VideoError(f"{name} has frames of {width} x {height} pixels, more than {max_pixels} pixels")
    if max(size) / min(size) > MAX_ASPECT_RATIO:
        raise VideoError(
            f"{name} has frames of {width} x {height} pixels: the aspect ratio is above {MAX_ASPECT_RATIO}"
        )
