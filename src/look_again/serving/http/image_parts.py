"""Image and video parts of a request as images, within the server's limits.

The bytes decide what a file is, not the media type that was declared. Only formats that OpenAI's interface knows are
decoded: the fewer parsers untrusted bytes reach, the better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from look_again.extras import MissingExtraError, require
from look_again.images import ImageError, decode_base64, split_data_url
from look_again.images.video import FPS, Video, join_frames
from look_again.images.video import LIMITS as VIDEO_LIMITS
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.limits import Limits
from look_again.serving.workers.image_decoding import DecodedFile, decode_file
from look_again.serving.workers.video_decoding import VideoOptions, decode_video


@dataclass(frozen=True)
class ImageReference:
    """An image part. url: as sent. low: scale it down. param: its place in the body, for errors."""

    url: str
    low: bool
    param: str

    @property
    def remote(self) -> bool:
        return self.url[:5].lower() != "data:"


@dataclass(frozen=True)
class VideoReference:
    """A video part. url: as sent. fps, max_frames: as asked for. param: its place in the body, for errors."""

    url: str
    fps: float | None
    max_frames: int | None
    param: str

    def options(self, limits: Limits) -> VideoOptions:
        """How it is read, within the limits. ApiError 400 for more frames than the server takes."""
        if self.max_frames is not None and self.max_frames > limits.video_frames:
            message = f"max_frames is {self.max_frames}; this server takes at most {limits.video_frames} of a video"
            raise invalid(message, self.param)
        frames = self.max_frames or limits.video_frames
        pixels = min(limits.pixels, VIDEO_LIMITS.pixels)
        return VideoOptions(self.fps or FPS, frames, limits.video_bytes, limits.video_s, pixels)


@dataclass(frozen=True)
class FramesReference:
    """A video part that is a list of images. fps: of the list."""

    frames: tuple[ImageReference, ...]
    fps: float | None
    param: str


Reference = ImageReference | VideoReference | FramesReference


@dataclass(frozen=True)
class DecodedImage:
    """RGB, or a video of such frames. pixels: as it was sent, of a video those of its frames. note: what should be said
    about it.
    """

    image: Image.Image | Video
    pixels: int
    note: str | None = None


def decode_data_url(reference: ImageReference | VideoReference, max_bytes: int) -> bytes:
    """The bytes of a data URL. ApiError 400 for one that is damaged or holds more than `max_bytes`."""
    try:
        payload = split_data_url(reference.url)
        if len(payload) * 3 // 4 > max_bytes + 2:
            raise too_many_bytes(reference, max_bytes)
        return decode_base64(payload)
    except ImageError as error:
        raise invalid(str(error), reference.param) from None


def too_many_bytes(reference: ImageReference | VideoReference, max_bytes: int) -> ApiError:
    kind = "video" if isinstance(reference, VideoReference) else "image"
    return invalid(f"the {kind} has more than {max_bytes} bytes", reference.param, f"{kind}_too_large")


def decode_video_part(
    reference: VideoReference,
    limits: Limits,
    max_pixels: int,
    decode: Callable[[bytes, VideoOptions], Video] = decode_video,
) -> DecodedImage:
    """Decode a video. ApiError 400 for anything that is not one, and for one beyond the limits.

    max_pixels: of the frames that are taken together. decode: `decode_video`, or the same in another process.
    """
    options = reference.options(limits)
    if reference.url[:5].lower() != "data:":
        raise invalid("videos are not fetched: send the video as a data URL", reference.param, "video_url_refused")
    data = decode_data_url(reference, limits.video_bytes)
    try:
        require("av", extra="video")
        video = decode(data, options)
    except MissingExtraError as error:
        message = f"this server reads no video files: {error}"
        raise invalid(message, reference.param, "unsupported_parameter") from None
    except ImageError as error:
        raise invalid(str(error), reference.param, "invalid_video") from None
    pixels = len(video.frames) * video.size[0] * video.size[1]
    if pixels > max_pixels:
        message = f"the video's {len(video.frames)} frames and the images together have more pixels than are taken"
        raise invalid(message, reference.param, "image_too_large")
    return DecodedImage(video, pixels)


def join_video_frames(reference: FramesReference, frames: Sequence[DecodedImage]) -> DecodedImage:
    """A list of decoded images as a video. ApiError 400 for frames of different sizes."""
    images = [frame.image for frame in frames if isinstance(frame.image, Image.Image)]
    try:
        video = join_frames(images, reference.fps or FPS, max_frames=len(images))
    except ImageError as error:
        raise invalid(str(error), reference.param, "invalid_video") from None
    return DecodedImage(video, sum(frame.pixels for frame in frames))


def decode_image(
    reference: ImageReference,
    data: bytes,
    max_bytes: int,
    max_pixels: int,
    decode: Callable[[bytes, bool, int, int], DecodedFile] = decode_file,
) -> DecodedImage:
    """Decode an image. ApiError 400 for anything that is not one; sizes are checked before pixels are decoded.

    decode: `decode_file`, or the same in another process.
    """
    try:
        decoded = decode(data, reference.low, max_bytes, max_pixels)
    except ImageError as error:
        raise invalid(str(error), reference.param, "invalid_image") from None
    note = f"{reference.param} is animated: its first frame was used" if decoded.animated else None
    return DecodedImage(decoded.image, decoded.pixels, note)
