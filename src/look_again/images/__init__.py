"""Image and video files: what a file is made of, and the one way from a file to pixels."""

from __future__ import annotations

from look_again.images.reading import (
    FORMATS,
    MAX_ASPECT_RATIO,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    ImageError,
    data_url,
    decode_base64,
    encode,
    encoded_data_url,
    is_data_url,
    load_image,
    shareable,
    split_data_url,
)

__all__ = [
    "FORMATS",
    "MAX_ASPECT_RATIO",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SCANS",
    "ImageError",
    "data_url",
    "decode_base64",
    "encode",
    "encoded_data_url",
    "is_data_url",
    "load_image",
    "shareable",
    "split_data_url",
]
