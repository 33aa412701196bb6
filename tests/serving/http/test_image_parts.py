"""Image parts: every format a client sends, and every file that is not a picture, within the limits."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from contextlib import suppress

import pytest
from PIL import Image

from look_again.serving.http.errors import ApiError
from look_again.serving.http.image_parts import ImageReference, decode_data_url, decode_image
from look_again.serving.workers.image_decoding import LOW_PIXELS, scaled_down
from tests.serving.http.served import data_url, encoded_image


def load(data, media="image/png", *, low=False, max_bytes=10**6, max_pixels=10**6):
    reference = ImageReference(data if isinstance(data, str) else data_url(data, media), low, "here")
    return decode_image(reference, decode_data_url(reference, max_bytes), max_bytes, max_pixels)


def refused(data, **limits):
    with pytest.raises(ApiError) as caught:
        load(data, **limits)
    assert (caught.value.status, caught.value.param) == (400, "here")
    return caught.value.message


def bomb(width, height):
    """A PNG of a few bytes that says it is large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animated(format):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_whatever_was_declared(format):
    """Clients often declare another type than they send; the bytes decide."""
    for media in (f"image/{format.lower()}", "image/jpeg", "IMAGE/PNG"):
        loaded = load(encoded_image(format), media)
        assert (loaded.image.mode, loaded.image.size, loaded.pixels, loaded.note) == ("RGB", (60, 40), 2400, None)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame_and_says_so(format):
    loaded = load(animated(format))
    red, _, blue = loaded.image.getpixel((5, 5))
    assert red > 200 > 50 > blue
    assert "animated" in loaded.note


def test_an_animation_that_breaks_off_is_its_first_frame_or_refused():
    """Would catch an error of the second frame's, which nobody needs, that ends in a status of 500."""
    data, notes = animated("GIF"), []
    for length in range(len(data)):
        with suppress(ApiError):
            notes.append(load(data[:length]).note)
    assert any(note and "animated" in note for note in notes)


def test_a_photo_with_a_second_one_inside_is_no_animation():
    """Phones put previews and gain maps behind the picture (MPO)."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    assert load(buffer.getvalue(), "image/jpeg").note is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n",
        encoded_image()[:60],
        encoded_image("JPEG")[:200],
        encoded_image("WEBP")[:30],
        encoded_image("BMP"),
        encoded_image("TIFF"),
        bomb(100_000, 100_000),
        bomb(2**31 - 1, 1),
        bomb(2000, 2000),
        bomb(0, 0),
        encoded_image(size=(1001, 1)),
    ],
)
def test_what_is_no_picture_of_ours(data):
    refused(data)


def test_one_pixel_is_a_picture():
    assert load(encoded_image(size=(1, 1))).image.size == (1, 1)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "data:image/png,abc",
        "data:text/plain;base64,aGk=",
        "data:;base64,aGk=",
        "data:image/png;base64,a",
        "data:image/png;base64,####",
        "data:image/png;base64,aGk",
        "data:image/png;base64,aé==",
        "data:image/png;base64,\ud800",
        "data:image/png;base64,aG k=",
    ],
)
def test_damaged_data_urls(url):
    refused(url)


def test_bytes_are_counted_before_they_are_decoded():
    data = encoded_image()
    assert "bytes" in refused(data, max_bytes=len(data) - 1)
    assert load(data, max_bytes=len(data)).pixels == 2400


def test_pixels_are_counted_before_they_are_decoded():
    assert "max_pixels=2399" in refused(encoded_image(), max_pixels=2399)


def test_low_detail_bounds_large_pictures_alone():
    large = load(encoded_image(size=(1200, 600)), low=True)
    assert large.pixels == 720_000
    assert large.image.size == (724, 362)
    assert large.image.width * large.image.height <= LOW_PIXELS
    assert load(encoded_image(), low=True).image.size == (60, 40)
    assert load(encoded_image(size=(1200, 600))).image.size == (1200, 600)
    assert scaled_down(Image.new("RGB", (2000, 10)), 100).size == (141, 1)


@pytest.mark.parametrize(
    "head", ["data:image/png;charset=utf-8;base64", "data:image/png;name=x.png;base64", "data:;base64", "DATA:;BASE64"]
)
def test_a_data_url_may_have_parameters_or_no_type(head):
    data = encoded_image()
    assert load(f"{head},{base64.b64encode(data).decode()}").pixels == 2400
