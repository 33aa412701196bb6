"""A model that was taught to watch: fresh clips, `ask --video`, and the official client before the server."""

from __future__ import annotations

import base64
import json

import openai
import pytest

from look_again.commands.main import main
from look_again.serving.engine.transformers_backend import TransformersBackend
from look_again.serving.http.limits import Limits
from look_again.tabletop.clips.clip_samples import write_clips
from tests.serving.http.served import running

SEED, FIRST = 6, 12


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Clips of this stream with their MP4 files."""
    folder = tmp_path_factory.mktemp("clips")
    return [(clip, folder / "videos" / f"{clip.id}.mp4") for clip in write_clips(folder, "test", SEED, FIRST)]


def test_fresh_clips_are_followed(watcher, tmp_path):
    """Moves are named, and one object that moves is told from one or two others (chance: some 0.4)."""
    run = ["eval", "tabletop-clips", "--n", "90", "--seed", "5", "--model", watcher.checkpoint.name, "--trained"]
    assert main([*run, "--batch", "30", "--reattention", "copy", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "tabletop-clips" / "result.json").read_text())
    assert result["metrics"]["moves_named"] > 0.85
    assert result["metrics"]["named_moves_true"] > 0.85
    assert result["subsets"]["kind/which"]["accuracy"] > 0.7


def test_ask_and_the_official_client_see_the_same_clips(watcher, written, capsys):
    """Four scenes of 36 visual tokens at the look, and one answer for a file, by command or over HTTP."""
    right, asked = 0, []
    for clip, path in written:
        capsys.readouterr()
        run = ["ask", "--video", str(path), clip.prompt, "--model", watcher.checkpoint.name, "--reattention", "copy"]
        assert main([*run, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["tokens"]["reinserted"] == 4 * 36 * len(answer["reflections"]) > 0
        right += clip.scenes[0].caption in answer["response"]
        asked.append(answer["response"])
    assert right > 0.75 * FIRST
    with running(TransformersBackend(watcher.checkpoint, max_batch=2), Limits(grace_s=1), name="watcher") as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0, timeout=120)
        for (clip, path), expected in zip(written[:4], asked, strict=False):
            data = base64.b64encode(path.read_bytes()).decode()
            video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
            given = client.chat.completions.create(
                model="watcher",
                messages=[{"role": "user", "content": [video, {"type": "text", "text": clip.prompt}]}],
                temperature=0,
                max_tokens=300,
                extra_body={"look_again": {"reattention": "copy", "content": "all"}},
            )
            assert given.choices[0].message.content == expected
