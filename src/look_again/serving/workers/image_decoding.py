"""A request's image file as pixels: the formats that OpenAI's interface knows, the first frame, scaled where asked.

The paper serves nothing.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from PIL import Image

from look_again.images import ImageError, load_image

LOW_PIXELS = 512 * 512
"""What `detail: "low"` scales larger images down to: OpenAI's 512 x 512, which is also the paper's training bound."""

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")


@dataclass(frozen=True)
class DecodedFile:
    """image: RGB. pixels: as it was sent. animated: it has further frames."""

    image: Image.Image
    pixels: int
    animated: bool


def decode_file(data: bytes, low: bool, max_bytes: int, max_pixels: int) -> DecodedFile:
    """Decode an image file. ImageError for anything that is not one; sizes are checked before pixels are decoded.

    low: scale it down to `LOW_PIXELS`.
    """
    if not (data.startswith(_BEGINNINGS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise ImageError("the image is neither PNG, JPEG, WebP nor GIF")
    image = load_image(data, max_pixels=max_pixels, max_bytes=max_bytes)
    shown = scaled_down(image, LOW_PIXELS) if low else image
    return DecodedFile(shown, image.width * image.height, _is_animated(data))


def _is_animated(data: bytes) -> bool:
    """Of data whose first image was decoded before. A JPEG with further images, as phones make, is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format in ("GIF", "WEBP", "PNG") and bool(getattr(image, "is_animated", False))
    except Exception:  # there is a second frame, and it is broken
        return True


def scaled_down(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image with at most `max_pixels` pixels and its sides in proportion, each at least one pixel long."""
    width, height = image.size
    if width * height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (width * height))
    return image.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)
