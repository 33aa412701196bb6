"""Video files: which frames are taken and when, what is refused before anything is decoded, and what leaves no trace.

Each error is one sentence that names the file; files are made on the spot by the library that reads them.
"""

from __future__ import annotations

import builtins
import io
import struct

import numpy as np
import pytest
from PIL import Image

from look_again.extras import MissingExtraError
from look_again.images import ImageError
from look_again.images.video import FRAME_PIXELS, Video, VideoLimits, join_frames, plan_times
from look_again.images.video_file import VideoError, is_video, load_video
from look_again.images.video_writing import encode_video

pytest.importorskip("av")


def grey(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    """Frame i is grey of level 20 i."""
    return [Image.new("RGB", size, (20 * i,) * 3) for i in range(count)]


def levels(video: Video) -> list[int]:
    """Which frame of `grey` each frame shows."""
    return [round(float(np.asarray(frame).mean()) / 20) for frame in video.frames]


@pytest.fixture(scope="module", params=[".mp4", ".webm"])
def ten(request) -> bytes:
    """Ten frames, five a second."""
    return encode_video(grey(10), 5, request.param)


def test_frames_are_those_shown_at_multiples_of_the_rate(ten):
    """At 0, 0.5, 1.0 and 1.5 s frames 0, 2, 5 and 7 are on the screen: would catch counting frames instead of time."""
    video = load_video(ten, fps=2)
    assert levels(video) == [0, 2, 5, 7]
    assert video.times == pytest.approx((0.0, 0.4, 1.0, 1.4))
    assert video.fps == 2


@pytest.mark.parametrize(("fps", "max_frames", "shown"), [(5, 64, list(range(10))), (1, 64, [0, 5]), (5, 3, [0, 3, 6])])
def test_rate_and_bound_choose_evenly(ten, fps, max_frames, shown):
    video = load_video(ten, fps=fps, max_frames=max_frames)
    assert levels(video) == shown
    assert video.fps == pytest.approx(min(fps, max_frames / 2))


def test_a_higher_rate_than_the_files_repeats_frames(ten):
    assert levels(load_video(ten, fps=10))[:6] == [0, 0, 1, 1, 2, 2]


def test_a_video_of_one_frame():
    assert levels(load_video(encode_video(grey(1), 1), fps=0.1)) == [0]


def test_plan_by_hand():
    assert plan_times(2.0, 2.0, 64) == ([0.0, 0.5, 1.0, 1.5], 2.0)
    assert plan_times(0.01, 2.0, 64) == ([0.0], 2.0)
    assert plan_times(100.0, 2.0, 4) == ([0.0, 25.0, 50.0, 75.0], 0.04)


def test_frames_are_scaled_down_when_taken():
    frame = load_video(encode_video(grey(2, (1280, 720)), 2)).frames[0]
    assert frame.width * frame.height <= FRAME_PIXELS
    assert abs(frame.width / frame.height - 16 / 9) < 0.01


def test_a_rotation_is_applied_and_metadata_is_dropped():
    """A phone held upright stores frames lying down and a matrix that turns them clockwise."""
    lying = Image.new("RGB", (64, 48), "black")
    lying.paste("white", (0, 0, 32, 24))  # top left; turned clockwise it is top right
    data = bytearray(encode_video([lying] * 4, 2))
    at = data.index(b"tkhd") + 44  # the matrix of the track's header, version 0
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    frame = load_video(bytes(data)).frames[0]
    assert frame.size == (48, 64)
    assert frame.getpixel((40, 10))[0] > 200 > 50 > frame.getpixel((8, 10))[0]
    assert frame.info == {}


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"duration_s": 1}, "is 2.0 s long, more than 1 s"),
        ({"pixels": 100}, "64 x 48 pixels, more than 100 pixels"),
        ({"stored_frames": 3}, "more than 3 frames"),
        ({"bytes": 10}, "bytes, more than 10"),
    ],
)
def test_bounds_are_checked_before_anything_is_decoded(ten, bound, said, monkeypatch):
    from look_again.images import video_file

    monkeypatch.setattr(video_file, "_decode", lambda *args: pytest.fail("frames were decoded"))
    with pytest.raises(VideoError, match=said):
        load_video(ten, limits=VideoLimits(**bound))


def test_truncated_files_say_so(ten):
    """Every cut in the first two thirds of the file; a cut that loses nothing of the frames may pass."""
    for kept in range(16, len(ten) * 2 // 3, len(ten) // 12):
        with pytest.raises(VideoError, match=r"truncated or damaged|is truncated|no frames"):
            load_video(ten[:kept], fps=5)


def test_damaged_frames_say_so():
    noise = np.random.default_rng(0).integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
    data = bytearray(encode_video([Image.fromarray(frame) for frame in noise], 4))
    start = data.index(b"mdat") + 200
    data[start : start + 3000] = b"\x55" * 3000
    with pytest.raises(VideoError, match="truncated or damaged"):
        load_video(bytes(data), fps=4)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "is empty"),
        (b"hello" * 30, "not a video in a format read here: MP4"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a video in a format"),
        (b"\x1a\x45\xdf\xa3" + b"x" * 100, "truncated or damaged"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 200, "truncated or damaged"),
        ("nowhere.mp4", "'nowhere.mp4': no such file"),
        ("/", "is a directory, not a video"),
        ("/dev/null", "is a device, not a video"),
        ("a\0b.mp4", "cannot be read"),
        (3, "a video is a path, bytes or a list of images, not int"),
        ([], "at least one frame"),
    ],
)
def test_what_is_no_video_gets_one_sentence(source, said):
    with pytest.raises(VideoError, match=said) as error:
        load_video(source)
    assert "\n" not in str(error.value)


def test_a_sound_file_has_no_frames(tmp_path):
    import io

    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no frames: there is no video in it"):
        load_video(file.getvalue())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e9])
def test_rates_that_make_no_sense(ten, fps):
    with pytest.raises(ValueError, match="fps is a number of frames per second"):
        load_video(ten, fps=fps)
    with pytest.raises(ValueError, match="max_frames is at least 1"):
        load_video(ten, max_frames=0)


def test_a_list_of_images_is_a_video(tmp_path):
    frames = grey(3)
    frames[1].save(tmp_path / "b.png")
    video = load_video([frames[0], str(tmp_path / "b.png"), frames[2]], fps=4)
    assert levels(video) == [0, 1, 2]
    assert (video.times, video.fps) == ((0.0, 0.25, 0.5), 4)
    assert load_video(video) is video


def test_lists_that_make_no_video():
    with pytest.raises(VideoError, match="has 3 frames, more than max_frames=2"):
        join_frames(grey(3), max_frames=2)
    with pytest.raises(VideoError, match="have one size; these have 10 x 10, 64 x 48"):
        join_frames([*grey(1), Image.new("RGB", (10, 10))])
    with pytest.raises(ImageError, match="no such file"):
        join_frames(["nowhere.png"])


def test_a_path_reads_as_its_bytes_do(tmp_path, ten):
    path = tmp_path / "clip"
    path.write_bytes(ten)
    assert levels(load_video(path)) == levels(load_video(str(path))) == [0, 2, 5, 7]


def test_what_a_video_begins_like(ten):
    assert is_video(ten)
    assert not is_video(b"\x89PNG\r\n\x1a\n")
    assert not is_video(b"")


def test_the_extra_is_named(monkeypatch, ten):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *args: None if name == "av" else builtins.object())
    with pytest.raises(MissingExtraError, match=r"look-again-vlm\[video\]"):
        load_video(ten)


def test_texts_of_a_file_in_another_encoding_are_passed_over():
    """Would catch a phone's title in Latin-1 that makes its video unreadable: texts are never shown."""
    data = encode_video(grey(4), 4)
    assert b"VideoHandler" in data
    assert levels(load_video(data.replace(b"VideoHandler", b"Vid\xe9oHandler"), fps=4)) == [0, 1, 2, 3]


def test_a_codec_that_is_not_known_is_told():
    data = encode_video(grey(4), 4)
    with pytest.raises(VideoError, match="is in a codec that is not known here"):
        load_video(data.replace(b"avc1", b"zzzz"))


def encode_noise(frames: int, rate: int, format: str) -> bytes:
    """Frames that do not compress, so that a cut of the file is a cut of the frames."""
    import av

    codec, random, file = "libvpx" if format == "webm" else "mpeg4", np.random.default_rng(0), io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
        for _ in range(frames):
            noise = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("format", ["webm", "matroska", "mp4", "mov", "avi"])
@pytest.mark.parametrize(("frames", "rate"), [(1, 1), (2, 25), (8, 8), (30, 25)])
def test_short_videos_are_whole_or_refused(format: str, frames: int, rate: int):
    """Would catch half a second of allowance, of which a clip of one second is half; and whole clips that are refused
    because nothing says how long their last frame is shown.
    """
    data = encode_noise(frames, rate, format)
    assert len(load_video(data, fps=rate).frames) == frames
    if frames > 2:
        with pytest.raises(VideoError, match="truncated"):
            load_video(data[: len(data) * 6 // 10], fps=rate)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: load_video(grey(2), fps="2"), "fps is a number of frames per second from 0.001 to 1000, not '2'"),
        (lambda: load_video(grey(2), max_frames=2.5), "max_frames is at least 1 and a whole number, not 2.5"),
        (lambda: Video(tuple(grey(2)), (0.0, float("nan")), 2.0), "the times of a video are finite numbers"),
        (lambda: Video((np.zeros((4, 4, 3)),), (0.0,), 2.0), "the frames of a video are PIL images"),
    ],
)
def test_what_makes_no_video_is_told(build, said):
    with pytest.raises(ValueError, match=said):
        build()
