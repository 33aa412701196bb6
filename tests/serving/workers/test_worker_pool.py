"""Untrusted bytes in processes of their own: the same results, the same errors, and an end at the deadline."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time

import pytest
from PIL import Image

from look_again.images import ImageError
from look_again.images.video_writing import encode_video
from look_again.serving.answer_schema import SchemaError
from look_again.serving.workers.image_decoding import decode_file
from look_again.serving.workers.json_body import MAX_VALUES, BodyError, parse_body
from look_again.serving.workers.video_decoding import VideoOptions
from look_again.serving.workers.worker_pool import WorkerPool
from tests.serving.http.bombs import joined_patterns

BOUND = 10**8


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(1)
    yield pool
    pool.close()


@pytest.mark.parametrize("size", [(1, 1), (60, 40), (3, 500), (2500, 1700)])
@pytest.mark.parametrize("low", [False, True])
def test_images_are_those_that_are_decoded_here(pool, size, low):
    """Would catch rows that are lost or twice there where an image is sent in several blocks."""
    data = encode(Image.effect_noise(size, 90).convert("RGB"))
    theirs, ours = pool.decode(data, low, BOUND, BOUND), decode_file(data, low, BOUND, BOUND)
    assert (theirs.pixels, theirs.animated) == (ours.pixels, ours.animated)
    assert (theirs.image.mode, theirs.image.size) == (ours.image.mode, ours.image.size)
    assert theirs.image.tobytes() == ours.image.tobytes()


def test_animations_are_told(pool):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    moving = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pool.decode(moving, False, BOUND, BOUND).animated


@pytest.mark.parametrize("data", [b"", b"none", encode(Image.new("RGB", (50, 50)))[:-30], b"\xff\xd8\xff\xe0" * 9])
def test_errors_are_those_of_decoding_here(pool, data):
    messages = []
    for decode in (pool.decode, decode_file):
        with pytest.raises(ImageError) as refused:
            decode(data, False, BOUND, BOUND)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


VALUES = [
    None,
    [True, -1, 2**70, 1.5, "", "é\u202e\x00", "\U0001f600"],
    {"a": {"b": [[[]]]}, "": '\n"\\'},
    "x" * 3_000_000,
]


@pytest.mark.parametrize("value", VALUES, ids=["null", "scalars", "nested", "long"])
def test_bodies_are_those_that_are_parsed_here(pool, value):
    raw = json.dumps(value).encode()
    assert pool.parse_json(raw, 1000) == parse_body(raw, 1000) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"NaN",
        b'"\\ud800"',
        b"9" * 5000,
        b"[" * 100_000,
        b"[" * 15_000 + b"]" * 15_000,
        b"[" + b"1," * MAX_VALUES + b"1]",
        b"[" + b"[]," * MAX_VALUES + b"1]",
    ],
)
def test_errors_are_those_of_parsing_here(pool, raw):
    told = []
    for parse in (pool.parse_json, parse_body):
        with pytest.raises(BodyError) as refused:
            parse(raw, 1000)
        told.append((str(refused.value), refused.value.code))
    assert told[0] == told[1]


def test_a_deadline_ends_the_process_and_the_next_call_has_another():
    """Would catch a decoder that goes on for minutes, and a pool that is one process short ever after."""
    pool = WorkerPool(1)
    small = encode(Image.new("RGB", (60, 40)))
    pool.decode(small, False, BOUND, BOUND)
    large = encode(Image.effect_noise((4000, 4000), 90).convert("RGB"), compress_level=1)
    pool.deadline_s = 0.05
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"took longer than 0\.05 s to decode"):
        pool.decode(large, False, BOUND, BOUND)
    with pytest.raises(BodyError, match=r"took longer than 0\.05 s to parse"):
        pool.parse_json(b'"' + b"\\n" * 30_000_000 + b'"', BOUND)
    assert time.monotonic() - began < 20
    pool.deadline_s = 30
    assert pool.decode(small, False, BOUND, BOUND).image.size == (60, 40)
    pool.close()


def test_a_process_that_was_killed_is_replaced():
    """As the kernel does where memory runs out, between two calls and within one."""
    pool = WorkerPool(1)
    assert pool.parse_json(b"1", 10) == 1
    worker = pool._free.get()
    pool._free.put(worker)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert pool.parse_json(b"2", 10) == 2
    worker = pool._free.get()
    pool._free.put(worker)
    os.kill(worker.process.pid, signal.SIGSTOP)
    threading.Timer(0.3, worker.process.kill).start()
    with pytest.raises(BodyError, match="its parser ended"):
        pool.parse_json(b"3", 10)
    assert pool.parse_json(b"4", 10) == 4
    assert pool.started == 3
    pool.close()


def test_closing_ends_the_processes():
    pool = WorkerPool(2)
    assert pool.parse_json(b"1", 10) == 1
    worker = pool._free.get()
    pool._free.put(worker)
    pool.close()
    assert worker.process.returncode is not None


def test_calls_at_once_take_a_process_each(pool):
    several, found = WorkerPool(2), []
    threads = [
        threading.Thread(target=lambda n=number: found.append((n, several.parse_json(b"%d" % n, 10))))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(number, number) for number in range(8)]
    assert several.started <= 2
    several.close()


def test_a_worker_loads_no_model():
    """Would catch seconds and hundreds of megabytes for every process."""
    import subprocess
    import sys

    code = (
        "import sys, look_again.serving.workers.worker_process; print({'torch', 'transformers'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_a_schema_is_checked_for_a_bounded_time(pool):
    """Whether patterns that are joined leave anything takes llguidance hours for 2 KB of them."""
    pool.check_schema(json.dumps({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$"}}}))
    with pytest.raises(SchemaError, match="cannot be followed"):
        pool.check_schema(json.dumps({"type": "nothing"}))
    with pytest.raises(SchemaError, match="takes too long to check"):
        pool.check_schema(json.dumps(joined_patterns(20)))
    pool.check_schema(json.dumps({"type": "string"}))


def test_the_time_of_earlier_checks_does_not_count(pool):
    """Would catch a limit that goes on running: decoding afterwards would end the process."""
    started = pool.started
    with pytest.raises(SchemaError, match="cannot be followed"):
        pool.check_schema(json.dumps(joined_patterns(6)))
    body = json.dumps(["é" * 4_000_000]).encode()
    for _ in range(20):  # more than a second of the worker's
        pool.parse_json(body, BOUND)
    assert pool.started == started


@pytest.mark.parametrize(("change", "said"), [((b"avc1", b"zzzz"), "a codec that is not known"), (None, "is empty")])
def test_a_video_that_cannot_be_read_is_refused_by_its_reason(pool, change, said):
    """Would catch a decoder that ends instead of answering: the next request would wait for another."""
    pytest.importorskip("av")
    data = b"" if change is None else encode_video([Image.new("RGB", (64, 48))] * 4, 4).replace(*change)
    pool.decode(encode(Image.new("RGB", (2, 2))), False, BOUND, BOUND)  # there is a process
    started = pool.started
    with pytest.raises(ImageError, match=said):
        pool.decode_video(data, VideoOptions(2.0, 8, BOUND, 60.0, BOUND))
    pool.decode(encode(Image.new("RGB", (2, 2))), False, BOUND, BOUND)
    assert pool.started == started
