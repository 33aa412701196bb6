"""Sources of a sample's images, and how to open or measure an image.

A sample of 100,000 must stay small and picklable, so it names its images and reads none. Pixels come from
`look_again.images.load_image` alone; what is here finds the bytes, and reads a size from a header.
"""

from __future__ import annotations

import io
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from PIL import Image

from look_again.images import FORMATS, MAX_ASPECT_RATIO, MAX_BYTES, MAX_PIXELS, ImageError, load_image
from look_again.images.containers import PNG_MAGIC
from look_again.images.video import Video
from look_again.registry import resolve

MAX_EXIF_BYTES = 2**20  # of a PNG: the chunk is read whole

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class LazyImage(ABC):
    """An image that is fetched or drawn when read.

    Subclasses pickle, compare by value, print their name and bound how much they read.
    """

    @abstractmethod
    def read(self) -> bytes:
        """The encoded file. ImageError when there is none."""

    def open(self) -> BinaryIO:
        """A seekable file of the same bytes; override where a header can be read without the rest."""
        return io.BytesIO(self.read())

    def stored(self) -> dict[str, Any] | None:
        """JSON by which the image can be found or drawn again; its first key names the class in `STORED_IMAGES`.

        None where only the file itself will do.
        """
        return None


class LazyVideo(LazyImage):
    """A video that is read or drawn when it is opened; it stands among a sample's images."""

    def read(self) -> bytes:
        """ImageError: a video is no one image."""
        raise ImageError(f"{self} is a video, which cannot be read as an image")

    @abstractmethod
    def read_video(self) -> Video:
        """Its frames. VideoError when there are none."""


ImageSource: TypeAlias = Path | bytes | Image.Image | LazyImage

STORED_IMAGES = {
    "archive": "look_again.data.zips:ZipMember",
    "scene": "look_again.tabletop.loader:SceneImage",
    "foreign": "look_again.tabletop.people.foreign_images:ForeignImage",
    "clip": "look_again.tabletop.clips.clip_samples:ClipVideo",
}
"""Lazy images that can be stored as JSON, by its first key; each class has `from_stored`, the inverse of `stored`."""


def restore_image(stored: Mapping[str, Any]) -> LazyImage | None:
    """The lazy image whose `stored` this is; None for JSON of another kind."""
    scheme = next(iter(stored.keys() & STORED_IMAGES.keys()), None)
    return None if scheme is None else resolve(STORED_IMAGES[scheme]).from_stored(stored)


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """The image as upright RGB, as `load_image` gives it, with its bounds. ImageError as there, naming `source`."""
    if not isinstance(source, LazyImage):
        return load_image(source, max_pixels=max_pixels, max_bytes=max_bytes)
    try:
        return load_image(source.read(), max_pixels=max_pixels, max_bytes=max_bytes)
    except ImageError as error:
        raise _named(source, error) from error


def open_shown(source: ImageSource) -> Image.Image | Video:
    """What a sample shows: an image as `open_image` gives it, or the frames of a video."""
    return source.read_video() if isinstance(source, LazyVideo) else open_image(source)


def image_size(source: ImageSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """(width, height) in pixels of what `open_image` would return, from the file's header; no pixel is decoded.

    An image cut off in its pixels still has a size (not WebP and AVIF, which want the whole file). An orientation
    that a PNG gives after its pixels counts, except inside a zip archive, where finding it would read the whole.

    Raises ImageError for no image, one beyond the bounds of `load_image`, or one that is too long and thin.
    """
    name = describe(source)
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels, name)  # before getexif, which may decode
        return _size_of_open(source, name)
    with _opened(source, max_bytes, name) as file:
        size = _size_in_header(file, name)
    _check_size(size, max_pixels, name)
    return size


def describe(source: ImageSource) -> str:
    """What messages call an image."""
    if isinstance(source, bytes):
        return f"picture of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"open picture {getattr(source, 'filename', '') or type(source).__name__!r}"
    if isinstance(source, Path | LazyImage):
        return f"picture {str(source)[:500]!r}"
    raise ImageError(f"a picture is a Path, bytes, a PIL image or a LazyImage, not {type(source).__name__}")


def _named(source: ImageSource, error: ImageError) -> ImageError:
    name = describe(source)
    return error if name in str(error) else ImageError(f"{name}: {error}")


def _opened(source: Path | bytes | LazyImage, max_bytes: int, name: str) -> BinaryIO:
    """The encoded file, seekable; at most `max_bytes` long unless lazy."""
    try:
        if isinstance(source, LazyImage):
            return source.open()
        if isinstance(source, Path) and not source.is_file():  # opening a pipe would wait for ever
            raise ImageError(f"{name}: no such file, or not a regular one")
        if (length := len(source) if isinstance(source, bytes) else source.stat().st_size) > max_bytes:
            raise ImageError(f"{name} is {length} bytes, more than max_bytes={max_bytes}")
        return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except ImageError as error:
        raise _named(source, error) from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error


def _size_in_header(file: BinaryIO, name: str) -> tuple[int, int]:
    if (size := _png_size(file)) is not None:
        return size
    Image.init()
    try:
        with Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
            return _upright(image, image.getexif())
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image in a format read here: {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
        raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _size_of_open(image: Image.Image, name: str) -> tuple[int, int]:
    try:
        return _upright(image, image.getexif())
    except Exception as error:  # as above
        raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _png_size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height of an upright PNG, from its chunks: Pillow would refuse long texts. None for other formats.

    The chunk that turns an image may stand after the pixels; inside a zip archive it is not looked for there.
    """
    start = file.read(24)
    if not (len(start) == 24 and start.startswith(PNG_MAGIC) and start[12:16] == b"IHDR"):
        file.seek(0)
        return None
    width, height = struct.unpack(">II", start[16:])
    cheap_to_seek = isinstance(file, io.BytesIO | io.BufferedReader)
    exif = Image.Exif()
    file.seek(len(PNG_MAGIC))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf" and length <= MAX_EXIF_BYTES:
            exif.load(file.read(length))
            break
        if kind == b"IDAT" and not cheap_to_seek:
            break
        file.seek(length + 4, os.SEEK_CUR)
    return (height, width) if _orientation(exif) in _SIDEWAYS else (width, height)


def _orientation(exif: Image.Exif) -> int:
    try:
        return int(exif.get(_ORIENTATION_TAG, 1))
    except (TypeError, ValueError):
        return 1


def _upright(image: Image.Image, exif: Image.Exif) -> tuple[int, int]:
    width, height = image.size
    turned = exif.get(_ORIENTATION_TAG) in _SIDEWAYS and image.format != "TIFF"  # Pillow turns a TIFF's size itself
    return (height, width) if turned else (width, height)


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if not 0 < width * height <= max_pixels:
        raise ImageError(f"{name} is {width} x {height} pixels: use one of 1 to max_pixels={max_pixels}")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ImageError(f"{name} is {width} x {height} pixels, an aspect ratio above {MAX_ASPECT_RATIO}: crop it")
