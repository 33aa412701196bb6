"""Sizes come from headers and agree with what opening gives."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from look_again.data.image_files import LazyImage, image_size, open_image
from look_again.images import FORMATS, ImageError


@dataclass(frozen=True)
class Held(LazyImage):
    data: bytes

    def __str__(self) -> str:
        return "shelf/7"

    def read(self) -> bytes:
        return self.data


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_size_is_that_of_the_opened_picture(encoded, format: str, orientation: int | None) -> None:
    """A size that ignored EXIF, or turned what Pillow turned already, would promise the wrong visual tokens."""
    data = encoded(40, 20, format, orientation)
    assert image_size(data) == open_image(data).size
    assert image_size(Image.open(io.BytesIO(data))) == open_image(data).size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_5_to_8_swap_width_and_height(encoded, orientation: int) -> None:
    expected = (20, 40) if orientation >= 5 else (40, 20)
    assert image_size(encoded(40, 20, "JPEG", orientation)) == expected


def test_exif_after_the_pixels_of_a_png_counts(encoded) -> None:
    """PNG allows it there, and Pillow reads it only while decoding: the size would differ from the opened picture."""
    data = encoded(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    turned = data[:-12] + late + data[-12:]
    assert image_size(turned) == open_image(turned).size == (20, 40)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "GIF"])
def test_picture_cut_off_in_its_pixels_still_has_a_size(encoded, format: str) -> None:
    """Decoding to learn a size would fail here, and make checking 100,000 rows take hours."""
    data = encoded(200, 100, format)
    cut = data[: len(data) * 9 // 10]
    assert image_size(cut) == (200, 100)
    with pytest.raises(ImageError, match="truncated or damaged"):
        open_image(cut)


def test_every_kind_of_source_opens_to_the_same_pixels(tmp_path: Path, encoded) -> None:
    data = encoded()
    (tmp_path / "a.png").write_bytes(data)
    sources = [tmp_path / "a.png", data, Image.open(io.BytesIO(data)), Held(data)]
    images = [np.asarray(open_image(source)) for source in sources]
    assert all(np.array_equal(images[0], image) for image in images[1:])
    assert [image_size(source) for source in sources] == [(40, 20)] * 4


def test_measured_picture_can_still_be_opened(encoded) -> None:
    """Measuring an open picture must not mark its EXIF as read and so change what opening gives."""
    image = Image.open(io.BytesIO(encoded(40, 20, "PNG", 6)))
    assert image_size(image) == (20, 40)
    assert open_image(image).size == (20, 40)


def test_bounds_are_kept_by_size_and_opening(tmp_path: Path, encoded) -> None:
    """A row that passes its check must not fail later on a bound that the check did not know."""
    (tmp_path / "a.png").write_bytes(encoded(40, 20))
    for ask in (image_size, open_image):
        with pytest.raises(ImageError, match="max_pixels=799"):
            ask(tmp_path / "a.png", max_pixels=799)
        assert ask(tmp_path / "a.png", max_pixels=800)
        with pytest.raises(ImageError, match="max_bytes=50"):
            ask(tmp_path / "a.png", max_bytes=50)
        with pytest.raises(ImageError, match="aspect ratio"):
            ask(encoded(201, 1))
        assert ask(encoded(200, 1))


def test_refusals_name_the_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening one waits for a writer
    (tmp_path / "note.txt").write_text("no picture")
    for name, reason in [("gone.png", "no such file"), ("pipe", "regular"), (".", "regular"), ("note.txt", "format")]:
        with pytest.raises(ImageError, match=reason) as caught:
            image_size(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(ImageError, match="not list"):
        image_size([1])  # type: ignore[arg-type]
    with pytest.raises(ImageError):
        image_size(b"")


def test_lazy_picture_is_named_where_it_fails() -> None:
    """ "image data (4 bytes) is not an image" would not say which of 100,000 it was."""
    for ask in (image_size, open_image):
        with pytest.raises(ImageError, match="shelf/7"):
            ask(Held(b"junk"))
    assert pickle.loads(pickle.dumps(Held(b"junk"))) == Held(b"junk")
