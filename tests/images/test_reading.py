"""Pictures from anywhere become plain RGB, or one clear error."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from look_again.images import FORMATS, ImageError, load_image

WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 30, height: int = 20) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header gives this size and whose pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pixels(image: Image.Image) -> list[tuple[int, int, int]]:
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("as_source", [str, Path, Path.read_bytes, Image.open])
def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path, as_source) -> None:
    path = tmp_path / "a.png"
    noise().save(path)
    loaded = load_image(as_source(path))
    assert np.array_equal(np.asarray(loaded), np.asarray(noise()))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_listed_formats_are_read(format: str) -> None:
    """A name in FORMATS that Pillow does not register would make every call fail."""
    assert format in FORMATS
    assert pixels(load_image(encoded(Image.new("RGB", (2, 1), WHITE), format))) == [WHITE, WHITE]


def test_open_picture_is_neither_changed_nor_shared() -> None:
    """Handing back the caller's own picture would let a later paste change both."""
    source = noise()
    source.info["comment"] = "kept"
    loaded = load_image(source)
    loaded.paste(WHITE, (0, 0, 30, 20))
    assert source.info == {"comment": "kept"}
    assert np.array_equal(np.asarray(source), np.asarray(noise()))


# Refusals: each names the file.


def test_missing_directory_and_device_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png.*no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"directory, not an image"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"pipe.*not a regular file"):  # opening it would wait forever
        load_image(tmp_path / "pipe")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("a\0b.png")


@pytest.mark.parametrize("data", [b"hello, this is text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_text_and_postscript_are_not_images(tmp_path: Path, data: bytes) -> None:
    """Pillow hands PostScript to Ghostscript, that is, runs a program it was sent."""
    path = tmp_path / "notes.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"notes\.png.*not an image"):
        load_image(path)


def test_empty_file_and_oversized_file(tmp_path: Path) -> None:
    path = tmp_path / "e.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"e\.png.*is empty"):
        load_image(path)
    data = encoded(noise())
    path.write_bytes(data)
    assert load_image(path, max_bytes=len(data)).size == (30, 20)
    for source in (path, data):
        with pytest.raises(ImageError, match=f"max_bytes={len(data) - 1}"):
            load_image(source, max_bytes=len(data) - 1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_is_named(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"cut.{format.lower()}"
    data = encoded(noise(), format)
    path.write_bytes(data[:-40])
    with pytest.raises(ImageError, match=r"cut\..*truncated or damaged"):
        load_image(path)


def test_damaged_bytes_raise_nothing_but_image_error() -> None:
    """Pillow's parsers raise KeyError, OverflowError and the like on damaged headers."""
    rng = np.random.default_rng(1)
    refused = 0
    for format in ("PNG", "JPEG", "GIF", "BMP", "PPM"):
        data = encoded(noise(), format)
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 200), 3):
                damaged[place] = rng.integers(0, 256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    load_image(bytes(damaged))
                except ImageError:
                    refused += 1
    assert refused > 0


def test_too_many_pixels_is_refused_from_the_header() -> None:
    """The pixels are missing, so an attempt to decode would say 'truncated' instead."""
    with pytest.raises(ImageError, match=r"8000 x 8000 pixels, more than max_pixels=50000000"):
        load_image(png_claiming(8000, 8000))
    with pytest.raises(ImageError, match=r"11 x 10 pixels, more than max_pixels=109"):
        load_image(Image.new("RGB", (11, 10)), max_pixels=109)
    assert load_image(Image.new("RGB", (11, 10)), max_pixels=110).size == (11, 10)


@pytest.mark.parametrize("filter", ["error", "always"])
def test_pillows_bomb_guard_neither_warns_nor_escapes(
    monkeypatch: pytest.MonkeyPatch, filter: Literal["error", "always"], recwarn: pytest.WarningsRecorder
) -> None:
    """Between Pillow's limit and twice that it warns, beyond that it raises its own kind of error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    warnings.simplefilter(filter, Image.DecompressionBombWarning)
    assert load_image(encoded(noise(30, 20))).size == (30, 20)  # 600 pixels: a warning by default
    with pytest.raises(ImageError, match="too many pixels"):
        load_image(encoded(noise(60, 20)))  # 1200 pixels: DecompressionBombError by default
    assert Image.MAX_IMAGE_PIXELS == 500
    assert len(recwarn) == 0


def test_aspect_ratio_above_200_is_refused_and_200_is_not() -> None:
    assert load_image(Image.new("RGB", (200, 1))).size == (200, 1)
    for size in [(201, 1), (1, 201)]:
        with pytest.raises(ImageError, match=r"aspect ratio 201\.0 is above 200.*Qwen"):
            load_image(encoded(Image.new("RGB", size)))


def test_zero_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "url",
    [
        "http://a/b.png",
        "HTTPS://a",
        "data:image/png;base64,AAAA",
        " https://a",
        "ftp://a",
        "file:///etc/passwd",
    ],
)
def test_urls_are_not_fetched(url: str) -> None:
    with pytest.raises(ImageError, match="URLs are not fetched"):
        load_image(url)


def test_other_types_are_refused() -> None:
    with pytest.raises(ImageError, match="not int"):
        load_image(3)  # type: ignore[arg-type]


# Conversions: hand-worked pixels.


def test_one_by_one() -> None:
    assert pixels(load_image(encoded(Image.new("RGB", (1, 1), RED)))) == [RED]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    assert set(pixels(load_image(data))) == {RED}


def test_deep_greyscale_is_scaled_not_clipped() -> None:
    """Pillow's own convert clips 16-bit values at 255: almost every picture would come out white."""
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    expected = [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
    assert deep.mode == "I;16"
    assert pixels(load_image(deep)) == expected
    assert pixels(load_image(encoded(deep))) == expected
    assert pixels(load_image(deep.convert("I"))) == expected
    big_endian = Image.frombytes("I;16B", (4, 1), np.array([0, 257, 32896, 65535], ">u2").tobytes())
    assert pixels(load_image(big_endian)) == expected


def test_values_outside_16_bits_are_stretched() -> None:
    wide = Image.fromarray(np.array([[-100_000, 0, 100_000]], dtype=np.int32))
    assert pixels(load_image(wide)) == [(0,) * 3, (128,) * 3, (255,) * 3]  # 127.5 rounds to even


@pytest.mark.parametrize(
    ("values", "greys"),
    [([0.0, 0.2, 1.0], [0, 51, 255]), ([0.0, 51.0, 200.0], [0, 51, 200]), ([-1.0, 0.0, 4.0], [0, 51, 255])],
)
def test_float_greyscale(tmp_path: Path, values: list[float], greys: list[int]) -> None:
    """0..1, 0..255, and anything else stretched from its minimum to its maximum."""
    image = Image.fromarray(np.array([values], dtype=np.float32))
    expected = [(grey,) * 3 for grey in greys]
    assert pixels(load_image(image)) == expected
    assert pixels(load_image(encoded(image, "TIFF"))) == expected


def test_constant_and_non_finite_floats() -> None:
    assert pixels(load_image(Image.new("F", (1, 1), 700.0))) == [(0, 0, 0)]  # a range of no width
    with pytest.raises(ImageError, match="NaN"):
        load_image(Image.new("F", (1, 1), float("nan")))


def test_transparency_is_laid_on_white() -> None:
    """Dropping alpha shows whatever colour lies under transparent pixels, most often black."""
    clear_black, half_red = (0, 0, 0, 0), (255, 0, 0, 128)
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([clear_black, half_red])
    assert pixels(load_image(encoded(rgba))) == [WHITE, (255, 127, 127)]
    la = Image.new("LA", (2, 1))
    la.putdata([(0, 0), (0, 255)])
    assert pixels(load_image(encoded(la))) == [WHITE, (0, 0, 0)]


def test_palette_with_alpha_is_laid_on_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*BLUE, *GREEN, *RED])
    palette.putdata([0, 1, 2])
    one_clear = encoded(palette, transparency=0)
    assert pixels(load_image(one_clear)) == [WHITE, GREEN, RED]
    graded = encoded(palette, transparency=bytes([255, 0, 255]))
    assert pixels(load_image(graded)) == [BLUE, WHITE, RED]
    assert pixels(load_image(encoded(palette))) == [BLUE, GREEN, RED]


def test_transparent_colour_of_an_rgb_png_is_white() -> None:
    """A PNG without alpha channel may still name one colour as transparent."""
    rgb = Image.new("RGB", (2, 1), RED)
    rgb.putpixel((1, 0), GREEN)
    assert pixels(load_image(encoded(rgb, transparency=GREEN))) == [RED, WHITE]


def test_cmyk_and_bilevel() -> None:
    assert pixels(load_image(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"))) == [RED]
    assert pixels(load_image(encoded(Image.new("1", (1, 1), 1)))) == [WHITE]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[RED, GREEN], [BLUE, WHITE]]),
        (2, [[GREEN, RED], [WHITE, BLUE]]),
        (3, [[WHITE, BLUE], [GREEN, RED]]),
        (4, [[BLUE, WHITE], [RED, GREEN]]),
        (5, [[RED, BLUE], [GREEN, WHITE]]),
        (6, [[BLUE, RED], [WHITE, GREEN]]),
        (7, [[WHITE, GREEN], [BLUE, RED]]),
        (8, [[GREEN, WHITE], [RED, BLUE]]),
        (99, [[RED, GREEN], [BLUE, WHITE]]),
    ],
)
def test_exif_orientation_is_applied_once(format: str, orientation: int, upright: list) -> None:
    """Ignored or applied twice (TIFF turns itself while decoding), pictures from phones lie on their side."""
    stored = Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    loaded = load_image(encoded(stored, format, exif=exif, **options))
    assert np.asarray(loaded).tolist() == np.array(upright).tolist()
    assert dict(loaded.getexif()) == {}
    assert loaded.info == {}
