"""Small requests that would cause much work: while one runs the server answers its health check and other requests."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from look_again.serving.http.body import MAX_VALUES, count_nested
from tests.serving.http.served import FakeBackend, body, image_part, running

SOON_S = 0.5


def nest(opening: bytes, closing: bytes, count: int) -> bytes:
    pair = opening + closing
    return b'{"model": "fake", "messages": [' + b",".join([pair] * count) + b"]}"


def jpeg_of_many_scans(scans: int = 700, side: int = 1500) -> bytes:
    """A progressive JPEG with many further scans, without data: each is decoded over the whole image."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 20).convert("RGB").save(buffer, "JPEG", progressive=True, quality=10)
    data = buffer.getvalue()
    last = data.rfind(b"\xff\xda")
    header = data[last : last + 2 + int.from_bytes(data[last + 2 : last + 4])]
    return data[:-2] + header * scans + b"\xff\xd9"


def gif_of_many_frames(frames: int = 300) -> bytes:
    first, *rest = (Image.new("RGB", (1000, 1000), (number % 256, 0, 0)) for number in range(frames))
    return encode(first, "GIF", save_all=True, append_images=rest)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def post_image(*images: bytes) -> bytes:
    return httpx.Request("POST", "http://x", json=body(*map(image_part, images), "What is shown?")).content


TEXT = b'{"model": "fake", "messages": [{"role": "user", "content": "'
BOMBS: dict[str, Any] = {
    "nested lists": nest(b"[", b"]", 7_000_000),
    "nested objects": nest(b"{", b"}", 7_000_000),
    "deep nesting": b"[" * 20_000_000,
    "brackets in a text": TEXT + b"[{" * 400_000 + b'"}]}',
    "escapes in a text": b'{"model": "fake", "messages": [{"role": "user", "content": "'
    + b"\\u005b" * 160_000
    + b'"}]}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_health_and_other_requests_are_answered_meanwhile(name):
    """A body of 23 MB of empty lists stopped the event loop for 28 s, a JPEG of 161 KB all answers for 155 s."""
    bomb = BOMBS[name]() if callable(BOMBS[name]) else BOMBS[name]
    with running(FakeBackend()) as server, ThreadPoolExecutor(8) as pool, httpx.Client(base_url=server.base) as client:
        sent = threading.Thread(
            target=httpx.post,
            args=[f"{server.base}/v1/chat/completions"],
            kwargs={"content": bomb, "headers": {"content-type": "application/json"}, "timeout": 120},
        )
        client.get("/health")
        sent.start()
        others = [pool.submit(server.post, body("Hi")) for _ in range(20)]
        slowest = 0.0
        while sent.is_alive() or not all(other.done() for other in others):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.02)
        assert [other.result().status_code for other in others] == [200] * 20
        print(f"\n{name}: {len(bomb) / 1e6:.1f} MB, slowest health check {slowest:.3f} s")
        assert slowest < SOON_S


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (b'{"a": [1, {}], "b": "[[[{{{"}', 3),
        (b'"\\"[" , [', 1),
        (b'{"\\\\": [[', 3),
        (b'[["' + b"x" * 10, 2),
        (b"", 0),
    ],
)
def test_brackets_are_counted_outside_of_texts(raw, count):
    assert count_nested(raw) == count


def test_as_many_values_as_ever_are_taken():
    assert count_nested(b"[" * MAX_VALUES) == MAX_VALUES
