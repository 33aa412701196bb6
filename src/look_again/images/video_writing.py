"""Frames as a video file, for clips that are drawn here and for tests; through PyAV, as reading is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from look_again.extras import require

_CODECS = {  # by suffix: container, codec, options. Nearly lossless, one thread: the same bytes on every run.
    ".mp4": ("mp4", "libx264", {"crf": "6", "preset": "fast", "threads": "1"}),
    ".webm": ("webm", "libvpx-vp9", {"crf": "8", "b:v": "0", "threads": "1", "cpu-used": "5"}),
}


def encode_video(frames: Sequence[Image.Image], fps: float, suffix: str = ".mp4") -> bytes:
    """The file of frames of one size with even sides, `fps` of them per second.

    ValueError for no frames, sides that differ or are odd, and a suffix that is neither .mp4 nor .webm.
    """
    require("av", extra="video")
    import av

    if suffix not in _CODECS:
        raise ValueError(f"a video is written as {' or '.join(_CODECS)}, not {suffix!r}")
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1 or any(side % 2 for size in sizes for side in size):
        raise ValueError(f"the frames of a video have one size with even sides, not {sorted(sizes)}")
    format, codec, options = _CODECS[suffix]
    file = io.BytesIO()
    with av.open(file, "w", format=format, options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        (stream.width, stream.height), stream.pix_fmt = sizes.pop(), "yuv420p"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def write_video(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write frames to a file. ValueError as `encode_video` raises it."""
    path.write_bytes(encode_video(frames, fps, path.suffix))
