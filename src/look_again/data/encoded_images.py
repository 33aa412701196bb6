"""Images as encoded files, in the form that chat endpoints, data sets and pages take."""

from __future__ import annotations

import io

from PIL import Image

from look_again.data.image_files import ImageSource, LazyImage, describe, image_size, open_image
from look_again.images import ImageError

UNCHANGED = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}  # formats that chat endpoints read


def image_bytes(source: ImageSource) -> bytes:
    """The encoded file of an image. ImageError when it cannot be read or lies outside the bounds of `image_size`."""
    image_size(source)
    if isinstance(source, Image.Image):
        return png_bytes(source.convert("RGB"))
    try:
        return (
            source
            if isinstance(source, bytes)
            else source.read()
            if isinstance(source, LazyImage)
            else source.read_bytes()
        )
    except OSError as error:
        raise ImageError(f"{describe(source)} cannot be read: {error.strerror or error}") from error


def sendable(source: ImageSource, max_pixels: int | None = None) -> tuple[str, bytes]:
    """Media type and file of an image, as endpoints take it: PNG, JPEG and GIF as they are, others and those of more
    than `max_pixels` as an RGB PNG. ImageError as above."""
    data = image_bytes(source)
    kind = next((name for magic, name in UNCHANGED.items() if data.startswith(magic)), None)
    width, height = image_size(data)
    if kind and (max_pixels is None or width * height <= max_pixels):
        return f"image/{kind}", data
    image = open_image(data)
    if max_pixels is not None and width * height > max_pixels:
        scale = (max_pixels / (width * height)) ** 0.5
        image = image.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)
    return "image/png", png_bytes(image)


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
