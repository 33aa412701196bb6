"""Image parts of a request as images, within the server's limits.

The bytes decide what a file is, not the media type that was declared. Only formats that OpenAI's interface knows are
decoded: the fewer parsers untrusted bytes reach, the better.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from PIL import Image

from look_again.images import ImageError, decode_base64, load_image, split_data_url
from look_again.serving.http.errors import ApiError, invalid

LOW_PIXELS = 512 * 512
"""What `detail: "low"` scales larger images down to: OpenAI's 512 x 512, which is also the paper's training bound."""

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")


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
class DecodedImage:
    """RGB. pixels: as it was sent. note: what should be said about it."""

    image: Image.Image
    pixels: int
    note: str | None = None


def decode_data_url(reference: ImageReference, max_bytes: int) -> bytes:
    """The bytes of a data URL. ApiError 400 for one that is damaged or holds more than `max_bytes`."""
    try:
        payload = split_data_url(reference.url)
        if len(payload) * 3 // 4 > max_bytes + 2:
            raise too_many_bytes(reference, max_bytes)
        return decode_base64(payload)
    except ImageError as error:
        raise invalid(str(error), reference.param) from None


def too_many_bytes(reference: ImageReference, max_bytes: int) -> ApiError:
    return invalid(f"the image has more than {max_bytes} bytes", reference.param, "image_too_large")


def decode_image(reference: ImageReference, data: bytes, max_bytes: int, max_pixels: int) -> DecodedImage:
    """Decode an image. ApiError 400 for anything that is not one; sizes are checked before pixels are decoded."""
    if not (data.startswith(_BEGINNINGS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise invalid("the image is neither PNG, JPEG, WebP nor GIF", reference.param, "invalid_image")
    try:
        image = load_image(data, max_pixels=max_pixels, max_bytes=max_bytes)
    except ImageError as error:
        raise invalid(str(error), reference.param, "invalid_image") from None
    note = f"{reference.param} is animated: its first frame was used" if _animated(data) else None
    shown = scaled_down(image, LOW_PIXELS) if reference.low else image
    return DecodedImage(shown, image.width * image.height, note)


def _animated(data: bytes) -> bool:
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
