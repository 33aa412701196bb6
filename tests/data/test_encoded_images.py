"""Images as files for endpoints: formats that they read, and no more pixels than they may have."""

from __future__ import annotations

from look_again.data.encoded_images import sendable
from look_again.data.image_files import open_image


def test_pictures_are_sent_in_formats_that_endpoints_read(encoded):
    assert sendable(encoded(format="JPEG"))[0] == "image/jpeg"
    assert sendable(encoded(format="BMP"))[0] == "image/png"
    kind, data = sendable(encoded(40, 20), max_pixels=200)
    assert kind == "image/png"
    assert open_image(data).size == (20, 10)
