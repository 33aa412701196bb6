"""The file structure of JPEG and PNG images, read without decoding: what costs time, and what says more than pixels.

Everything here is linear in the length of the file and takes damaged files as they come: the decoder says what is wrong
with them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9

MAX_SEGMENTS = 20_000  # of a JPEG; files have some tens
JUNK = 0  # the code of bytes that are no segment
_ALONE = (0x01, 0xD8, END_OF_IMAGE)  # JPEG markers without a length
_APPLICATION = range(0xE0, 0xF0)
_COMMENT = 0xFE
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}  # that say how colours are coded; name and length
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not those that stand within a scan's coded data
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # what Pillow bounds, and nobody reads here


class Segment(NamedTuple):
    """A part of a JPEG file from its marker to the next. code: the marker's second byte. start, stop: bytes."""

    code: int
    start: int
    stop: int


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments after the start of the image, a scan with its coded data; up to the end of the image or of the file.

    What stands between two segments is passed over, as decoders do, and comes as a segment with the code `JUNK`. No
    more than `MAX_SEGMENTS` are walked.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, at)
        if marker is None:
            return
        if marker.start() > at:
            yield Segment(JUNK, at, marker.start())
        start, at, code = marker.start(), marker.end(), data[marker.end() - 1]
        if code not in _ALONE and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]
        if code == START_OF_SCAN:
            following = _MARKER.search(data, at)
            at = following.start() if following else len(data)
        yield Segment(code, start, min(at, len(data)))
        if code == END_OF_IMAGE:
            return


def count_scans(data: bytes) -> int:
    """How often a decoder goes over the pixels of a JPEG file; 1 for other formats.

    A file of `MAX_SEGMENTS` or more counts as one of as many scans.
    """
    if not data.startswith(JPEG_MAGIC):
        return 1
    segments = list(jpeg_segments(data))
    return MAX_SEGMENTS if len(segments) >= MAX_SEGMENTS else sum(code == START_OF_SCAN for code, _, _ in segments)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first and last byte (exclusive) of each chunk of a PNG file, up to its end or the first that is cut off."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if stop > len(data):
            return
        yield kind, at, stop
        if kind == b"IEND":
            return
        at = stop


def without_texts(data: bytes) -> bytes:
    """A PNG file without texts and colour profile: Pillow refuses long ones, though the image is whole."""
    if not data.startswith(PNG_MAGIC):
        return data
    spans = [(start, stop) for kind, start, stop in png_chunks(data) if kind in _PNG_TEXTS]
    return _cut(data, spans)


def pixels_alone(data: bytes) -> bytes | None:
    """A JPEG or PNG file with what its pixels need and nothing else: no EXIF, position, profile, text, further image.

    None for other formats, and for a file that cannot be walked to its end or keeps more where colours are described.
    """
    if data.startswith(PNG_MAGIC):
        chunks = list(png_chunks(data))
        parts = [data[start:stop] for kind, start, stop in chunks if kind in _PNG_PIXELS]
        return PNG_MAGIC + b"".join(parts) if chunks and chunks[-1][0] == b"IEND" else None
    if not data.startswith(JPEG_MAGIC):
        return None
    segments = list(jpeg_segments(data))
    whole = bool(segments) and segments[-1].code == END_OF_IMAGE and not any(code == JUNK for code, _, _ in segments)
    if not whole or not all(_is_plain(segment, data) for segment in segments if segment.code in _COLOUR_SEGMENTS):
        return None
    return data[:2] + b"".join(data[start:stop] for code, start, stop in segments if not _is_metadata(code))


def _is_metadata(code: int) -> bool:
    return code == _COMMENT or (code in _APPLICATION and code not in _COLOUR_SEGMENTS)


def _is_plain(segment: Segment, data: bytes) -> bool:
    """Whether a segment that says how colours are coded is of its fixed length: JFIF's may hold a thumbnail."""
    name, length = _COLOUR_SEGMENTS[segment.code]
    start = segment.start + 2
    return data.startswith(name, start + 2) and segment.stop - start == length


def _cut(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """The data without these spans, which are in order."""
    if not spans:
        return data
    starts = [0, *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), len(data)]
    return b"".join(data[start:stop] for start, stop in zip(starts, stops, strict=True))
