"""The server's process: what it logs, and above all what it does not."""

from __future__ import annotations

import asyncio
import io
import logging

import httpx
import pytest
from PIL import Image

from look_again.images import load_image
from look_again.serving.http.image_fetching import ImageFetcher
from look_again.serving.http.image_parts import ImageReference
from look_again.serving.http.server_process import log_to_stderr
from tests.serving.http.served import encoded_image


@pytest.fixture
def levels():
    """The levels of all loggers, put back afterwards."""
    loggers = [logging.getLogger(name) for name in (None, "httpx", "httpcore", "PIL")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def fetch(url: str) -> bytes:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    async def go() -> bytes:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=httpx.ByteStream(encoded_image())))
        fetcher = ImageFetcher(["example.org"], max_bytes=10**6, timeout_s=5, resolve=resolve, transport=transport)
        try:
            return await fetcher.fetch(ImageReference(url, False, "here"))
        finally:
            await fetcher.close()

    return asyncio.run(go())


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_address_and_no_tag_of_an_image_is_logged(level, levels, caplog):
    """httpx logged `?token=...` at info, Pillow where a photo was taken at debug."""
    photo, file = Image.new("RGB", (20, 10)), io.BytesIO()
    tags = photo.getexif()
    tags[0x010E] = "taken at home"
    photo.save(file, "TIFF", tiffinfo=tags)
    plain = io.BytesIO()
    photo.save(plain, "JPEG", exif=tags)
    logging.getLogger().setLevel(level.upper())
    log_to_stderr(level)
    fetch("https://example.org/a.png?token=secret")
    load_image(plain.getvalue())
    with Image.open(file) as opened:
        opened.load()
    assert "secret" not in caplog.text
    assert "home" not in caplog.text
