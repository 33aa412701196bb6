"""The process of a worker: requests on standard input, answers on standard output, until its input ends.

A message is a head (a marshalled tuple, whose last value is the length of what follows) and bytes. Both sides are one
installation. The paper serves nothing.
"""

from __future__ import annotations

import marshal
import os
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image

from look_again.images import ImageError
from look_again.serving.answer_schema import SchemaError, validate_schema
from look_again.serving.workers.image_decoding import decode_file
from look_again.serving.workers.json_body import BodyError, parse_body, too_deep
from look_again.serving.workers.video_decoding import VideoOptions, decode_video

Head = tuple[Any, ...]
BLOCK_BYTES = 2**22
SCHEMA_S = 1.0  # of processor time to check a schema: those that people write take a hundredth
NICE = 5  # what the server itself does comes first
_LENGTH = struct.Struct(">I")


def send(stream: BinaryIO, head: Head, data: bytes = b"") -> None:
    """Write a message."""
    packed = marshal.dumps((*head, len(data)))
    stream.write(_LENGTH.pack(len(packed)) + packed)
    stream.write(data)
    stream.flush()


def receive_head(stream: BinaryIO) -> Head:
    """The head of the next message. EOFError where there is none."""
    (length,) = _LENGTH.unpack(receive_bytes(stream, _LENGTH.size))
    head: Head = marshal.loads(receive_bytes(stream, length))
    return head


def receive_bytes(stream: BinaryIO, count: int) -> bytes:
    """So many bytes. EOFError where fewer come."""
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def rows_per_block(width: int) -> int:
    """Rows of an RGB image that are sent at once."""
    return max(1, BLOCK_BYTES // (3 * width))


def _parse(data: bytes, stream: BinaryIO, text_characters: int) -> None:
    value = parse_body(data, text_characters)
    try:
        packed = marshal.dumps(value)
    except ValueError:  # deeper than it goes
        raise too_deep() from None
    send(stream, ("done",), packed)


def _decode(data: bytes, stream: BinaryIO, low: bool, max_bytes: int, max_pixels: int) -> None:
    decoded = decode_file(data, low, max_bytes, max_pixels)
    image: Image.Image = decoded.image
    width, height = image.size
    send(stream, ("done", width, height, decoded.pixels, decoded.animated))
    step = rows_per_block(width)
    for top in range(0, height, step):
        stream.write(image.crop((0, top, width, min(height, top + step))).tobytes())
    stream.flush()


def _decode_video(data: bytes, stream: BinaryIO, *options: Any) -> None:
    video = decode_video(data, VideoOptions(*options))
    send(stream, ("done", *video.size, video.times, video.fps))
    for frame in video.frames:
        stream.write(frame.tobytes())
    stream.flush()


def _check_schema(data: bytes, stream: BinaryIO) -> None:
    import llguidance  # noqa: F401 - before the time is counted

    _limit_processor_time(SCHEMA_S)
    try:
        validate_schema(data.decode())
    finally:
        _limit_processor_time(0)
    send(stream, ("done",))


def _limit_processor_time(seconds: float) -> None:
    """End this process once it computed for so long; 0 takes that back. Waiting for a processor does not count."""
    if hasattr(signal, "setitimer"):  # elsewhere the pool's deadline ends it
        signal.setitimer(signal.ITIMER_PROF, seconds)


TASKS: dict[str, Callable[..., None]] = {
    "json": _parse,
    "image": _decode,
    "video": _decode_video,
    "schema": _check_schema,
}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while True:
        try:
            name, *options, length = receive_head(requests)
            data = receive_bytes(requests, length)
        except EOFError:
            return
        try:
            TASKS[name](data, answers, *options)
        except BodyError as error:
            send(answers, ("refused", str(error), error.code))
        except SchemaError as error:
            send(answers, ("refused", str(error), "invalid_schema"))
        except ImageError as error:
            send(answers, ("refused", str(error), "invalid_image"))


def main() -> None:
    """Run until the server goes."""
    os.nice(NICE)
    answers = os.fdopen(os.dup(1), "wb", BLOCK_BYTES)
    os.dup2(2, 1)  # whatever a library prints is no answer
    with suppress(BrokenPipeError, KeyboardInterrupt):
        serve(sys.stdin.buffer, answers)
