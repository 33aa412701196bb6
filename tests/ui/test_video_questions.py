"""A video on the page: read, asked about, drawn as its frames one below the other, and measured over them."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from look_again.core.reattention import Reattention
from look_again.images import ImageError
from look_again.images.video import Video, join_frames
from look_again.images.video_writing import encode_video
from look_again.loading import load_checkpoint
from look_again.model import Sampling
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.ui.question import UserQuestion, draw_shown, read_question
from look_again.ui.snippets import snippets
from look_again.ui.workspace import FormFields, Workspace

pytest.importorskip("av")


@pytest.fixture
def clip(tmp_path) -> str:
    frames = [Image.new("RGB", (168, 168), (40 * place, 90, 90)) for place in range(4)]
    (tmp_path / "clip.mp4").write_bytes(encode_video(frames, 2.0, ".mp4"))
    return str(tmp_path / "clip.mp4")


def test_a_video_is_asked_about(clip):
    asked = read_question(None, "What moved?", 0, 0, 64, "window", clip)
    assert isinstance(asked.image, Video)
    job = asked.job(Reattention(mode="copy"))
    assert job.messages[0]["content"] == [{"type": "video"}, {"type": "text", "text": "What moved?"}]
    assert asked.size_bytes == 4 * 4 * 168 * 168


def test_what_is_no_video_is_refused_without_its_path(clip, tmp_path):
    with pytest.raises(ValueError, match="a picture and a video"):
        read_question(clip, "What moved?", 0, 0, 64, "", clip)
    (tmp_path / "x.mp4").write_bytes(b"no video at all")
    with pytest.raises(ImageError) as caught:
        read_question(None, "What moved?", 0, 0, 64, "", str(tmp_path / "x.mp4"))
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith("The video")


def test_its_frames_are_drawn_one_below_the_other():
    """Would catch heat that is drawn over another frame than the one that was looked at."""
    frames = [Image.new("RGB", (30, 20), (place * 60, 0, 0)) for place in range(4)]
    strip = draw_shown(join_frames(frames), (2, 1, 1))
    assert strip.size == (30, 40)
    assert [strip.getpixel((5, row))[0] for row in (5, 25)] == [0, 120]


def test_an_answer_about_a_video_is_measured(clip):
    """Through the shipped model: what is put back is the whole clip, and the heat lies over all of its frames."""

    async def go() -> None:
        backend = TransformersBackend(load_checkpoint(None, device="cpu"), max_batch=2)
        await backend.start()
        workspace = Workspace(backend, None)
        fields = FormFields(None, "What moved?", ["copy"], 50, 0, 0, 120, clip)
        modes = await workspace.begin("w", fields)
        html = ""
        async for changed in workspace.answers("w", modes, fields):
            html = changed["copy"]
        runs = workspace._runs("w")
        assert runs.grid == (1, 12, 6)  # two grid frames of 6 rows
        assert "la-refused" not in html
        key = runs.transcripts["copy"].key
        drawing = await workspace.attention_maps(key, None)
        assert drawing["grid"] == (12, 6)
        assert workspace.images.get(runs.image)[1] == (168, 336)
        await backend.close()

    asyncio.run(go())


def test_code_names_the_video():
    """Would catch code on the page that asks about a picture instead."""
    video = join_frames([Image.new("RGB", (28, 28))] * 2)
    code = snippets(UserQuestion(video, "What moved?", Sampling()), Reattention(mode="copy"), None)
    assert "video='video.mp4'" in code["python"]
    assert "    [],\n" in code["python"]
    assert '"video_url": {"url": f"data:video/mp4;base64,{image}"}' in code["openai"]
    assert "$(base64 < video.mp4" in code["curl"]
    assert all("picture.png" not in text for text in code.values())
    compile(code["python"], "python", "exec")
    compile(code["openai"], "openai", "exec")
