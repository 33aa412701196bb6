"""A request's video file as frames, in a worker's process; what crosses between the processes is plain values and rows.

The paper serves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from look_again.images.video import Video, VideoLimits
from look_again.images.video_file import load_video


@dataclass(frozen=True)
class VideoOptions:
    """How a request's video is read. fps, max_frames: as of `load_video`. The rest bounds the file."""

    fps: float
    max_frames: int
    bytes: int
    duration_s: float
    frame_pixels: int

    def as_tuple(self) -> tuple[Any, ...]:
        return self.fps, self.max_frames, self.bytes, self.duration_s, self.frame_pixels


def decode_video(data: bytes, options: VideoOptions) -> Video:
    """Decode a video file. VideoError for anything that is not one, or beyond the bounds."""
    limits = VideoLimits(bytes=options.bytes, pixels=options.frame_pixels, duration_s=options.duration_s)
    return load_video(data, fps=options.fps, max_frames=options.max_frames, limits=limits)
