"""Untrusted images in, plain RGB images out.

Every entry of the project (commands, server, data loaders) takes images through `load_image`, so that a
image means the same pixels everywhere and a hostile or odd file ends in one clear error. The paper says
nothing about loading; the choices are ours: transparency is laid on white, animations give their first frame,
EXIF orientation is applied, deep greyscale is scaled to 8 bits, colour profiles are ignored, and nothing is
ever fetched. What leaves the process goes through `shareable`: the same pixels, and nothing else.
"""

from __future__ import annotations

import base64
import io
import re
import stat
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from look_again.images.containers import count_scans, pixels_alone, without_texts

MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20

MAX_ASPECT_RATIO = 200
"""Longest side over shortest side; Qwen's image processor refuses images beyond it."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""File formats read. Left out: EPS (runs Ghostscript) and icons (their header may hide the real size)."""

MAX_SCANS = 100
"""Of a progressive JPEG; each goes over all pixels once more. Files have about ten."""

MAX_SCANNED_PIXELS = 600_000_000
"""Scans times pixels, which is 12 scans of the largest image, or a second and a half of decoding."""

_CLEAN_MODES = {"JPEG": ("L", "RGB"), "PNG": ("1", "L", "P", "RGB")}  # that every reader shows alike
_URL = re.compile(r"\s*(?:https?:|data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WARNINGS_LOCK = threading.Lock()  # warnings.catch_warnings changes the whole process, so one thread at a time


class ImageError(ValueError):
    """An image that cannot be used; the message names it and says why."""


def load_image(
    source: str | Path | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Load an image from a path, a file's bytes or an open image, as a new RGB image without metadata.

    `max_pixels` (width x height), the aspect ratio and the number of scans are checked from the file's structure,
    before any pixel is decoded; `max_bytes` bounds the encoded file. An open image is taken at its current frame and
    is not modified.

    Raises ImageError for: a URL, no such file, a directory or device, an unreadable, empty or too large file,
    data that is no image in one of `FORMATS`, a truncated or damaged image, more than `max_pixels`
    pixels, more scans than `MAX_SCANS`, and an aspect ratio above `MAX_ASPECT_RATIO`.
    """
    name = _describe(source)
    image = source if isinstance(source, Image.Image) else _open(_read(source, max_bytes, name), max_pixels, name)
    return _to_upright_rgb(image, max_pixels, name)[0]


def shareable(data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[str, bytes]:
    """Media type and file with the pixels of an encoded image as `load_image` gives them, and nothing else.

    An upright JPEG or PNG of 8 bits without transparency keeps its coded pixels and loses its metadata; any other image
    becomes an RGB PNG. All is decoded once, so a damaged image does not leave. ImageError as `load_image` raises it.
    """
    name = _describe(data)
    image = _open(_read(data, max_bytes, name), max_pixels, name)
    kind = {"MPO": "JPEG"}.get(str(image.format), str(image.format))  # a JPEG with further images, as phones make
    common = image.mode in _CLEAN_MODES.get(kind, ()) and not image.has_transparency_data
    moving = kind == "PNG" and getattr(image, "is_animated", False)
    rgb, orientation = _to_upright_rgb(image, max_pixels, name)
    if common and not moving and orientation not in _UPRIGHT and (plain := pixels_alone(data)) is not None:
        return f"image/{kind.lower()}", plain
    return "image/png", encode(rgb)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The file of an image that `load_image` gave. options: of Pillow's writer of that format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def data_url(image: Image.Image, format: str = "PNG", **options: Any) -> str:
    """An image in a URL of its own: `data:image/png;base64,…`. options: of Pillow's writer of that format."""
    return encoded_data_url(f"image/{format.lower()}", encode(image, format, **options))


def encoded_data_url(media_type: str, data: bytes) -> str:
    """An encoded file in a URL of its own."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def is_data_url(text: str) -> bool:
    return text[:64].lstrip()[:5].lower() == "data:"


def split_data_url(url: str) -> str:
    """The base64 text of a data URL, whatever its media type and parameters: the bytes decide what an image is.

    Example: that of "data:image/png;charset=utf-8;base64,aGk=" is "aGk=". ImageError for a URL without base64.
    """
    head, comma, payload = url.partition(",")
    if not (comma and is_data_url(head) and head.rstrip().lower().endswith(";base64")):
        raise ImageError(f"a data URL begins with 'data:image/png;base64,', not {url[:40]!r}")
    return payload


def decode_base64(payload: str) -> bytes:
    """The bytes of a data URL's text. ImageError for one that is not base64."""
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:  # binascii.Error, and characters beyond ASCII
        raise ImageError(f"the image is not base64: {error}") from error


def _describe(source: object) -> str:
    """What error messages call the image."""
    if isinstance(source, str) and _URL.match(source):
        raise ImageError(f"{source[:60]!r} looks like a URL; URLs are not fetched: download it and pass the file")
    if isinstance(source, str | Path):
        return f"image file {str(source)[:500]!r}"
    if isinstance(source, bytes):
        return f"image data ({len(source)} bytes)"
    if isinstance(source, Image.Image):
        return f"image {getattr(source, 'filename', '') or type(source).__name__!r}"
    raise ImageError(f"an image is a path, bytes or a PIL image, not {type(source).__name__}")


def _read(source: str | Path | bytes, max_bytes: int, name: str) -> bytes:
    """The encoded file, at most `max_bytes` long; only regular files are opened."""
    if isinstance(source, bytes):
        data = source
    else:
        _check_regular(Path(source), name)
        try:
            with Path(source).open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise ImageError(f"{name} is larger than max_bytes={max_bytes}")
    if not data:
        raise ImageError(f"{name} is empty")
    return data


def _check_regular(path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name} is a directory, not an image")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{name} is not a regular file")


def _open(data: bytes, max_pixels: int, name: str) -> Image.Image:
    """The image of a file, of which only the header is decoded, within the bounds."""
    image = _read_header(data, name)
    _check_size(image.size, max_pixels, name)
    _check_scans(data, image.size, name)
    return image


def _to_upright_rgb(image: Image.Image, max_pixels: int, name: str) -> tuple[Image.Image, int]:
    """An open image as RGB without metadata, turned upright, and the EXIF orientation that it had (1 = upright)."""
    _check_size(image.size, max_pixels, name)
    orientation = _decode(image, name)
    _check_size(image.size, max_pixels, name)  # some decoders learn the true size only now
    try:
        rgb = _to_rgb(image)
    except ValueError as error:
        raise ImageError(f"{name} (mode {image.mode}) cannot be turned into RGB: {error}") from error
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info.clear()  # a left-over EXIF orientation would turn the image a second time
    return rgb, orientation


def _read_header(data: bytes, name: str) -> Image.Image:
    """Read the header only. Pillow's bomb warning is silenced: `max_pixels` decides, not Pillow's global."""
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]  # older Pillows know no AVIF
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(without_texts(data)), formats=formats)
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name} has too many pixels for Pillow: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(f"{name} is not an image in a format read here: {', '.join(formats)}") from error
        except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
            raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{name} is {width} x {height} pixels, more than max_pixels={max_pixels}")
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels: it is empty")
    ratio = max(size) / min(size)
    if ratio > MAX_ASPECT_RATIO:
        raise ImageError(
            f"{name} is {width} x {height} pixels: its aspect ratio {ratio:.1f} is above {MAX_ASPECT_RATIO}, "
            "which Qwen's image processor refuses; crop it"
        )


def _check_scans(data: bytes, size: tuple[int, int], name: str) -> None:
    scans, (width, height) = count_scans(data), size
    if scans > MAX_SCANS or (scans > 1 and scans * width * height > MAX_SCANNED_PIXELS):
        raise ImageError(f"{name} has {scans} scans of {width} x {height} pixels, too much to decode: save it again")


def _decode(image: Image.Image, name: str) -> int:
    """Decode the pixels in place and return the EXIF orientation (1 = upright)."""
    try:
        image.load()
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image; transparency is laid on white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _to_8_bits(values_HW: np.ndarray) -> np.ndarray:
    """Scale deep greyscale (height, width) to uint8 without clipping.

    Integers count from 0 to 65535, floats from 0 to 1 or else from 0 to 255; values outside that range are
    stretched from their own minimum and maximum. Raises ValueError for NaN or infinity.
    """
    low, high = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds NaN or infinite values")
    full_scales = (65535.0,) if values_HW.dtype.kind in "iu" else (1.0, 255.0)
    full = next((full for full in full_scales if low >= 0 and high <= full), None)
    if full is not None:
        low, high = 0.0, full
    scaled_HW = values_HW.astype(np.float64)
    scaled_HW -= low  # in place: at 50 million pixels each copy takes 400 MB
    scaled_HW *= 255.0 / (high - low or 1.0)
    return np.rint(scaled_HW, out=scaled_HW).astype(np.uint8)
