"""Processes that parse bodies and decode images, so that neither holds up the server, and each ends at a deadline.

A parser or decoder that takes too long, takes the memory or crashes costs its own process and one request. They are
started when they are first needed. The paper serves nothing.
"""

from __future__ import annotations

import marshal
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image

from look_again.images import ImageError
from look_again.images.video import Video
from look_again.serving.answer_schema import SchemaError
from look_again.serving.workers import worker_process
from look_again.serving.workers.image_decoding import DecodedFile
from look_again.serving.workers.json_body import BodyError
from look_again.serving.workers.video_decoding import VideoOptions
from look_again.serving.workers.worker_process import receive_bytes, receive_head, rows_per_block, send

PROCESSES = 2
DEADLINE_S = 30.0


class Worker:
    """One process. `call` it from one thread at a time."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {worker_process.__name__} import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal is the server's: requests may end first
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests: Any = self.process.stdin
        self._answers: Any = self.process.stdout

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def call(self, request: tuple[Any, ...], data: bytes, read: Callable[[tuple[Any, ...], BinaryIO], Any]) -> Any:
        """What `read` makes of the answer, a head and the stream. EOFError and OSError where the process ends."""
        send(self._requests, request, data)
        return read(receive_head(self._answers), self._answers)

    def end(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()
        for stream in (self._requests, self._answers):
            with suppress(OSError):  # what was not written yet
                stream.close()


class WorkerPool:
    """Its calls block, and may come from any thread; more than `processes` at a time wait.

    deadline_s: for one call, waiting aside.
    """

    def __init__(self, processes: int = PROCESSES, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self.started = 0  # processes so far
        self._closed = False
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def parse_json(self, raw: bytes, text_characters: int) -> Any:
        """As `parse_body`."""

        def read(head: tuple[Any, ...], stream: BinaryIO) -> Any:
            _check(head, BodyError)
            return marshal.loads(receive_bytes(stream, head[-1]))

        late = BodyError(f"the body took longer than {self.deadline_s:g} s to parse", "request_too_large")
        return self._call(("json", text_characters), raw, read, late)

    def check_schema(self, text: str) -> None:
        """As `validate_schema`; SchemaError also for one that takes too long to check."""

        def read(head: tuple[Any, ...], stream: BinaryIO) -> None:
            _check(head, lambda message, code: SchemaError(message))

        self._call(("schema",), text.encode(), read, _ended("schema"))

    def decode(self, data: bytes, low: bool, max_bytes: int, max_pixels: int) -> DecodedFile:
        """As `decode_file`."""

        def read(head: tuple[Any, ...], stream: BinaryIO) -> DecodedFile:
            _check(head, lambda message, code: ImageError(message))
            _, width, height, pixels, animated, _ = head
            return DecodedFile(_read_image(width, height, stream), pixels, animated)

        late = ImageError(f"the image took longer than {self.deadline_s:g} s to decode: save it again, or smaller")
        return self._call(("image", low, max_bytes, max_pixels), data, read, late)

    def decode_video(self, data: bytes, options: VideoOptions) -> Video:
        """As `video_decoding.decode_video`."""

        def read(head: tuple[Any, ...], stream: BinaryIO) -> Video:
            _check(head, lambda message, code: ImageError(message))
            _, width, height, times, fps, _ = head
            return Video(tuple(_read_image(width, height, stream) for _ in times), times, fps)

        late = ImageError(f"the video took longer than {self.deadline_s:g} s to decode: send a shorter or smaller one")
        return self._call(("video", *options.as_tuple()), data, read, late)

    def close(self) -> None:
        """End the processes that are idle now, and others when they are done."""
        self._closed = True
        for _ in range(self._free.qsize()):
            with suppress(queue.Empty):
                worker = self._free.get_nowait()
                if worker is not None:
                    worker.end()
                self._free.put(None)

    def _call(self, request: tuple[Any, ...], data: bytes, read: Callable[..., Any], late: ValueError) -> Any:
        """The answer to a request. `late` where the deadline ends it."""
        worker, expired = self._take(), threading.Event()

        def expire() -> None:
            expired.set()
            worker.process.kill()

        timer = threading.Timer(self.deadline_s, expire)
        timer.daemon = True
        timer.start()
        try:
            return worker.call(request, data, read)
        except (EOFError, OSError):
            worker.end()
            raise late if expired.is_set() else _ended(request[0]) from None
        finally:
            timer.cancel()
            self._give_back(worker)

    def _take(self) -> Worker:
        """A process of one's own, once there is one."""
        worker = self._free.get()
        if worker is not None and worker.alive:
            return worker
        try:
            self.started += 1
            return Worker()
        except OSError:
            self._free.put(None)
            raise

    def _give_back(self, worker: Worker) -> None:
        if self._closed:
            worker.end()
        self._free.put(worker if worker.alive else None)


def _check(head: tuple[Any, ...], build_error: Callable[[str, str], Exception]) -> None:
    if head[0] == "refused":
        raise build_error(head[1], head[2])


def _ended(task: str) -> ValueError:
    if task == "json":
        return BodyError("the body could not be parsed: its parser ended", "request_too_large")
    if task == "schema":
        return SchemaError("the schema takes too long to check: join fewer patterns (`allOf`, `pattern`)")
    return ImageError(f"the {task} could not be decoded: its decoder ended")


def _read_image(width: int, height: int, stream: BinaryIO) -> Image.Image:
    """An RGB image out of its rows, block by block: its bytes are never there a second time."""
    image, step = Image.new("RGB", (width, height)), rows_per_block(width)
    for top in range(0, height, step):
        size = (width, min(step, height - top))
        image.paste(Image.frombytes("RGB", size, receive_bytes(stream, 3 * size[0] * size[1])), (0, top))
    return image
