"""Image parts of a request as images, within the server's limits.

The bytes decide what a file is, not the media type that was declared. Only formats that OpenAI's interface knows are
decoded: the fewer parsers untrusted bytes reach, the better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from look_again.images import ImageError, decode_base64, split_data_url
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.workers.image_decoding import DecodedFile, decode_file


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
