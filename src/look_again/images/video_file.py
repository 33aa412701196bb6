"""Untrusted video files in, a few frames out, through PyAV (FFmpeg) alone.

First the packets are counted without decoding anything: how many frames there are, when each is shown and how long the
video is. Bounds are checked on that, then one pass decodes up to the last frame that is wanted and turns only wanted
ones into images. The kind of file is read from its first bytes and said to FFmpeg, which otherwise would also open
playlists, and with them other files and addresses. Sound, texts and metadata are never read; a rotation is applied.
"""

from __future__ import annotations

import bisect
import io
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from look_again.extras import require
from look_again.images.video import (
    FPS,
    LIMITS,
    MAX_FRAMES,
    Video,
    VideoError,
    VideoLimits,
    check_frame_size,
    check_sampling,
    join_frames,
    plan_times,
    scale_frame,
)

VideoSource = str | Path | bytes | Video | Sequence[str | Path | bytes | Image.Image]
VIDEO_KINDS = ("MP4", "MOV", "WebM", "Matroska", "AVI")
SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")

_TRANSPOSED = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class _Timeline:
    """The frames of a file: their presentation times in order, in units of `unit` seconds, and the end of the last."""

    stamps: list[int]
    end: int
    unit: float

    @property
    def duration_s(self) -> float:
        return (self.end - self.stamps[0]) * self.unit

    def frame_s(self, rate: float) -> float:
        """How long a frame is shown, by the frames there are or, where it is longer, by the header's rate."""
        mean = (self.stamps[-1] - self.stamps[0]) * self.unit / max(1, len(self.stamps) - 1)
        return max(mean, 1 / rate if rate > 0 else 0.0)

    def frame_at(self, time_s: float) -> int:
        """The stamp of the frame that is shown at a time."""
        place = bisect.bisect_right(self.stamps, self.stamps[0] + (time_s + 1e-6) / self.unit)
        return self.stamps[max(0, place - 1)]


def load_video(
    source: VideoSource, *, fps: float = FPS, max_frames: int = MAX_FRAMES, limits: VideoLimits = LIMITS
) -> Video:
    """The frames of a video file (a path or its bytes), or of a list of images, `fps` of them per second.

    Of a longer video than `max_frames` frames take, as many are taken evenly over all of it. A `Video` is returned as
    it is. Raises MissingExtraError without PyAV, ValueError for a rate or number that makes no sense, and VideoError
    for a file that cannot be read, is no video of `VIDEO_KINDS`, is truncated or damaged, has no frames, or is beyond
    the limits.
    """
    if isinstance(source, Video):
        return source
    check_sampling(fps, max_frames)
    if isinstance(source, list | tuple):
        return join_frames(source, fps, max_frames)
    if not isinstance(source, str | Path | bytes):
        raise VideoError(f"a video is a path, bytes or a list of images, not {type(source).__name__}")
    require("av", extra="video")
    with _open_source(source, limits) as (file, name):
        return _read(file, name, fps, max_frames, limits)


def is_video(data: bytes) -> bool:
    """Whether a file begins as a video of `VIDEO_KINDS` does."""
    return _find_format(data[:64]) is not None


def _read(file: Any, name: str, fps: float, max_frames: int, limits: VideoLimits) -> Video:
    format = _find_format(file.read(64))
    if format is None:
        raise VideoError(f"{name} is not a video in a format read here: {', '.join(VIDEO_KINDS)}")
    timeline = _scan(file, format, name, limits)
    times, rate = plan_times(timeline.duration_s, fps, max_frames)
    stamps = [timeline.frame_at(time) for time in times]
    images = _decode(file, format, name, set(stamps), limits)
    shown = tuple((stamp - timeline.stamps[0]) * timeline.unit for stamp in stamps)
    return Video(tuple(images[stamp] for stamp in stamps), shown, rate)


@contextmanager
def _open_source(source: str | Path | bytes, limits: VideoLimits) -> Iterator[tuple[Any, str]]:
    """The file and what messages call it."""
    if isinstance(source, bytes):
        name = f"video data ({len(source)} bytes)"
        _check_bytes(len(source), limits, name)
        yield io.BytesIO(source), name
        return
    name = f"video file {str(source)[:500]!r}"
    try:
        status = Path(source).stat()
        if stat.S_ISREG(status.st_mode):
            _check_bytes(status.st_size, limits, name)
            with Path(source).open("rb") as file:
                yield file, name
                return
    except FileNotFoundError:
        raise VideoError(f"{name}: no such file") from None
    except VideoError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise VideoError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise VideoError(f"{name} is a {'directory' if stat.S_ISDIR(status.st_mode) else 'device'}, not a video")


def _check_bytes(size: int, limits: VideoLimits, name: str) -> None:
    if size == 0:
        raise VideoError(f"{name} is empty")
    if size > limits.bytes:
        raise VideoError(f"{name} has {size} bytes, more than {limits.bytes}")


def _find_format(beginning: bytes) -> str | None:
    """FFmpeg's name of a file's format, from its first bytes."""
    if beginning[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "mov"
    if beginning.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if beginning[:4] == b"RIFF" and beginning[8:12] == b"AVI " else None


@contextmanager
def _container(file: Any, format: str, name: str, limits: VideoLimits) -> Iterator[tuple[Any, Any]]:
    """The open container and its video stream. Whatever FFmpeg says of the file while it is open is a VideoError."""
    import av

    file.seek(0)
    try:
        options = {"enable_drefs": "0"}
        with av.open(file, "r", format=format, options=options, metadata_errors="ignore") as container:
            stream = next(iter(container.streams.video), None)
            if not len(container.streams):
                raise VideoError(f"{name} is truncated or damaged: nothing in it can be read")
            if stream is None:
                raise VideoError(f"{name} has no frames: there is no video in it")
            if stream.codec_context is None:
                raise VideoError(f"{name} is in a codec that is not known here: save it as H.264, VP9 or AV1")
            stream.codec_context.options = {"max_pixels": str(2 * limits.pixels)}  # FFmpeg rounds sides up
            yield container, stream
    except (av.error.FFmpegError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{name} is truncated or damaged: {reason}") from error


def _scan(file: Any, format: str, name: str, limits: VideoLimits) -> _Timeline:
    """What there is, from the packets alone. VideoError for nothing, for part of a video, and beyond the limits."""
    with _container(file, format, name, limits) as (container, stream):
        check_frame_size((stream.codec_context.width, stream.codec_context.height), limits.pixels, name)
        unit = float(stream.time_base or 0)
        declared_s = (container.duration or 0) / 1e6
        _check_duration(float(stream.duration or 0) * unit, limits, name)
        stamps, end, last_s = [], 0, 0.0
        for packet in container.demux():
            stop = (packet.pts or 0) + (packet.duration or 0)
            last_s = max(last_s, stop * float(packet.time_base or 0))
            if packet.stream_index != stream.index or packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt or packet.pts is None:
                raise VideoError(f"{name} is truncated or damaged: a frame has no time or is cut off")
            stamps.append(packet.pts)
            end = max(end, stop)
            if len(stamps) > limits.stored_frames:
                raise VideoError(f"{name} has more than {limits.stored_frames} frames")
        if not stamps or unit <= 0:
            raise VideoError(f"{name} has no frames")
        timeline = _Timeline(sorted(stamps), max(end, max(stamps) + 1), unit)
        _check_duration(timeline.duration_s, limits, name)
        _check_whole(timeline, stream, last_s, declared_s, name)
        return timeline


def _check_duration(seconds: float, limits: VideoLimits, name: str) -> None:
    if seconds > limits.duration_s:
        raise VideoError(
            f"{name} is {seconds:.1f} s long, more than {limits.duration_s:g} s: cut it, or raise the bound"
        )


def _check_whole(timeline: _Timeline, stream: Any, last_s: float, declared_s: float, name: str) -> None:
    """VideoError where the header tells of more than there is: a tenth of the frames or of the time.

    Of a short video two frames may be missing: not every writer says how long the last one is shown. last_s: the end of
    the last packet of any kind, since the header's time is that of picture and sound together.
    """
    frames, declared_frames = len(timeline.stamps), stream.frames
    slack_s = max(0.1 * declared_s, 2 * timeline.frame_s(float(stream.average_rate or 0)))
    if frames < 0.9 * declared_frames or last_s < declared_s - slack_s:
        raise VideoError(
            f"{name} is truncated: it holds {frames} frames and {last_s:.1f} s, its header tells of "
            f"{declared_frames or 'more'} and {declared_s:.1f} s"
        )


def _decode(file: Any, format: str, name: str, wanted: set[int], limits: VideoLimits) -> dict[int, Image.Image]:
    """The wanted frames by their stamps, upright and scaled down."""
    images: dict[int, Image.Image] = {}
    with _container(file, format, name, limits) as (container, stream):
        for frame in container.decode(stream):
            if frame.pts in wanted and frame.pts not in images:
                check_frame_size((frame.width, frame.height), limits.pixels, name)
                images[frame.pts] = _upright(frame)
            if len(images) == len(wanted):
                break
    if len(images) < len(wanted):
        raise VideoError(f"{name} is truncated or damaged: {len(wanted) - len(images)} frames cannot be decoded")
    sizes = {image.size for image in images.values()}
    if len(sizes) > 1:
        raise VideoError(f"{name} changes its size while it runs, which is not supported")
    return images


def _upright(frame: Any) -> Image.Image:
    """A frame as a new RGB image, turned as its display matrix says."""
    turn = _TRANSPOSED.get(round(frame.rotation) % 360)
    image = scale_frame(frame.to_image())
    return image if turn is None else image.transpose(turn)
