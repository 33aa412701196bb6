"""What leaves the process is the pixels that training sees, and nothing else; work is bounded by a file's structure."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from look_again.data.encoded_images import image_bytes, sendable
from look_again.data.image_files import image_size, open_image
from look_again.images import MAX_SCANS, ImageError, decode_base64, load_image, shareable, split_data_url
from look_again.images.containers import count_scans, jpeg_segments, pixels_alone, without_texts

SECRET = b"52.5163N 13.3777E"


def noise(mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def exif(orientation: int = 1) -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x010E] = orientation, SECRET.decode()
    made.get_ifd(0x8825)[1] = "N"
    return made.tobytes()


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def texts(length: int = 40) -> PngInfo:
    made = PngInfo()
    made.add_text("Comment", SECRET.decode() + "x" * length, zip=length > 100)
    return made


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG whose JFIF segment shows a thumbnail of one pixel."""
    first = next(jpeg_segments(data))
    body = b"JFIF\0\1\2\0\0\1\0\1\1\1" + b"\xff\x00\x00"
    return data[:2] + b"\xff\xe0" + struct.pack(">H", len(body) + 2) + body + data[first.stop :]


def junk_before_exif(data: bytes) -> bytes:
    """Bytes between segments, which decoders pass over with a warning."""
    first = next(jpeg_segments(data))
    return data[: first.stop] + b"\0\0\0" + data[first.stop :]


PLAIN = saved(noise(), "JPEG", quality=95)
CASES = {
    "jpeg": saved(noise(), "JPEG", exif=exif(), comment=SECRET, icc_profile=SECRET * 9),
    "turned jpeg": saved(noise(), "JPEG", exif=exif(6)),
    "grey jpeg": saved(noise("L"), "JPEG", exif=exif()),
    "cmyk jpeg": saved(noise("CMYK"), "JPEG", exif=exif()),
    "progressive jpeg": saved(noise(), "JPEG", exif=exif(), progressive=True),
    "jpeg with further images": saved(noise(), "MPO", save_all=True, append_images=[noise("L")], exif=exif()),
    "jpeg with a trailer": saved(noise(), "JPEG", exif=exif()) + SECRET,
    "jpeg with a thumbnail": with_thumbnail(saved(noise(), "JPEG", comment=SECRET)),
    "jpeg with junk": junk_before_exif(saved(noise(), "JPEG", exif=exif())),
    "png": saved(noise(), "PNG", exif=exif(), pnginfo=texts(), icc_profile=SECRET * 9),
    "turned png": saved(noise(), "PNG", exif=exif(8)),
    "palette png": saved(noise().convert("P"), "PNG", pnginfo=texts()),
    "transparent png": saved(noise("RGBA"), "PNG", pnginfo=texts()),
    "transparent palette png": saved(noise().convert("P"), "PNG", transparency=3, pnginfo=texts()),
    "deep png": saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG", pnginfo=texts()),
    "animated png": saved(noise(), "PNG", save_all=True, append_images=[noise("L").convert("RGB")], pnginfo=texts()),
    "png with a trailer": saved(noise(), "PNG", pnginfo=texts()) + SECRET,
    "animated gif": saved(noise("P"), "GIF", save_all=True, append_images=[noise("L").convert("P")], comment=SECRET),
    "webp": saved(noise(), "WEBP", exif=exif(3), lossless=True),
    "tiff": saved(noise(), "TIFF", description=SECRET.decode()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_sent_has_the_pixels_of_training_and_no_metadata(name: str) -> None:
    """A phone's photo lay sideways at a judge, with its position; deep and transparent files looked different there."""
    data = CASES[name]
    media, sent = sendable(data)
    assert media == f"image/{Image.open(io.BytesIO(sent)).format.lower()}"
    assert media in ("image/jpeg", "image/png")
    assert np.array_equal(np.asarray(open_image(sent)), np.asarray(open_image(data)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")), np.asarray(open_image(data)))
    opened = Image.open(io.BytesIO(sent))
    opened.load()
    assert not opened.getexif()
    assert not {"icc_profile", "comment", "exif", "Comment"} & set(opened.info)
    for secret in (SECRET, zlib.compress(SECRET)):
        assert secret not in sent


def test_an_upright_jpeg_stays_one(tmp_path: Path) -> None:
    """Encoded again it would lose a little, or as PNG grow tenfold."""
    data = saved(noise(), "JPEG", exif=exif(), quality=60)
    (tmp_path / "a.jpg").write_bytes(data)
    media, sent = sendable(tmp_path / "a.jpg")
    assert media == "image/jpeg"
    assert len(sent) < len(data)
    assert pixels_alone(PLAIN) == PLAIN


def test_an_open_image_leaves_without_its_profile() -> None:
    """A grown-up alpha channel is laid on white, as everywhere, not on black."""
    image = Image.open(io.BytesIO(saved(noise("RGBA"), "PNG", exif=exif(), icc_profile=SECRET * 9)))
    for sent in (sendable(image)[1], image_bytes(image)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent))), np.asarray(load_image(image)))
        assert SECRET not in sent
        assert not {"exif", "icc_profile"} & set(Image.open(io.BytesIO(sent)).info)


def test_a_damaged_image_does_not_leave(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(PLAIN[: len(PLAIN) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg.*truncated or damaged"):
        sendable(tmp_path / "cut.jpg")


@pytest.mark.parametrize("kind", ["text", "profile", "late"])
def test_a_png_with_a_long_text_or_profile_is_read(kind: str) -> None:
    """Pillow bounds them, and so an intact file was called damaged."""
    if kind == "profile":
        data = saved(noise(), "PNG", icc_profile=bytes(3 << 20))
    else:
        data = saved(noise(), "PNG", pnginfo=texts(3 << 20))
    if kind == "late":
        at = data.index(b"zTXt") - 4
        stop = at + 12 + struct.unpack_from(">I", data, at)[0]
        data = data[:at] + data[stop:-12] + data[at:stop] + data[-12:]
    assert image_size(data) == (30, 20)
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(noise()))
    assert len(sendable(data)[1]) < 10_000


def scans_bomb(copies: int, side: int = 2000) -> bytes:
    """A flat progressive JPEG whose last scan comes again and again: few bytes, much work."""
    data = saved(Image.new("RGB", (side, side), "red"), "JPEG", progressive=True)
    last = [segment for segment in jpeg_segments(data) if segment.code == 0xDA][-1]
    return data[: last.stop] + data[last.start : last.stop] * copies + data[last.stop :]


def test_scans_are_counted_before_any_pixel_is_decoded() -> None:
    """161 KB of 700 scans stopped a server for minutes."""
    bombs = (scans_bomb(700), scans_bomb(MAX_SCANS, 200), scans_bomb(80, 5000))
    started = time.process_time()
    for data in bombs:
        with pytest.raises(ImageError, match="scans"):
            load_image(data)
        with pytest.raises(ImageError, match="scans"):
            shareable(data)
    assert time.process_time() - started < 1
    for hidden in (b"\0\0", b"\xff\xff\xff", b"\xff\xd0" * 9):  # what decoders pass over
        data = scans_bomb(700)
        first = next(jpeg_segments(data))
        assert count_scans(data[: first.stop] + hidden + data[first.stop :]) > 700
    assert load_image(scans_bomb(20, 200)).size == (200, 200)
    assert count_scans(PLAIN) == count_scans(b"") == count_scans(CASES["png"]) == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_are_walked(tail: bytes, kind: int) -> None:
    """Uploaded files are anything: no walk may raise, loop or read past the end."""
    data = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", CASES["jpeg"][:200])[kind] + tail
    assert count_scans(data) >= 0
    assert len(without_texts(data)) <= len(data)
    assert (plain := pixels_alone(data)) is None or len(plain) <= len(data)
    with pytest.raises(ImageError):
        load_image(data)


def test_long_files_of_markers_take_linear_time() -> None:
    started = time.process_time()
    for data in (
        b"\xff\xd8" + b"\xff" * 10**7,
        b"\xff\xd8" + b"\xff\xd8" * 10**7,
        b"\xff\xd8" + b"\xff\xd0" * 10**5,
        b"\xff\xd8\xff\xda\0\2" + b"\xff\0" * 10**6,
    ):
        count_scans(data)
        pixels_alone(data)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "head",
    ["data:image/png;base64", "data:image/png;charset=utf-8;base64", "data:image/png;name=x.png;base64", "data:;base64",
     "DATA:IMAGE/PNG;BASE64", " data:application/octet-stream;base64"],
)  # fmt: skip
def test_data_urls_with_parameters(head: str) -> None:
    assert decode_base64(split_data_url(f"{head},aGk=")) == b"hi"


@pytest.mark.parametrize(
    "url", ["data:image/png,aGk=", "data:image/png;base64", "image/png;base64,aGk=", "", "data:,x"]
)
def test_what_is_no_data_url(url: str) -> None:
    with pytest.raises(ImageError, match="a data URL begins with"):
        split_data_url(url)
