"""Images as encoded files: as they are stored, and as they leave for endpoints, data sets and pages."""

from __future__ import annotations

from PIL import Image

from look_again.data.image_files import ImageSource, LazyImage, describe, image_size, open_image
from look_again.images import ImageError, encode, shareable


def image_bytes(source: ImageSource) -> bytes:
    """The encoded file of an image. ImageError when it cannot be read or lies outside the bounds of `image_size`."""
    if isinstance(source, Image.Image):
        return encode(open_image(source))
    image_size(source)
    try:
        if isinstance(source, bytes):
            return source
        return source.read() if isinstance(source, LazyImage) else source.read_bytes()
    except OSError as error:
        raise ImageError(f"{describe(source)} cannot be read: {error.strerror or error}") from error


def sendable(source: ImageSource, max_pixels: int | None = None) -> tuple[str, bytes]:
    """Media type and file of an image as it leaves the process: what training sees of it, and no metadata.

    More than `max_pixels` are scaled down. ImageError for an image that cannot be decoded.
    """
    if max_pixels is None or _pixels(size := image_size(source)) <= max_pixels:
        try:
            return shareable(image_bytes(source))
        except ImageError as error:
            raise ImageError(f"{describe(source)}: {error}") from error
    width, height = size
    scale = (max_pixels / (width * height)) ** 0.5
    smaller = (max(1, int(width * scale)), max(1, int(height * scale)))
    return "image/png", encode(open_image(source).resize(smaller, Image.Resampling.BICUBIC))


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]
