"""What may be asked: pictures are checked before they are decoded, and every refusal says what to do."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from look_again.core.reattention import Reattention
from look_again.images import ImageError
from look_again.loading import default_checkpoint
from look_again.model import Sampling
from look_again.ui.question import compute_grid, image_bytes, read_keep, read_modes, read_question


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [(bomb(), "pixels"), (b"<svg/>", "not an image"), (b"", "empty"), (b"\x89PNG\r\n\x1a\n", "truncated|not an")],
)
def test_bad_pictures_are_refused_without_their_path(tmp_path, data, said):
    path = tmp_path / "upload"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=said) as caught:
        read_question(str(path), "How many?", 0, 0, 10)
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith("The picture")


def test_a_question_as_the_fields_have_it(tmp_path):
    Image.new("RGBA", (40, 30)).save(tmp_path / "a.png")
    asked = read_question(str(tmp_path / "a.png"), "  How many? ", 0.7000001, 5.0, 64.0, "window")
    assert (asked.text, asked.image.mode, asked.image.size) == ("How many?", "RGB", (40, 30))
    assert asked.sampling == Sampling(max_new_tokens=64, temperature=0.7, seed=5)
    job = asked.job(Reattention(mode="copy"))
    assert job.messages == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    assert (job.conversation, len(job.images)) == ("window", 1)
    assert read_question(None, "How many?", 0, None, 10).job(Reattention()).images == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((None, "  ", 0, 0, 10), "question is empty"),
        ((None, None, 0, 0, 10), "question is empty"),
        ((None, "a" * 20_001, 0, 0, 10), "20001 characters"),
        ((None, "a", 0, 0, 0), "tokens is a whole number from 1 to 4096"),
        ((None, "a", 0, 0, None), "tokens is a whole number"),
        ((None, "a", 0, 0, float("inf")), "tokens is a whole number"),
        ((None, "a", 0, -1, 10), "seed is a whole number"),
        ((None, "a", 0, "x", 10), "seed is a whole number"),
        ((None, "a", 1000, 0, 10), "temperature"),
    ],
)
def test_refusals_name_the_field(fields, said):
    with pytest.raises(ValueError, match=said):
        read_question(*fields)


def test_modes_and_keep():
    assert read_modes(["route", "text", "<script>"]) == ["text", "route"]
    for nothing in ([], None, "copy", ["vision"]):
        with pytest.raises(ValueError, match="at least one of text, COPY and ROUTE"):
            read_modes(nothing)
    assert read_keep(30.0) == 30
    for wrong in (101, -1, 0.5, None, "50"):
        with pytest.raises(ValueError, match="keep is a whole number"):
            read_keep(wrong)


def test_the_grid_is_the_processors():
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(default_checkpoint())
    assert compute_grid(processor, Image.new("RGB", (168, 168))) == (1, 6, 6)
    assert compute_grid(processor, None) is None


def test_what_a_picture_takes_in_memory():
    """Counted at three bytes a pixel, a quarter too much would be kept."""
    image = Image.new("RGB", (40, 30))
    assert image_bytes(image) == 4800
    assert read_question(None, "How many?", 0, 0, 10).size_bytes == 0
