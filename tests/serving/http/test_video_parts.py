"""Videos in requests: files as data URLs and lists of images, decoded in a process of their own and within bounds."""

from __future__ import annotations

import importlib.util

import openai
import pytest
from PIL import Image

from look_again.images.video import Video
from look_again.images.video_file import load_video
from look_again.images.video_writing import encode_video
from look_again.loading import load_checkpoint
from look_again.model import LookAgain, Sampling
from look_again.serving.backend import Job, RefusedError
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.http.limits import Limits
from look_again.serving.vllm.vllm_backend import VllmBackend
from look_again.tabletop.clips.moves import make_clip
from tests.serving.http.served import FakeBackend, body, data_url, encoded_image, image_part, running

pytest.importorskip("av")

LIMITS = Limits(grace_s=1, video_bytes=200_000, video_s=10, video_frames=6, pixels=100_000)


def clip(count: int = 8, fps: float = 4, size: tuple[int, int] = (64, 48), suffix: str = ".mp4") -> bytes:
    return encode_video([Image.new("RGB", size, (20 * i,) * 3) for i in range(count)], fps, suffix)


def video_part(data: bytes, media: str = "video/mp4", **fields) -> dict:
    return {"type": "video_url", "video_url": {"url": data_url(data, media), **fields}}


@pytest.fixture(scope="module")
def server():
    with running(FakeBackend(), LIMITS) as one:
        yield one


def shown(server) -> list:
    return list(server.service.backend.jobs[-1].images)


def refused(server, *parts) -> tuple[str, str]:
    response = server.post(body(*parts, "What moved?"))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


@pytest.mark.parametrize(("suffix", "media"), [(".mp4", "video/mp4"), (".webm", "video/webm"), (".mp4", "image/png")])
def test_a_file_gives_the_frames_that_python_takes(server, suffix, media):
    """Whatever was declared, the bytes decide; the frames cross between processes unchanged."""
    data = clip(suffix=suffix)
    answer = server.post(body(video_part(data, media), "What moved?"))
    assert answer.status_code == 200, answer.text
    (video,) = shown(server)
    expected = load_video(data)
    assert isinstance(video, Video)
    assert (video.times, video.fps) == (expected.times, expected.fps)
    assert [frame.tobytes() for frame in video.frames] == [frame.tobytes() for frame in expected.frames]
    assert server.service.workers.started >= 1


def test_rate_and_number_of_frames_are_asked_for(server):
    server.post(body(video_part(clip(), fps=4, max_frames=3), "What moved?"))
    assert len(shown(server)[0].frames) == 3
    server.post(body(video_part(clip(), fps=4), "What moved?"))
    assert len(shown(server)[0].frames) == LIMITS.video_frames


def test_images_and_videos_stay_in_order(server):
    frames = [data_url(encoded_image(size=(40, 40))) for _ in range(3)]
    parts = [image_part(), {"type": "video", "video": frames, "fps": 1}, video_part(clip()), "What moved?"]
    assert server.post(body(*parts)).status_code == 200
    image, listed, file = shown(server)
    assert (image.size, listed.size, file.size) == ((60, 40), (40, 40), (64, 48))
    assert (listed.times, listed.fps) == ((0.0, 1.0, 2.0), 1)
    kinds = [part["type"] for part in server.service.backend.jobs[-1].messages[0]["content"]]
    assert kinds == ["image", "video", "video", "text"]


@pytest.mark.parametrize(
    ("make", "param", "said"),
    [
        (lambda: video_part(b"x" * 300), "video_url.url", "not a video in a format read here"),
        (lambda: video_part(encoded_image()), "video_url.url", "not a video in a format read here"),
        (lambda: video_part(clip()[:900]), "video_url.url", "truncated"),
        (lambda: video_part(clip(24, 2)), "video_url.url", "is 12.0 s long, more than 10 s"),
        (lambda: video_part(b"x" * 200_100), "video_url.url", "the video has more than 200000 bytes"),
        (lambda: video_part(clip(), max_frames=7), "video_url.url", "at most 6 of a video"),
        (lambda: video_part(clip(2, 2, (640, 480))), "video_url.url", "640 x 480 pixels, more than 100000"),
        (lambda: video_part(clip(8, 4, (240, 120)), fps=4), "video_url.url", "more pixels than are taken"),
        (lambda: {"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}, "video_url.url", "data URL"),
        (lambda: {"type": "video_url", "video_url": {"url": "/etc/passwd"}}, "video_url.url", "data URL"),
        (lambda: {"type": "video", "video": [data_url(encoded_image())] * 7}, "video", "at most 6"),
        (lambda: {"type": "video", "video": [data_url(b"x")]}, "video[0]", "neither PNG"),
        (
            lambda: {"type": "video", "video": [data_url(encoded_image(size=size)) for size in ((8, 8), (9, 8))]},
            "video",
            "have one size; these have 8 x 8, 9 x 8",
        ),
    ],
)
def test_what_is_refused_names_its_place(server, make, param, said):
    where, message = refused(server, make())
    assert where == f"messages[0].content[0].{param}"
    assert said in message


def test_a_decoder_past_its_deadline_costs_one_request():
    with running(FakeBackend(), Limits(grace_s=1)) as server:
        server.service.workers.deadline_s = 0.001
        _, message = refused(server, video_part(clip(40, 20, (640, 480)), fps=20))
        assert "took longer than 0.001 s" in message
        server.service.workers.deadline_s = 30
        assert server.post(body(video_part(clip()), "What moved?")).status_code == 200


def test_a_server_without_the_extra_says_so(server, monkeypatch):
    part, real = video_part(clip()), importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "av" else real(name, *rest))
    assert "look-again-vlm[video]" in refused(server, part)[1]


def test_vllm_refuses_videos_by_name():
    job = Job(messages=(), images=(make_clip("test", 0, 0).video(),), policy=None, sampling=Sampling())
    with pytest.raises(RefusedError, match="videos are answered in process alone"):
        VllmBackend.check(object.__new__(VllmBackend), job)


def test_the_official_client_gets_what_python_answers():
    """Over a real model: the same visual tokens, and the same words."""
    shipped = load_checkpoint(device="cpu")
    made = make_clip("test", 3, 1)
    data = encode_video(made.frames(), 2)
    sampling = Sampling(max_new_tokens=12)
    expected = LookAgain(shipped).ask([], made.prompt, video=data, sampling=sampling)
    assert expected.tokens["visual"] == 4 * 36
    with running(TransformersBackend(shipped, max_batch=2), Limits(grace_s=1), name="tiny") as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0, timeout=120)
        content = [video_part(data), {"type": "text", "text": made.prompt}]
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            max_tokens=12,
            extra_body={"look_again": {"content": "all"}},
        )
    assert answer.choices[0].message.content == expected.response
    assert answer.usage.model_dump()["look_again"]["visual_tokens"] == 4 * 36


def test_the_responses_api_takes_the_same_videos(server):
    """Would catch a part of the other interface that is dropped, or read at another rate."""
    parts = [video_part(clip(), fps=4, max_frames=3), {"type": "video", "video": FRAMES, "fps": 1}, "What moved?"]
    assert server.post(body(*parts)).status_code == 200
    expected = shown(server)
    url = parts[0]["video_url"]["url"]
    content = [
        {"type": "input_video", "video_url": url, "fps": 4, "max_frames": 3},
        {"type": "input_video", "video": FRAMES, "fps": 1},
        {"type": "input_text", "text": "What moved?"},
    ]
    request = {"model": "fake", "input": [{"role": "user", "content": content}]}
    answer = server.post(request, "/v1/responses")
    assert answer.status_code == 200, answer.text
    assert [describe(video) for video in shown(server)] == [describe(video) for video in expected]


FRAMES = [data_url(encoded_image(size=(40, 40))) for _ in range(3)]


def describe(video: Video) -> tuple:
    return video.times, video.fps, [frame.tobytes() for frame in video.frames]


@pytest.mark.parametrize(
    ("part", "param", "message"),
    [
        ({}, "input[0].content[0]", "has a video_url"),
        ({"video_url": "data:video/mp4;base64,AA==", "video": FRAMES}, "input[0].content[0]", "has a video_url"),
        ({"video": FRAMES, "max_frames": 2}, "input[0].content[0]", "max_frames belongs to video_url"),
        ({"video_url": "data:video/mp4;base64,AA=="}, "input[0].content[0].video_url", "not a video in a format"),
        ({"video_url": "https://a/b.mp4"}, "input[0].content[0].video_url", "videos are not fetched"),
        ({"video_url": "data:video/mp4;base64,AA==", "fps": 0}, "input[0].content[0].fps", "0.001"),
    ],
    ids=str,
)
def test_a_bad_video_of_the_responses_api_is_named(server, part, param, message):
    content = [{"type": "input_video", **part}]
    request = {"model": "fake", "input": [{"role": "user", "content": content}]}
    error = server.post(request, "/v1/responses").json()["error"]
    assert error["param"] == param
    assert message in error["message"]
