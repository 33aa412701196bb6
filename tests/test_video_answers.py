"""Videos through the Python API and the command line: patches in the library's layout, options that belong together."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

import look_again
from look_again.commands.main import main
from look_again.core.inputs import process_images
from look_again.images.video import Video
from look_again.loading import load_checkpoint
from look_again.tabletop.clips.clip_samples import write_clips
from look_again.tabletop.clips.moves import make_clip


@pytest.fixture(scope="module")
def check():
    return load_checkpoint(device="cpu")


def reference_patches(frames, processor: Qwen2VLImageProcessorPil, joined: int = 2) -> torch.Tensor:
    """Qwen's layout by hand: (T, C, 2 frames, merged rows and columns, ...) of normalised pixels."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    pixels = [torch.tensor(list(frame.tobytes())).view(*frame.size[::-1], 3).permute(2, 0, 1) / 255 for frame in frames]
    video = torch.stack([(one - mean) / std for one in pixels])  # (F, C, H, W)
    rows, columns = video.shape[2] // 14, video.shape[3] // 14
    view = video.view(-1, joined, 3, rows // 2, 2, 14, columns // 2, 2, 14)
    return view.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * joined * 14 * 14)


def test_patches_are_in_the_layout_of_the_librarys_video_processor(check):
    """Would catch frames in the wrong order within a patch, which towers would read as other pictures."""
    frames = make_clip("test", 1, 1).frames()[::2]  # four different ones
    inputs = process_images(check.image_processor, check.model.config, [Video(tuple(frames), (0, 1, 2, 3), 1)])
    expected = reference_patches(frames, check.image_processor)
    assert inputs.tensors["image_grid_thw"].tolist() == [[2, 12, 12]]
    assert (inputs.tensors["pixel_values"] - expected).abs().max() < 1e-5
    odd = process_images(check.image_processor, check.model.config, [Video(tuple(frames[:3]), (0, 1, 2), 1)])
    filled = reference_patches([*frames[:3], frames[2]], check.image_processor)
    assert (odd.tensors["pixel_values"] - filled).abs().max() < 1e-5


def test_a_video_beside_an_image_in_python(check):
    clip = make_clip("test", 1, 0)
    image = Image.new("RGB", (168, 168), "teal")
    sampling = look_again.Sampling(max_new_tokens=4)
    answer = look_again.LookAgain(check).ask(image, clip.prompt, video=clip.frames(), sampling=sampling)
    assert answer.tokens["visual"] == 36 + 4 * 36
    request = look_again.Request([clip.video()], "What moved?", control_images=[image])
    with pytest.raises(ValueError, match="a video has no control image"):
        look_again.LookAgain(check).ask_batch([request])


def test_a_user_turn_shows_a_video_again(check):
    """Its placeholders are video tokens in the turn as in the prompt."""
    request = look_again.Request([make_clip("test", 1, 0).video()], "What moved?", prefix="<CAPTION> x<REFLECTION>")
    sampling, policy = look_again.Sampling(max_new_tokens=60), look_again.Reattention(mode="user-turn-image")
    (answer,) = look_again.LookAgain(check).ask_batch([request], reattention=policy, sampling=sampling)
    assert answer.tokens["visual"] == 4 * 36
    assert answer.tokens["reinserted"] == 4 * 36
    image = check.family.vision_tokens(check.model.config).image
    assert ((answer.slots.token_ids == image) == (answer.slots.visual_indices >= 0)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fps", "2", "What moved?"], "--fps belongs to --video"),
        (["--max-frames", "2", "What moved?"], "--max-frames belongs to --video"),
        (["a.mp4", "What moved?"], "show it with --video a.mp4"),
        (["--video", "nowhere.mp4", "What moved?"], "no such file"),
        (["--video", __file__, "What moved?"], "not a video in a format read here"),
        (["--video", "CLIP", "--fps", "0", "What moved?"], "fps is a number"),
        (["--video", "CLIP", "--max-frames", "0", "What moved?"], "max_frames is at least 1"),
        (["--video", "CLIP", "--keep-frames", "What moved?"], "--keep-frames belongs to --reattention route"),
    ],
)
def test_bad_options_end_in_one_line(arguments, said, tmp_path, capsys):
    pytest.importorskip("av")
    list(write_clips(tmp_path, "test", 1, 1))
    path = str(tmp_path / "videos" / "clip-test-1-0.mp4")
    assert main(["ask", *[path if word == "CLIP" else word for word in arguments]]) == 2
    errors = capsys.readouterr().err.strip().splitlines()  # no note on a video that is not shown
    assert len(errors) == 1
    assert said in errors[0]
